"""The page's part about memory: pictures, a table, and a coloured passage."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import InputError
from trainer.report.memory import Bin, Bought, MemoryOfRun, memory_of
from trainer.report.page.svg import COLOURS, SERIES, Picture, draw
from trainer.report.passage import Passage, Word, passage
from trainer.report.positions import Curve, curves_of
from trainer.report.settings import read_settings
from trainer.report.summary import ReadRun
from trainer.shell import command
from trainer.track.perplexity import shown_perplexity
from trainer.wording import human_count

SIZE = (350, 210)
#: Shades of a word, from hardly any to strong.
N_SHADES = 5


@dataclass(frozen=True, kw_only=True)
class ShadedWord:
    """A word of the passage with the class of its colour."""

    text: str
    after: str
    shade: str
    about: str


@dataclass(kw_only=True)
class MemoryView:
    """The part of the page about memory."""

    sentence: str
    pictures: list[Picture] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    """Colour and name of each length of memory."""
    table: list[list[str]] = field(default_factory=list)
    words: list[ShadedWord] = field(default_factory=list)
    passage_about: str = ""
    command: str | None = None
    """The commands to run for the parts that are missing."""


def memory_view(run: ReadRun, *, anchor: str, draws: bool, notes: list[str]) -> MemoryView:
    """Return the view of a run's memory; what cannot be read is added to `notes`."""
    found = memory_of(run)
    notes.extend(found.notes)
    seen = MemoryView(sentence=_sentence(found))
    if draws and len(found.lengths) > 1:
        seen.pictures.append(_by_length(found, name=f"{anchor}-m0"))
    if draws and (curves := curves_of(run)):
        seen.pictures.append(_by_position(curves, name=f"{anchor}-m3"))
    if found.bought is None:
        seen.command = eval_command(run)
        return seen
    bought = found.bought
    seen.legend = [
        (colour, f"mem_len {mem_len:,}")
        for mem_len, colour in zip(bought.mem_lens, SERIES, strict=False)
    ]
    if draws:
        seen.pictures.append(_by_distance(bought, name=f"{anchor}-m1"))
        if bought.by_frequency:
            seen.pictures.append(_by_frequency(bought, name=f"{anchor}-m2"))
    seen.table = _table(bought)
    try:
        chosen = passage(run.path, bought)
    except InputError as error:
        notes.append(f"no passage: {error}")
        return seen
    seen.words = [_shaded(word, strong=chosen.strong) for word in chosen.words]
    seen.passage_about = _about(chosen, bought)
    return seen


