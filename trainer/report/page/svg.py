"""Pictures drawn by matplotlib as SVG that stands inside a page and takes the page's colours.

matplotlib knows no CSS. So a figure is drawn in colours that nothing else has, and each is then
replaced by a variable of the page's style sheet, which differs between light and dark.
"""

import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

#: Variables of the style sheet, by the colour in which they are drawn.
COLOURS = {
    "ink": "#010101",
    "quiet": "#010102",
    "grid": "#010103",
    "c1": "#010111",
    "c2": "#010112",
    "c3": "#010113",
    "c4": "#010114",
    "c5": "#010115",
    "c6": "#010116",
    "c7": "#010117",
    "c8": "#010118",
    "mark": "#010121",
    "bad": "#010122",
}
SERIES = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")

_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "txl",
    "font.family": "DejaVu Sans",
    "font.size": 11.0,
    "text.parse_math": False,
    "path.simplify": False,
    "axes.edgecolor": COLOURS["quiet"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": False,
    "grid.color": COLOURS["grid"],
    "xtick.color": COLOURS["quiet"],
    "ytick.color": COLOURS["quiet"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "lines.linewidth": 1.4,
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture for wide pages, and one for narrow screens if the wide one is too wide there."""

    title: str
    """The name of what is drawn."""
    about: str
    """A description of what is to be seen, for those who cannot see it."""
    wide: str
    narrow: str | None = None


def is_available() -> bool:
    """Return whether matplotlib is installed."""
    try:
        import_module("matplotlib.figure")
    except ImportError:
        return False
    return True


def draw(
    fill: Callable[[Any], None], *, name: str, size: tuple[int, int], title: str, about: str
) -> str:
    """Return the SVG of a figure.

    Args:
        fill: draws into the figure's axes, in `COLOURS`.
        name: begins the names of the figure's parts, which a page may hold once.
        size: width and height in the page's pixels.
        title: what is drawn.
        about: what is to be seen.
    """
    matplotlib = import_module("matplotlib")
    figures = import_module("matplotlib.figure")
    file = io.StringIO()
    with matplotlib.rc_context(_RC):
        figure = figures.Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        fill(figure.subplots())
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), name=name, title=title, about=about)


def _inline(svg: str, *, name: str, title: str, about: str) -> str:
    """Return an SVG without what only a file needs, in variables of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", svg, count=5)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # it would hold for the whole page
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    svg = re.sub(r'\b(?:d|x|y|transform)="[^"]*"', lambda found: _short(found[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{variable})")
    told = f"<title>{html.escape(title)}</title><desc>{html.escape(about)}</desc>"
    return re.sub(r"<svg([^>]*)>", rf'<svg\1 role="img">{_literal(told)}', svg, count=1)


def _short(coordinates: str) -> str:
    """Return coordinates to a tenth of a pixel."""
    return re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", coordinates)


def _literal(text: str) -> str:
    return text.replace("\\", r"\\")
