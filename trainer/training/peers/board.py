"""Notes that ranks leave one another in the run directory: a file each, which outlives its rank.

A collective needs all ranks, and a store needs the one that keeps it. A note needs only the file
system on which the run is saved. So a rank can say why it leaves, and the others can find out who
does not get on.
"""

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.errors import InputError
from trainer.files import replacing
from trainer.outside import printable, read_json
from trainer.track.processes import Place, begun, how_ended, is_stopped, this_place

#: The folder of notes in a run directory.
NOTES = "ranks"
#: The most bytes of a note.
_MAX_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Note:
    """The identity of a rank, and what it last said of itself."""

    token: str
    """The mark that all notes of one attempt have in common, and no other."""
    rank: int
    host: str
    pid: int
    begun: int | None
    boot: str
    pid_namespace: str
    n_beats: int = 0
    """Signs of life so far."""
    count: int = 0
    """Things finished so far: see `trainer.progress`."""
    last: str = ""
    waits_in: str = ""
    """The place where its main thread is, if nothing has got on for too long."""
    left: str | None = None
    """Why the rank leaves, which is empty at a proper end; None while it trains."""
    code: int = 0
    """The exit code with which it leaves."""

    @classmethod
    def of_this_process(cls, rank: int, *, token: str) -> "Note":
        """Return the first note of this process."""
        place, pid = this_place(), os.getpid()
        return cls(
            token=token,
            rank=rank,
            host=place.host,
            pid=pid,
            begun=begun(pid),
            boot=place.boot,
            pid_namespace=place.pid_namespace,
        )

    def __str__(self) -> str:
        return f"rank {self.rank} ({printable(self.host, most=80)}, process {self.pid})"

    def how_ended(self, here: Place) -> str | None:
        """Return how the rank's process ended; None if it runs, or `here` cannot be known."""
        return how_ended(self.pid, since=self.begun) if self._is_near(here) else None

    def is_stopped(self, here: Place) -> bool:
        """Return whether the rank's process is known to be stopped by a signal."""
        return self._is_near(here) and is_stopped(self.pid)

    def _is_near(self, here: Place) -> bool:
        there = Place(host=self.host, boot=self.boot, pid_namespace=self.pid_namespace)
        return here.shares_numbers(there)


class Board:
    """The folder of notes of one attempt; this process writes the note of its rank."""

    def __init__(self, run_dir: Path, note: Note) -> None:
        """Begin with `note`, which is not written yet."""
        self.folder = run_dir / NOTES
        self.note = note

    def begin(self) -> None:
        """Make the folder in the run directory, and write this rank's first note."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(exist_ok=True)
        self.write()

    def write(self, **changes: Any) -> None:
        """Replace this rank's note by one with `changes`, unless nothing can be written.

        Any thread may call this, one at a time.
        """
        self.note = replace(self.note, **changes)
        path = self._path(self.note.rank)
        with contextlib.suppress(OSError), replacing(path, alone=True, synced=False) as file:
            json.dump(asdict(self.note), file)

    def read(self, rank: int) -> Note | None:
        """Return the newest note of a rank of this attempt; None if it cannot be read."""
        try:
            found = read_json(self._path(rank), most_bytes=_MAX_BYTES)
            note = TypeAdapter(Note).validate_python(found)
        except (InputError, ValidationError):
            return None
        return note if note.token == self.note.token else None

    def remove(self) -> None:
        """Remove all notes, and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def withdraw(self) -> None:
        """Remove this rank's note, and the folder if it holds no other."""
        with contextlib.suppress(OSError):
            self._path(self.note.rank).unlink()
            self.folder.rmdir()

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"
