"""Reading a growing file of records: at each look what was appended since the last one."""

import os
from pathlib import Path
from typing import BinaryIO

from trainer.errors import InputError
from trainer.outside import open_file
from trainer.report.history import History, Recording
from trainer.track.record.records import METRICS_FILE, parse_record

#: Of a longer file only its end is read whole, and before that so many pieces: enough for a curve.
WHOLE_BYTES, END_BYTES, N_PIECES, PIECE_BYTES = 16 << 20, 4 << 20, 300, 4096


class Follower:
    """A reader of a run's records that remembers how far it has read."""

    def __init__(self, run_dir: Path) -> None:
        """Follow the records of `run_dir`, which need not be there yet."""
        self._path = run_dir / METRICS_FILE
        self._recording, self._offset, self._inode = Recording(), 0, -1

    def look(self) -> History:
        """Return the history up to the last whole line.

        Raises:
            InputError: a newer version of the trainer writes the file, or it cannot be read.
        """
        try:
            with open_file(self._path) as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._offset:
                    self._recording, self._offset, self._inode = Recording(), 0, found.st_ino
                if self._offset == 0 and found.st_size > WHOLE_BYTES:
                    self._offset = self._skim(file, found.st_size - END_BYTES)
                file.seek(self._offset)
                appended = file.read(found.st_size - self._offset)
        except FileNotFoundError:
            return self._recording.history()
        except OSError as error:
            raise InputError(
                f"{self._path}: {(error.strerror or 'cannot be read').lower()}"
            ) from None
        *lines, rest = appended.split(b"\n")
        self._offset += len(appended) - len(rest)
        self._add(lines)
        return self._recording.history()

    def _skim(self, file: BinaryIO, end: int) -> int:
        """Read pieces of a file up to `end`; return where the next line begins."""
        for piece in range(N_PIECES):
            file.seek(piece * end // N_PIECES)
            lines = file.read(PIECE_BYTES).split(b"\n")
            self._add(lines[bool(piece) : -1])
        file.seek(end)
        file.readline()
        return file.tell()

    def _add(self, lines: list[bytes]) -> None:
        for line in lines:
            try:
                self._recording.add(parse_record(line + b"\n"))
            except InputError as error:
                raise InputError(f"{self._path} {error}") from None
            except ValueError:
                continue  # a torn line; `txl report` counts them
