"""The gain by memory: the same text scored with and without it, by files of single tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.errors import InputError
from trainer.report.compare.bootstrap import Interval, interval
from trainer.report.summary import ReadRun
from trainer.track.run_files.results import EvalResult
from trainer.track.run_files.token_files import Tokens, read_tokens

Floats = npt.NDArray[np.float64]

#: A bin of fewer tokens says little, and joins the next one.
LEAST_TOKENS = 64
#: The most tokens of a split that are read: the first ones.
MOST_TOKENS = 4_000_000


class Bin(NamedTuple):
    """The tokens whose place or frequency lies in a range."""

    low: int
    high: int
    """The greatest value that is inside."""
    n_tokens: int
    losses: tuple[float, ...]
    """Mean nats for each length of memory."""

    @property
    def gain(self) -> float:
        """Return the nats per token that the longest memory bought."""
        return self.losses[0] - self.losses[-1]


@dataclass(frozen=True, kw_only=True)
class LengthResult:
    """The loss with one length of memory."""

    mem_len: int
    loss: float
    ppl: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Bought:
    """The gain by memory on one text, as far as single tokens were filed for several lengths."""

    result: EvalResult
    """The one with the longest memory."""
    mem_lens: tuple[int, ...]
    """Ascending; the first is 0."""
    tokens: Tokens
    """The tokens as read with the longest memory."""
    nats: tuple[Floats, ...]
    """For each length the nats of each token."""
    gain: Interval
    """Nats per token that the longest memory bought."""
    by_distance: list[Bin]
    """By tokens read since memory was empty."""
    by_frequency: list[Bin]
    """By how often the token stands in the train split; empty where that is not known."""
    n_left_out: int
    """Tokens of the split that were not read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryOfRun:
    """All that a run's evaluations tell of its memory."""

    text: str | None = None
    """The text that was evaluated with several lengths."""
    lengths: tuple[LengthResult, ...] = ()
    bought: Bought | None = None
    notes: tuple[str, ...] = ()
    """Files of tokens that could not be read, and why."""


def memory_of(run: ReadRun) -> MemoryOfRun:
    """Return what the evaluations of a run's newest checkpoint tell of its memory.

    Of several texts or manners of reading the one with the most lengths of memory counts.
    """
    groups: dict[tuple[object, ...], dict[int, EvalResult]] = {}
    for result in sorted(run.summary.evals, key=lambda r: r.date or ""):
        is_plain = result.method is None
        if is_plain and result.loss is not None and result.settings.mem_len is not None:
            groups.setdefault(_manner(result), {})[result.settings.mem_len] = result
    several = [group for group in groups.values() if len(group) > 1]
    if not several:
        return MemoryOfRun()
    notes: list[str] = []
    filed = [_filed(run, group, notes) for group in several]
    best = max(
        zip(several, filed, strict=True),
        key=lambda both: (len(both[1]), _step(both[0]), len(both[0])),
    )
    group, tokens = best
    lengths = tuple(
        LengthResult(mem_len=mem_len, loss=result.loss or 0.0, ppl=result.ppl)
        for mem_len, result in sorted(group.items())
    )
    return MemoryOfRun(
        text=next(iter(group.values())).source,
        lengths=lengths,
        bought=_bought(group, tokens, notes),
        notes=tuple(notes),
    )


def _manner(result: EvalResult) -> tuple[object, ...]:
    """Return all that is to be equal but the length of memory.

    `same_length` is not, since without memory it means nothing.
    """
    lengths = result.settings
    hashes = tuple(sorted((result.checkpoint_hash or {}).items()))
    how = (lengths.tgt_len, lengths.clamp_len, lengths.warm, result.precision, result.rule)
    return result.split, result.split_hash, result.checkpoint, result.step, hashes, how


def _step(group: Mapping[int, EvalResult]) -> int:
    return max(result.step or 0 for result in group.values())


def _filed(run: ReadRun, group: Mapping[int, EvalResult], notes: list[str]) -> dict[int, Tokens]:
    filed: dict[int, Tokens] = {}
    for mem_len, result in sorted(group.items()):
        try:
            tokens = read_tokens(run.path, result)
        except InputError as error:
            notes.append(str(error))
            continue
        if tokens is not None:
            filed[mem_len] = tokens
    return filed


def _bought(
    group: Mapping[int, EvalResult], filed: Mapping[int, Tokens], notes: list[str]
) -> Bought | None:
    """Return what memory bought per token; None without evaluations to compare."""
    if 0 not in filed or len(filed) < 2:
        return None
    mem_lens = tuple(sorted(filed))
    first, longest = filed[0], filed[mem_lens[-1]]
    for mem_len in mem_lens[1:]:
        if not np.array_equal(first["position"], filed[mem_len]["position"]):
            notes.append("evaluations with and without memory scored other tokens: not compared")
            return None
    part = slice(MOST_TOKENS)
    nats = tuple(filed[mem_len]["nats"][part].astype(np.float64) for mem_len in mem_lens)
    tokens = longest[part]
    counts = tokens["train_count"]
    known = np.flatnonzero(counts >= 0)
    return Bought(
        result=group[mem_lens[-1]],
        mem_lens=mem_lens,
        tokens=tokens,
        nats=nats,
        gain=interval(nats[0] - nats[-1]),
        by_distance=_bins(tokens["since_empty"], nats, bounds_of=_doubling),
        by_frequency=_bins(counts[known], [part[known] for part in nats], bounds_of=_decades),
        n_left_out=len(longest) - len(tokens),
    )


def _doubling(greatest: int) -> list[int]:
    return [1 << power for power in range(greatest.bit_length() + 1)]


def _decades(greatest: int) -> list[int]:
    return [0, *(10**power for power in range(len(str(max(1, greatest))) + 1))]


def _bins(
    values: npt.NDArray[np.int64],
    nats: Sequence[Floats],
    *,
    bounds_of: Callable[[int], list[int]],
) -> list[Bin]:
    """Return the mean nats in bins of values; bins of few tokens are joined with the next."""
    if not len(values):
        return []
    bounds = bounds_of(int(values.max()))
    place = np.searchsorted(bounds, values, side="right") - 1
    n_of = np.bincount(place, minlength=len(bounds))
    sums = [np.bincount(place, weights=part, minlength=len(bounds)) for part in nats]
    bins: list[Bin] = []
    begin, n_tokens, totals = 0, 0, [0.0] * len(nats)
    for number in range(len(bounds) - 1):
        n_tokens += int(n_of[number])
        totals = [total + float(part[number]) for total, part in zip(totals, sums, strict=True)]
        is_last = not n_of[number + 1 :].any()
        if n_tokens >= LEAST_TOKENS or (is_last and n_tokens):
            losses = tuple(total / n_tokens for total in totals)
            bins.append(Bin(bounds[begin], bounds[number + 1] - 1, n_tokens, losses))
            begin, n_tokens, totals = number + 1, 0, [0.0] * len(nats)
        if is_last:
            break
    return bins
