"""Draws the pages' pictures: how streams are read, how far memory reaches and what it gains, speed.

    .venv/bin/python tests/benchmarks/pictures.py --memory runs/quickstart --none runs/no-memory

The curves are those of two real runs of the quick start, the second with `--train.mem-len 0
--valid.mem-len 0`; the speeds are those of the table in README.md beside this file. Each picture is
an SVG of 480 units that a phone shows whole, and follows the reader's light or dark theme.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from trainer import read_metrics  # noqa: E402

WIDTH = 480
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 11px; fill: #57606a }
.line { stroke: #8c959f; stroke-width: 1; fill: none }
.ours { fill: #0969da } .peer { fill: #afb8c1 } .memory { fill: #ddf4ff; stroke: #54aeff }
.segment { fill: #0969da } .later { fill: none; stroke: #8c959f; stroke-dasharray: 3 3 }
.curve { fill: none; stroke-width: 2 } .with { stroke: #0969da } .without { stroke: #bc4c00 }
.dot.with { fill: #0969da } .dot.without { fill: #bc4c00 } .on { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .small { fill: #9198a1 } .ours, .segment { fill: #4493f8 }
  .peer { fill: #656c76 } .memory { fill: #0c2d6b; stroke: #388bfd }
  .with { stroke: #4493f8 } .without { stroke: #f0883e } .on { fill: #0d1117 }
  .dot.with { fill: #4493f8 } .dot.without { fill: #f0883e }
}
"""


def picture(height: float, about: str, parts: Iterable[str]) -> str:
    """Return an SVG of these parts, with a sentence for readers who do not see it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">'
    lines = [head, f"<title>{escape(about)}</title>", f"<style>{STYLE}</style>", *parts, "</svg>"]
    return "\n".join(lines) + "\n"


def text(x: float, y: float, words: str, *, kind: str = "", anchor: str = "start") -> str:
    """Return words that begin, end or are centred at a place."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Return a rectangle."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="2" class="{kind}"/>'


