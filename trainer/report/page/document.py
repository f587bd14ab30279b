"""Writing the page: a template filled with what runs hold, in which every text stays text."""

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from trainer.errors import InputError
from trainer.files import replacing
from trainer.report.page import curves
from trainer.report.page.svg import SERIES, Picture, is_available
from trainer.report.page.view import overview_rows, view
from trainer.report.sentence import sentence_of_all
from trainer.report.summary import ReadRun
from trainer.report.table import names_of
from trainer.wording import printable, printable_lines

#: Bins of the curves of a page about one run; with many runs each has fewer, down to the least.
MOST_BINS, LEAST_BINS = 700, 60
#: Of more runs than this only the common picture is drawn, since each run's own take their time.
MOST_DRAWN = 24
_WITHOUT_PICTURES = (
    "Pictures are left out: they need matplotlib, which `pip install matplotlib` brings."
)
_WITHOUT_OWN = (
    f"Pictures of single runs are left out where a page is about more than {MOST_DRAWN}: name "
    "fewer runs to see them."
)


def write_page(runs: Sequence[ReadRun], file: Path) -> bool:
    """Write a page about runs, which needs nothing but itself; return whether it has pictures.

    Raises:
        InputError: the file cannot be written.
    """
    text = page(runs)
    try:
        with replacing(file) as out:
            out.write(text)
    except OSError as error:
        raise InputError(
            f"--html {file}: {(error.strerror or 'cannot be written').lower()}: name another file"
        ) from None
    return is_available()


def page(runs: Sequence[ReadRun]) -> str:
    """Return the text of the page."""
    draws, names = is_available(), names_of(runs)
    is_many = len(runs) > MOST_DRAWN
    n_bins = max(LEAST_BINS, MOST_BINS // max(1, len(runs)))
    views = [
        view(run, name=name, anchor=f"r{number}", draws=draws and not is_many, n_bins=n_bins)
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    several = len(runs) > 1
    values = {
        "views": views,
        "title": f"{len(runs)} runs" if several else views[0].name,
        "sentence": sentence_of_all(runs),
        "overview": overview_rows(runs, names) if several else [],
        "overlays": _overlays(runs) if several and draws else [],
        "colours": _colours(runs, names),
        "missing": [_WITHOUT_PICTURES] if not draws else [_WITHOUT_OWN] if is_many else [],
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "style": Markup(_resource("page.css")),  # a file of ours
        "svg": _picture,
    }
    return _environment().from_string(_resource("page.html")).render(values)


def _colours(runs: Sequence[ReadRun], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return name and colour of the runs that share a picture, as many as there are colours."""
    drawn = [name for run, name in zip(runs, names, strict=True) if len(run.history.train)]
    return list(zip(drawn, SERIES, strict=False))


def _overlays(runs: Sequence[ReadRun]) -> list[tuple[str, Picture]]:
    drawn = [run.history for run in runs if len(run.history.train)]
    chosen = list(zip(drawn, SERIES, strict=False))
    found = [
        (title, curves.overlay_picture(chosen, axis=axis, name="all"))
        for axis, title in curves.AXES.items()
    ]
    return [(title, picture) for title, picture in found if picture is not None]


def _picture(svg: str) -> Markup:
    """Let a picture stand as it is: matplotlib drew it, and no text of a run is in it."""
    return Markup(svg)


def _environment() -> Environment:
    return Environment(
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _seen(value: Any) -> Any:
    """Return a text with its control characters and marks of direction to be seen as such."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable_lines(value)
    return value if isinstance(value, Markup | int) else printable(value)


def _resource(name: str) -> str:
    return (resources.files("trainer.report.page") / name).read_text(encoding="utf-8")