def eval_command(run: ReadRun) -> str:
    """Return the command that files what this part of the page is made of."""
    mem_len = 0
    with contextlib.suppress(InputError, ValueError):
        mem_len = int(read_settings(run.path).get("eval.mem_len", "0"))
    lengths = sorted({0, mem_len // 4, mem_len}) if mem_len else [0, 64, 128]
    words = ["txl", "eval", str(run.path), "--mem-len", ",".join(map(str, lengths))]
    return command(*words, "--per-token")


def _sentence(found: MemoryOfRun) -> str:
    """Return in words what memory bought."""
    if found.bought is None:
        if len(found.lengths) < 2:
            return "The run was not evaluated with several lengths of memory."
        first, last = found.lengths[0], found.lengths[-1]
        return (
            f"On {found.text} the loss is {first.loss:.4f} nats per token with mem_len "
            f"{first.mem_len:,} and {last.loss:.4f} with {last.mem_len:,}."
        )
    bought, gain = found.bought, found.bought.gain
    did = "buys" if gain.mean >= 0 else "costs"
    low, high = sorted((abs(gain.low), abs(gain.high)))
    known = {length.mem_len: length.ppl for length in found.lengths}
    ppl = [known.get(bought.mem_lens[-1]), known.get(0)]
    told = [shown_perplexity(value) for value in ppl if value is not None]
    instead = f": {told[0]} ppl instead of {told[1]}" if len(told) == 2 else ""
    sure = gain.low > 0 or gain.high < 0
    span = f"95 % interval {low:.4f} to {high:.4f}" if sure else "which may be chance"
    return (
        f"Memory of {bought.mem_lens[-1]:,} tokens {did} {abs(gain.mean):.4f} nats per token "
        f"({span}) on {bought.result.source}{instead}."
    )


def _by_length(found: MemoryOfRun, *, name: str) -> Picture:
    lengths = [float(length.mem_len) for length in found.lengths]
    losses = [length.loss for length in found.lengths]

    def fill(axes: Any) -> None:
        axes.plot(lengths, losses, "o-", color=COLOURS["c8"], markersize=4)
        axes.set_xticks(lengths, [human_count(length) for length in lengths])
        axes.set_xlabel("mem_len")
        axes.set_ylabel("nats per token")

    title = "Loss against the length of memory"
    about = "; ".join(f"mem_len {ln.mem_len:,}: {ln.loss:.4f}" for ln in found.lengths)
    svg = draw(fill, name=name, size=SIZE, title=title, about=about)
    return Picture(title=title, about=about, wide=svg)


def _by_position(curves: list[Curve], *, name: str) -> Picture:
    def fill(axes: Any) -> None:
        for curve, colour in zip(curves[-len(SERIES) :], SERIES, strict=False):
            axes.plot(
                curve.places,
                curve.losses,
                "o-",
                color=COLOURS[colour],
                markersize=3,
                label=curve.label,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, place: human_count(value))
        axes.set_xlabel("tokens read since memory was empty")
        axes.set_ylabel("nats per token")
        axes.legend(frameon=False, labelcolor=COLOURS["ink"])

    title = "Loss by position, in windows read from empty memory"
    about = "; ".join(
        f"{curve.label}: {curve.losses[0]:.4f} at first, {curve.losses[-1]:.4f} at the end"
        for curve in curves
    )
    svg = draw(fill, name=name, size=SIZE, title=title, about=about)
    return Picture(title=title, about=about, wide=svg)


def _by_distance(bought: Bought, *, name: str) -> Picture:
    places = [(part.low * part.high) ** 0.5 for part in bought.by_distance]

    def fill(axes: Any) -> None:
        for number, colour in zip(range(len(bought.mem_lens)), SERIES, strict=False):
            losses = [part.losses[number] for part in bought.by_distance]
            axes.plot(places, losses, "o-", color=COLOURS[colour], markersize=3)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, place: human_count(value))
        axes.set_xlabel("tokens since memory was empty")
        axes.set_ylabel("nats per token")

    title = "Loss against tokens since memory was empty"
    first, last = bought.by_distance[0], bought.by_distance[-1]
    about = f"memory buys {first.gain:.4f} nats per token at first and {last.gain:.4f} at the end"
    svg = draw(fill, name=name, size=SIZE, title=title, about=about)
    return Picture(title=title, about=about, wide=svg)


def _by_frequency(bought: Bought, *, name: str) -> Picture:
    names = [_range(part) for part in bought.by_frequency]
    gains = [part.gain for part in bought.by_frequency]

    def fill(axes: Any) -> None:
        colours = [COLOURS["c1" if gain >= 0 else "c2"] for gain in gains]
        axes.bar(range(len(gains)), gains, color=colours, width=0.65)
        axes.axhline(0, color=COLOURS["quiet"], linewidth=0.8)
        axes.set_xticks(range(len(names)), [name.replace("–", "–\n") for name in names])
        axes.grid(False, axis="x")
        axes.set_xlabel("times the token stands in the train split")
        axes.set_ylabel("nats bought per token")

    title = "What memory buys by the frequency of words"
    most = max(bought.by_frequency, key=lambda part: part.gain)
    about = f"most, {most.gain:.4f} nats per token, at tokens that stand there {_range(most)} times"
    svg = draw(fill, name=name, size=SIZE, title=title, about=about)
    return Picture(title=title, about=about, wide=svg)


def _range(part: Bin) -> str:
    low, high = human_count(part.low), human_count(part.high + 1)
    return f"{part.low}" if part.low == part.high else f"{low}–{high}"


def _table(bought: Bought) -> list[list[str]]:
    """Return what memory bought by frequency, in numbers; the first row holds the heads."""
    if not bought.by_frequency:
        return []
    n = sum(part.n_tokens for part in bought.by_frequency)
    whole = sum(part.gain * part.n_tokens for part in bought.by_frequency)
    losses = [f"loss, mem_len {mem_len:,}" for mem_len in bought.mem_lens]
    rows = [["times in train", "tokens", "of all", *losses, "bought", "of all that is bought"]]
    for part in bought.by_frequency:
        share = part.gain * part.n_tokens / whole if whole else 0.0
        rows.append(
            [
                _range(part),
                f"{part.n_tokens:,}",
                f"{part.n_tokens / n:.1%}",
                *(f"{loss:.4f}" for loss in part.losses),
                f"{part.gain:.4f}",
                f"{share:.1%}",
            ]
        )
    return rows


def _shaded(word: Word, *, strong: float) -> ShadedWord:
    part = 0.0 if strong <= 0 else min(1.0, abs(word.gain) / strong)
    shade = round(part * N_SHADES)
    kind = f"{'helped' if word.gain > 0 else 'hurt'}{shade}" if shade else ""
    about = f"{word.without:.2f} nats without memory, {word.without - word.gain:.2f} with"
    return ShadedWord(text=word.text, after=word.after, shade=kind, about=about)


def _about(chosen: Passage, bought: Bought) -> str:
    total = sum(word.gain for word in chosen.words)
    return (
        f"The {len(chosen.words):,} words from token {chosen.begin:,} on, the stretch in which "
        f"memory of {bought.mem_lens[-1]:,} tokens buys the most: {total:.0f} nats. A full shade "
        f"is {chosen.strong:.1f} nats."
    )