def line(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return a line through points."""
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{where}" class="{kind}"/>'


def streams() -> str:
    """Draw four streams of two ranks: memory behind the segment of a step, and text to come."""
    parts = [
        text(116, 16, "memory: mem_len", kind="small"),
        text(268, 16, "segment: tgt_len", kind="small"),
        text(374, 16, "text to come", kind="small"),
    ]
    for row in range(4):
        y = 26 + 32 * row + 10 * (row // 2)
        if row % 2 == 0:
            parts.append(text(0, y + 34, f"rank {row // 2}"))
        parts.append(text(108, y + 16, f"stream {row}", kind="small", anchor="end"))
        parts += [box(116 + 37 * i, y, 35, 22, "memory") for i in range(4)]
        parts.append(box(268, y, 98, 22, "segment"))
        parts += [box(374 + 35 * i, y, 33, 22, "later") for i in range(3)]
    parts.append(text(317, 41, "this step", kind="on", anchor="middle"))
    parts.append(text(0, 184, "Then the segment is the newest memory, and the next one is read."))
    return picture(
        194, "Streams are read segment by segment, with the memory of what came before", parts
    )


def reach() -> str:
    """Draw what a token sees through three layers, each with a memory of three tokens."""
    mem_len, n_columns = 3, 13
    parts = []
    for row, name in enumerate(("layer 3", "layer 2", "layer 1", "words")):
        y = 8 + 34 * row
        parts.append(text(62, y + 16, name, kind="small", anchor="end"))
        for column in range(n_columns):
            back = n_columns - 1 - column
            kind = "later" if back > mem_len * row else "memory" if back else "segment"
            parts.append(box(70 + 31 * column, y, 28, 22, kind))
    left, right = 70 + 31 * 3, 70 + 31 * (n_columns - 1) - 3
    parts.append(line([(left, 146), (left, 152), (right, 152), (right, 146)], "line"))
    parts.append(text((left + right) / 2, 170, "n_layer × mem_len tokens back", anchor="middle"))
    return picture(178, "A token sees mem_len tokens farther back with every layer", parts)


def curves(with_memory: Path, without: Path) -> str:
    """Draw losses of two runs by step: of training as lines, of validation as dots."""
    left, top, width, height = 26.0, 12.0, 310.0, 190.0
    runs = {"with": with_memory, "without": without}
    trained = {kind: read_metrics(run, kind="train") for kind, run in runs.items()}
    judged = {kind: read_metrics(run, kind="valid") for kind, run in runs.items()}
    last = max(record["step"] for record in trained["with"])
    low, high = 3.2, 8.0

    def at(step: float, loss: float) -> tuple[float, float]:
        share = (min(max(loss, low), high) - low) / (high - low)
        return left + width * step / last, top + height * (1 - share)

    parts = [line([(left, top), (left, top + height), (left + width, top + height)], "line")]
    for loss in (4, 5, 6, 7, 8):
        parts.append(text(left - 6, at(0, loss)[1] + 4, str(loss), kind="small", anchor="end"))
    for step in (0, last // 2, last):
        x, y = at(step, low)
        parts.append(text(x, y + 16, f"{step:,}", kind="small", anchor="middle"))
    parts.append(text(left + width + 22, top + height + 16, "steps", kind="small"))
    parts.append(text(left + 60, top + 8, "nats per token, training", kind="small"))
    parts.append(text(left + 60, top + 24, "dots: the valid split", kind="small"))
    for kind, words in (("without", "no memory"), ("with", "memory of 96 tokens")):
        points = [at(record["step"], record["train/loss"]) for record in trained[kind]]
        parts.append(line(points, f"curve {kind}"))
        dots = [(record["step"], record["valid/loss"]) for record in judged[kind]]
        for dot in dots:
            x, y = at(*dot)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="dot {kind}"/>')
        x, y = at(*dots[-1])
        shift = -8 if kind == "without" else 16
        parts.append(text(x + 8, y + shift, f"{dots[-1][1]:.2f}"))
        parts.append(text(x + 8, y + shift + 13, words, kind="small"))
    return picture(
        232, "Losses of the quick start with and without memory; dots are of the valid split", parts
    )


ROW = re.compile(r"^\| `([\w/-]+)` \| (fp32|bf16 autocast) \| ([\d.]+) \(", re.M)


def speeds(table: str) -> str:
    """Draw our speed in times that of Hugging Face's model, by configuration and precision."""
    rows = ROW.findall(table)
    assert rows, "the table of speeds has another form"
    unit, left, height = 62.0, 170.0, 26.0
    parts = [
        box(left, 6, unit, len(rows) * height + 2, "peer"),
        text(left + unit / 2, len(rows) * height + 24, "1 = the peer", kind="small",
             anchor="middle"),
    ]  # fmt: skip
    for i, (name, precision, times) in enumerate(rows):
        y = 9 + height * i
        parts.append(text(left - 8, y + 14, f"{name}, {precision.split()[0]}", anchor="end"))
        parts.append(box(left, y, unit * float(times), 18, "ours"))
        parts.append(text(left + unit * float(times) + 6, y + 14, f"{float(times):.2f}"))
    return picture(
        len(rows) * height + 32,
        "Times as fast as Hugging Face's TransfoXL on one CPU thread, by configuration",
        parts,
    )


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--memory", type=Path, required=True, help="run of the quick start")
    parser.add_argument("--none", type=Path, required=True, help="the same without memory")
    parser.add_argument("--out", type=Path, default=HERE / "pictures", help="folder")
    told = parser.parse_args()
    told.out.mkdir(exist_ok=True)
    (told.out / "streams.svg").write_text(streams())
    (told.out / "reach.svg").write_text(reach())
    (told.out / "quickstart.svg").write_text(curves(told.memory, told.none))
    (told.out / "speed.svg").write_text(speeds((HERE / "README.md").read_text()))


if __name__ == "__main__":
    main()
