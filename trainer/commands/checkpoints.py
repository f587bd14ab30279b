"""The commands of ``txl`` that show, verify and prune the checkpoints of a run.

Heavy imports wait until a command runs.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from trainer.errors import InputError
from trainer.wording import counted, printable

if TYPE_CHECKING:
    from trainer.checkpoint.listing import Found
    from trainer.training.opening.claimant import Claimant


@dataclass(frozen=True)
class List:
    """List the checkpoints of a run: step, time, size, what for, and whether whole."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    json: bool = False
    """as JSON"""

    def run(self) -> None:
        """Print a line per checkpoint, with the reason where one is not whole."""
        from trainer.checkpoint.listing import checkpoints_of

        _print(checkpoints_of(self.run_dir), as_json=self.json, whole="whole by names and sizes")


@dataclass(frozen=True)
class Verify:
    """Read checkpoints of a run whole and compare every file with its hash."""

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    checkpoint: str | None = None
    """only this one: best, last, or a step"""
    json: bool = False
    """as JSON"""

    def run(self) -> None:
        """Print a line per checkpoint; bad input where one is not whole."""
        from trainer.checkpoint.folder import resolve
        from trainer.checkpoint.listing import checkpoints_of, found_at

        if self.checkpoint is None:
            found = checkpoints_of(self.run_dir, hashed=True)
        else:
            found = [found_at(resolve(self.run_dir, self.checkpoint), hashed=True)]
        _print(found, as_json=self.json, whole="whole")
        n_broken = sum(one.problem is not None for one in found)
        if n_broken:
            raise InputError(
                f"{self.run_dir}: {n_broken} of {counted(len(found), 'checkpoint')} not whole: a "
                "run passes over such; `txl checkpoint prune` removes old ones"
            )


@dataclass(frozen=True)
class Prune:
    """Delete all but the newest whole checkpoints of a run that does not train.

    What `latest` and `best` name stays. A run in training keeps its own number: see
    --checkpoint.keep-last.
    """

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    keep: int
    """how many of the newest whole ones stay, one or more"""
    dry_run: bool = False
    """tell what would be deleted, and delete nothing"""
    json: bool = False
    """as JSON"""

    def run(self) -> None:
        """Delete old checkpoints, and print which; bad input where the run trains."""
        from trainer.training.opening.claimant import Claimant

        if self.keep < 1:
            raise InputError(f"--keep {self.keep}: a run goes on from a checkpoint: keep one")
        claimant = Claimant()
        try:
            if self.dry_run:
                claimant.look(self.run_dir)
            else:
                self._claim(claimant)
            self._prune()
        finally:
            claimant.release()

    def _claim(self, claimant: "Claimant") -> None:
        """Hold the directory, so that no training begins meanwhile."""
        if not self.run_dir.is_dir():
            raise InputError(f"{self.run_dir}: no such folder")
        while not claimant.attempt(self.run_dir):
            pass

    def _prune(self) -> None:
        from trainer.checkpoint.listing import found_at, removable
        from trainer.files import remove

        gone = []
        for path in removable(self.run_dir, keep=self.keep):
            gone.append(found_at(path, hashed=False))
            if not self.dry_run:
                remove(path)
        if self.json:
            print(json.dumps([one.to_json() for one in gone], indent=2))
            return
        verb = "would be deleted" if self.dry_run else "deleted"
        for one in gone:
            print(f"{one.name} {_gib(one.bytes)} {verb}")
        print(f"{counted(len(gone), 'checkpoint')}, {_gib(sum(x.bytes for x in gone))}, {verb}")


def _print(found: "list[Found]", *, as_json: bool, whole: str) -> None:
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    for one in found:
        when = "?" if one.saved is None else time.strftime("%F %T", time.localtime(one.saved))
        state = whole if one.problem is None else f"broken: {printable(one.problem, most=300)}"
        print(f"{one.name} {when:19} {_gib(one.bytes):>10} {', '.join(one.of):12} {state}")


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.1f} MiB"
