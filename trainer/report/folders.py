"""Finding runs: the directories that are runs, below the folders that a user names."""

import os
from collections.abc import Iterable
from pathlib import Path

from trainer.errors import InputError
from trainer.report.summary import IMPORTED_FILE
from trainer.track.record.records import METRICS_FILE
from trainer.track.run_files.results import FOLDER as EVALS
from trainer.track.run_files.status import STATUS_FILE

#: Files and folders of which every run has one, even a run that broke while it began.
_MARKS = (STATUS_FILE, METRICS_FILE, IMPORTED_FILE, EVALS, "command.txt")
#: How many folders deep runs are looked for.
MOST_DEEP = 8
#: Where runs are looked for if no folder is named: `launch/train.py` makes them there.
DEFAULT_FOLDER = Path("runs")


def run_dirs(named: Iterable[Path]) -> list[Path]:
    """Return the runs that are named, and those below the folders that are named, each once.

    A named folder without any run below it is returned itself, so that a report can say so. Without
    names it is `DEFAULT_FOLDER`. Folders whose names begin with a dot, and what lies inside a run,
    are passed over; links to folders are followed.

    Raises:
        InputError: nothing is named, and there is no `DEFAULT_FOLDER`.
    """
    given = list(named)
    if not given and not DEFAULT_FOLDER.is_dir():
        raise InputError(f"{DEFAULT_FOLDER}: no such folder: name runs, or a folder of runs")
    found: dict[str, Path] = {}
    for path in given or [DEFAULT_FOLDER]:
        for run_dir in _below(path) or [path]:
            found.setdefault(os.path.realpath(run_dir), run_dir)
    return list(found.values())


def is_run(path: Path) -> bool:
    """Return whether a directory is a run's, by what lies in it."""
    return any(os.path.lexists(path / mark) for mark in _MARKS)


def _below(path: Path) -> list[Path]:
    """Return the runs at or below a folder, in the order of their names."""
    found, seen = [], set()
    for place, folders, _ in os.walk(path, followlinks=True):
        here = Path(place)
        real = os.path.realpath(here)
        is_new = real not in seen
        seen.add(real)
        if is_new and is_run(here):
            found.append(here)
        is_deep = len(here.parts) - len(path.parts) >= MOST_DEEP
        is_end = not is_new or is_deep or (found and found[-1] == here)
        folders[:] = [] if is_end else sorted(n for n in folders if not n.startswith("."))
    return found
