"""A snapshot as lines: in colour for a terminal of any width, or one line for a log."""

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.text import Text

from trainer.report.history import History
from trainer.report.watch.canvas import dots, stars
from trainer.report.watch.snapshot import Snapshot
from trainer.track.perplexity import shown_perplexity
from trainer.wording import human_count, human_seconds, printable, printable_lines

#: Lines of a curve at most, and of all that stands around it.
_CURVE_LINES, _OTHER_LINES = 10, 8
_LABEL = 8
#: Events that someone should look at.
_BAD = ("skip", "spike", "nonfinite", "rollback", "checkpoint_failed", "untracked")


def screen(shot: Snapshot, history: History, *, width: int, height: int, unicode: bool) -> Text:
    """Return the lines that a terminal of `width` × `height` characters shows."""
    lines = [*_fitting(_head(shot), width), _bar(shot, width, unicode)]
    lines += [Text(line) for cells in _numbers(shot) for line in _filled(cells, width)]
    lines.append(_heartbeat(shot))
    free = max(0, height - len(lines) - 2)
    curve = _curve(history, width, min(_CURVE_LINES, free - _OTHER_LINES), unicode)
    lines += curve
    free = max(0, height - len(lines) - 2)
    events = _events(shot, width, free // 2) if free > 2 else []
    if events:
        lines += [Text("events", "bold"), *events]
    lines += _sample(shot, width, max(0, height - len(lines) - 2))
    for line in lines:
        line.truncate(width, overflow="ellipsis" if unicode else "crop")
    return Text("\n").join(lines)


def plain_line(shot: Snapshot) -> str:
    """Return the snapshot in one line, for a log or a pipe."""
    cells = [f"{shot.run}: {shot.state.partition(', eta')[0]}", f"step {_step(shot)}"]
    cells += [cell for line in _numbers(shot) for cell in line]
    if shot.eta_s is not None:
        cells.append(f"eta {human_seconds(shot.eta_s)}")
    cells.append(_heartbeat(shot).plain)
    return " | ".join(cells)


def _step(shot: Snapshot) -> str:
    return f"{shot.step:,}" + ("" if shot.last_step is None else f"/{shot.last_step:,}")


def _head(shot: Snapshot) -> Text:
    head = Text(shot.run, "bold")
    colour = "green" if shot.is_alive or shot.state == "done" else "red"
    head.append("  ")
    head.append(printable(shot.state.partition(", eta")[0], most=120), colour)
    head.append(f"  step {_step(shot)}")
    if shot.eta_s is not None:
        head.append(f"  eta {human_seconds(shot.eta_s)}")
    if shot.reason:
        head.append(f"  {shot.reason}", "red")
    return head


def _fitting(line: Text, width: int) -> list[Text]:
    """Return a line as one or two lines of `width`."""
    return [line] if line.cell_len <= width else list(line.wrap(Console(width=width), width))[:2]


def _bar(shot: Snapshot, width: int, unicode: bool) -> Text:
    if not shot.last_step:
        return Text("")
    part = min(1.0, shot.step / shot.last_step)
    percent = f" {100 * part:.1f} %"
    room = max(1, width - len(percent))
    n_full = int(part * room)
    full, empty = ("━", "╌") if unicode else ("=", "-")
    return Text.assemble((full * n_full, "green"), (empty * (room - n_full), "dim"), percent)


def _filled(cells: Sequence[str], width: int) -> list[str]:
    """Return lines of `width` with as many of the cells in each as fit."""
    lines: list[str] = []
    for cell in cells:
        if lines and len(lines[-1]) + len(cell) + 3 <= width:
            lines[-1] += f" | {cell}"
        else:
            lines.append(cell)
    return lines


def _numbers(shot: Snapshot) -> list[list[str]]:
    """Return the numbers of the last record, and of the last validation."""
    now = []
    if shot.loss is not None:
        now.append(f"loss {shot.loss:.4f}")
        now.append(f"ppl {shown_perplexity(shot.ppl or 0.0)}")
    if shot.lr is not None:
        now.append(f"lr {shot.lr:.2e}")
    if shot.grad_norm is not None:
        now.append(f"grad_norm {shot.grad_norm:.2f}")
    if shot.tokens_per_s is not None:
        now.append(f"{human_count(shot.tokens_per_s)} tok/s")
    if shot.mfu is not None:
        now.append(f"mfu {shot.mfu:.1%}")
    if shot.memory_gib is not None:
        now.append(f"mem {shot.memory_gib:.1f} GiB")
    lines = [now]
    if shot.valid_loss is not None:
        ppl = shown_perplexity(shot.valid_ppl or 0.0)
        valid = [f"valid {shot.valid_loss:.4f}, ppl {ppl} at step {shot.valid_step:,}"]
        if shot.best_loss is not None and shot.best_step != shot.valid_step:
            valid.append(f"best {shot.best_loss:.4f} at step {shot.best_step:,}")
        lines.append(valid)
    return lines


def _heartbeat(shot: Snapshot) -> Text:
    if shot.heartbeat_age_s is None:
        return Text("no heartbeat: the run has no status.json", "yellow")
    age = human_seconds(shot.heartbeat_age_s)
    if shot.missing_s is not None:
        return Text(f"no heartbeat for {age} ({shot.where})", "bold red")
    return Text(f"heartbeat {age} ago ({shot.where}), attempt {shot.attempt:,}", "dim")


def _curve(history: History, width: int, height: int, unicode: bool) -> list[Text]:
    """Return the curve of the training loss between its labels; nothing where it has no room."""
    places, losses = history.train.metric("train/loss")
    room = width - _LABEL - 1
    if height < 2 or room < 8 or len(losses) < 2:
        return []
    usual = np.minimum(losses, max(float(losses[0]), float(np.quantile(losses, 0.99))))
    steps = history.train.step[places].astype(np.float64)
    if unicode:
        drawn = dots(steps, usual, width=room, height=height)
    else:
        drawn = stars(usual.tolist(), width=room, height=height)
    labels = [f"{usual.max():.3f}", *[""] * (height - 2), f"{usual.min():.3f}"]
    lines = [
        Text.assemble((label.rjust(_LABEL) + " ", "dim"), (line, "cyan"))
        for label, line in zip(labels, drawn, strict=True)
    ]
    first, last = f"{steps[0]:,.0f}", f"step {steps[-1]:,.0f}"
    below = first + last.rjust(max(0, room - len(first)))
    return [Text("training loss", "bold"), *lines, Text(" " * (_LABEL + 1) + below, "dim")]


def _events(shot: Snapshot, width: int, height: int) -> list[Text]:
    """Return the sentences of the last events, of at least one, each in at most two lines."""
    lines: list[Text] = []
    for _, name, said in reversed(shot.events):
        more = _fitting(Text(said, "red" if name in _BAD else ""), width)
        if lines and len(lines) + len(more) > height:
            break
        lines = [*more, *lines]
    return lines


def _sample(shot: Snapshot, width: int, height: int) -> list[Text]:
    if shot.sample is None or height < 2:
        return []
    text = printable_lines(shot.sample).replace("\t", " ")
    parts = [part.strip() for part in text.splitlines()]
    lines = [part[i : i + width] for part in parts for i in range(0, len(part), width)]
    head = Text(f"sample at step {shot.sample_step:,}", "bold")
    return [head, *(Text(line) for line in lines[: min(height - 1, 6)])]
