"""The loss by position: windows of a text, each read from empty memory, and means of growing bins.

A token's position is the number of tokens that were read before it since memory was empty. The bins
double: 1, 2–3, 4–7, 8–15 and so on. Where memory ends at documents, windows lie inside documents.
The last window of a text, or of a document, may be shorter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Split
from trainer.data.guard import StoredIds
from trainer.distributed import World, sum_floats
from trainer.inference.texts.scored import Reader, token_nats
from trainer.track.run_files.by_position import ByPosition, PositionBin


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of a split; they are a `trainer.inference.texts.scored.Texts`."""

    split: Split
    bounds: npt.NDArray[np.int64]
    """The position of each window's first token, and the number of all tokens."""

    @property
    def document_starts(self) -> npt.NDArray[np.int64]:
        """Return the positions at which documents start."""
        return self.split.document_starts

    def take(self, places: npt.NDArray[np.int64]) -> StoredIds:
        """Return the ids at some places, in their shape."""
        return self.split.take(places)


def windows_of(split: Split, *, n_tokens: int | None, inside_documents: bool) -> Windows:
    """Return the windows of a split.

    Args:
        split: the text.
        n_tokens: tokens of a whole window; None is a window for each whole document, or text.
        inside_documents: whether windows lie inside documents.
    """
    begins = split.document_starts if inside_documents else np.zeros(1, np.int64)
    borders = np.append(begins, split.n_tokens)
    parts = [
        np.arange(low, high, n_tokens or max(1, high - low), dtype=np.int64)
        for low, high in pairwise(borders.tolist())
    ]
    return Windows(split, np.append(np.concatenate(parts), split.n_tokens))


def loss_by_position(
    reader: Reader,
    split: Split,
    *,
    scoring: ScoringConfig,
    n_tokens: int | None,
    world: World,
    on_share: Callable[[float], None] = lambda share: None,
) -> ByPosition:
    """Return the loss by position. Collective; the same at any batch size and number of ranks.

    Every token of a window but its first is scored, once.

    Args:
        reader: the model.
        split: the text.
        scoring: the lengths with which windows are read.
        n_tokens: tokens of a whole window; None is a window for each whole document, or text.
        world: this process among its peers.
        on_share: called now and then with the share of all tokens that were scored since.

    Raises:
        InputError: the model does not tell the nats of single tokens.
    """
    inside = reader.experiment.data.memory_reset == "document"
    windows = windows_of(split, n_tokens=n_tokens, inside_documents=inside)
    n_scored = split.n_tokens - (len(windows.bounds) - 1)
    n_bins = int(np.diff(windows.bounds).max()).bit_length()
    sums, counts = np.zeros(n_bins), np.zeros(n_bins)
    ranks = {"rank": world.rank, "n_ranks": world.world_size}
    for begin, nats in token_nats(reader, windows, scoring=scoring, **ranks):
        window = np.searchsorted(windows.bounds, begin, side="right") - 1
        positions = begin - windows.bounds[window] + np.arange(len(nats))
        bins = np.frexp(positions.astype(np.float64))[1] - 1  # the logarithm, rounded down
        sums += np.bincount(bins, weights=nats.astype(np.float64), minlength=n_bins)
        counts += np.bincount(bins, minlength=n_bins)
        on_share(world.world_size * len(nats) / max(1, n_scored))
    every = sum_floats([*sums, *counts], world)
    longest = int(np.diff(windows.bounds).max()) - 1
    return ByPosition(
        window_tokens=n_tokens,
        n_windows=len(windows.bounds) - 1,
        bins=[
            PositionBin(
                low=1 << number,
                high=min((2 << number) - 1, longest),
                n_tokens=int(count),
                loss=total / count,
            )
            for number, (total, count) in enumerate(
                zip(every[:n_bins], every[n_bins:], strict=True)
            )
            if count
        ],
    )
