"""The text that `txl inspect` prints: the streams of a step, the worst first."""

from typing import Any

from trainer.outside import printable
from trainer.report.inspect.reading import Reading, StreamText
from trainer.track.tables import shown, text_table
from trainer.wording import counted

#: The most characters of a stream's text in a table; JSON has all of it.
_TEXT_CHARACTERS = 100


def told(reading: Reading, *, most: int) -> str:
    """Return lines for people about the `most` worst streams of a step."""
    place, streams = reading.place, reading.streams
    attempt = place.attempt
    head = (
        f"step {place.step:,} of attempt {attempt.number}: position {place.data_step:,} in the "
        f"text, epoch {reading.epoch:,}, {counted(len(streams), 'stream')} of "
        f"{reading.corpus.path}, train"
    )
    lines = [head]
    loss = attempt.losses.get(place.step)
    if place.step in attempt.losses:
        lines.append(f"recorded loss {shown(loss, '.4f') if loss is not None else 'not finite'}")
    if place.others:
        others = ", ".join(map(str, place.others))
        lines.append(f"attempt {others} did step {place.step:,}, too: --attempt shows it")
    if not reading.has_losses:
        lines.append("the losses of this step's streams were not filed: sorted by stream")
    rows = [("stream", "rank", "loss", "document", "offset", "position", "text")]
    for stream in streams[:most]:
        rows.append(
            (
                f"{stream.stream:,}",
                "-" if stream.rank is None else f"{stream.rank:,}",
                shown(stream.loss, ".4f"),
                _documents(stream),
                f"{stream.offset:,}",
                f"{stream.position:,}",
                printable(stream.text, most=_TEXT_CHARACTERS),
            )
        )
    lines.append(text_table(rows))
    if len(streams) > most:
        lines.append(f"and {len(streams) - most:,} more: --streams {len(streams)}, or --json")
    return "\n".join(lines)


def _documents(stream: StreamText) -> str:
    """Return the first document that was read, and how many passages of text came after its own."""
    more = len(stream.passages) - 1
    return f"{stream.document:,} +{more:,}" if more else f"{stream.document:,}"


def to_json(reading: Reading) -> dict[str, Any]:
    """Return all of a step's streams as JSON values."""
    place = reading.place
    return {
        "step": place.step,
        "attempt": place.attempt.number,
        "other_attempts": place.others,
        "data_step": place.data_step,
        "epoch": reading.epoch,
        "corpus": str(reading.corpus.path),
        "recorded_loss": place.attempt.losses.get(place.step),
        "streams": [stream.to_json() for stream in reading.streams],
    }
