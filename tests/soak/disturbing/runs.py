"""A run that is disturbed again and again until it is done."""

import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from training import Case

from disturbing.jobs import WARM, Job
from disturbing.kinds import KINDS, Kind, Scene
from disturbing.plans import ELASTIC, LIMIT_S, Plan
from disturbing.tally import Disturbance, Following
from disturbing.warm import WarmStarter
from trainer.errors import InputError
from trainer.track.record.records import METRICS_FILE
from trainer.track.run_files.status import read_status

#: Steps between two disturbances, the fewest and the most.
EVERY = 20, 40
#: Seconds that the end of processes may take beyond the run's own limit.
ENDS_S = 120.0
#: Seconds in which an attempt does its next steps, the first ones among them.
STARTS_S = 300.0
#: Attempts in a row that do no step.
MOST_IDLE = 5
LOOK_S = 0.005


@dataclass(kw_only=True)
class _Open:
    """A disturbance whose run has not gone on yet."""

    fields: dict[str, Any]
    since: float


class Disturbed:
    """A run in one directory, with the attempt that trains now, if there is one."""

    def __init__(
        self,
        plan: Plan,
        *,
        folder: Path,
        corpus: Path,
        starter: WarmStarter,
        log: Callable[[Disturbance], None],
        kinds: Sequence[Kind] = KINDS,
    ) -> None:
        """Begin with nothing, in a directory below `folder`."""
        self.plan, self.strange = plan, list[str]()
        self.run_dir = folder / f"seed-{plan.seed}-run-{plan.run}"
        self._faults = folder / f"{self.run_dir.name} faults"
        self._said = folder / f"{self.run_dir.name}.out"
        self._corpus, self._starter, self._log, self._kinds = corpus, starter, log, kinds
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self._said.unlink(missing_ok=True)
        self._faults.mkdir(exist_ok=True)
        self._draw = Random(f"{plan.seed}/{plan.run}")
        self._record = Following(self.run_dir / METRICS_FILE)
        self._ds_config, self._n_ranks = plan.ds_config, 2
        self._n_disturbed, self._broken = 0, set[int]()
        self._open: _Open | None = None

    @property
    def n_computed(self) -> int:
        """Steps that were computed, those that were done again among them."""
        return self._record.n_computed

    def to_the_end(self) -> None:
        """Train and disturb until the run is done.

        Raises:
            RuntimeError: it does not get on.
        """
        n_idle = 0
        while not self._is_done():
            kind, before = self._choose(at_start=True), self._record.step
            job = self._start(*kind.flags)
            n_idle = 0 if self._disturb_until_it_ends(job, kind) else n_idle + 1
            if n_idle > MOST_IDLE:
                raise RuntimeError(f"no progress since step {before}: {self._told()}")
        self._close_open()

    def _disturb_until_it_ends(self, job: Job, kind: Kind) -> bool:
        """Return whether the attempt has done a step, or was disturbed before it could."""
        began = self._record.attempt
        while True:
            if not kind.flags and not self._reaches(self._draw.randint(*EVERY), job, began):
                break
            if self._disturb(kind, job):
                return True
            kind = self._choose(at_start=False)
        orphans = self._end(job, [])
        if self._is_done():
            return True
        self.strange.append(f"{orphans} orphans, {self._told()}" if orphans else self._told())
        return self._record.attempt > began

    def _choose(self, *, at_start: bool) -> Kind:
        plan = self.plan
        kinds = [
            kind
            for kind in self._kinds
            if plan.launcher in kind.launchers
            and (at_start or not kind.flags)
            and (plan.is_elastic or not kind.elastic)
        ]
        return self._draw.choices(kinds, [kind.weight for kind in kinds])[0]

    def _start(self, *flags: str) -> Job:
        case = Case(self.run_dir, ds_config=self._ds_config, flags=self.plan.flags(*flags))
        for asked in self._faults.iterdir():
            asked.unlink()  # of a process that ended before it looked
        return Job(
            self.plan.launcher,
            case.argv(self._corpus),
            n_ranks=self._n_ranks,
            said=self._said,
            starter=self._starter,
            SOAK_FAULTS=str(self._faults),
        )

    def _reaches(self, n_steps: int, job: Job, began: int) -> bool:
        """Return whether the attempt does so many steps more, or ends before it has."""
        self._look()
        start = self._record.step if self._record.attempt > began else None
        deadline = time.monotonic() + STARTS_S
        while start is None or self._record.step < start + n_steps:
            if job.has_ended():
                return False
            if time.monotonic() > deadline:
                self.strange.append(f"no step in {STARTS_S:.0f} s: {self._told()}")
                job.kill()
                return False
            time.sleep(LOOK_S)
            self._look()
            if start is None and self._record.attempt > began:
                start = self._record.step
        return True

    def _disturb(self, kind: Kind, job: Job) -> bool:
        """Disturb the attempt; return whether that ended it."""
        scene = Scene(
            run_dir=self.run_dir,
            corpus=self._corpus,
            faults=self._faults,
            draw=self._draw,
            job=job,
            start=self._start,
            broken=self._broken,
        )
        fields = {
            "seed": self.plan.seed,
            "run": self.plan.run,
            "number": self._n_disturbed,
            "kind": kind.name,
            "is_hard": kind.is_hard,
            "launcher": self.plan.launcher,
            "ranks": self._n_ranks,
            "ds_config": self._ds_config,
        }
        self._n_disturbed += 1
        since, at = time.monotonic(), self._record.step
        kind.do(scene)
        if kind.goes_on and self._goes_on(at, job):
            self._log_one(
                fields | {"step": at, "ended": "went on", "whole": 0, "resumed": at},
                since=since,
            )
            return False
        hung = not self._wait_for_end(job, scene.frozen)
        if kind.flags:
            since = time.monotonic()
        orphans = self._end(job, scene.frozen)
        if kind.elastic:
            self._n_ranks = self._draw.choice((1, 2))
            self._ds_config = self._draw.choice(ELASTIC)
        fields |= {"ended": self._ending(), "whole": max(scene.whole_steps(), default=0)}
        fields |= {"step": self._record.step, "orphans": orphans, "hung": hung}
        self._close_open()
        if self._is_done():
            self._log_one(fields | {"resumed": self._record.step}, since=since)
        else:
            self._open = _Open(fields=fields, since=since)
        return True

    def _goes_on(self, at: int, job: Job) -> bool:
        """Return whether the attempt does a step more, and does not end."""
        deadline = time.monotonic() + LIMIT_S + ENDS_S
        while time.monotonic() < deadline and not job.has_ended():
            self._look()
            if self._record.step > at:
                return True
            time.sleep(LOOK_S)
        return False

    def _wait_for_end(self, job: Job, frozen: Sequence[int]) -> bool:
        """Return whether all processes but the frozen ones end before the limit."""
        deadline = time.monotonic() + LIMIT_S + ENDS_S
        while time.monotonic() < deadline:
            if job.has_ended() or set(job.running()) <= set(frozen):
                return True
            time.sleep(LOOK_S)
        return False

    def _end(self, job: Job, frozen: Sequence[int]) -> int:
        """End what is left of the attempt; return the number of orphans."""
        if job.launcher == WARM:
            job.send(signal.SIGKILL, list(frozen))  # as a launcher ends what failed
        orphans = job.orphans()
        self._look()
        return len(orphans)

    def _look(self) -> None:
        """Read the record; note the disturbance that the run has gone on from."""
        self._record.look()
        if self._open is not None and self._record.step > self._open.fields["step"]:
            self._close_open()

    def _close_open(self) -> None:
        if self._open is not None:
            resumed = self._record.began.get(self._record.attempt, 0)
            opened, self._open = self._open, None
            self._log_one(opened.fields | {"resumed": resumed}, since=opened.since)

    def _log_one(self, fields: dict[str, Any], *, since: float) -> None:
        none = {"orphans": 0, "hung": False}
        seconds = round(time.monotonic() - since, 2)
        self._log(Disturbance(**(none | fields), seconds=seconds))

    def _is_done(self) -> bool:
        return self._ending().startswith("done")

    def _ending(self) -> str:
        """Return the state and reason in the run's status."""
        try:
            status = read_status(self.run_dir)
        except InputError:  # there is none, or one that was damaged
            return "unknown"
        if status is None:
            return "unknown"
        # The log is kept: where its runs lay says nothing.
        return f"{status.state} {status.reason or ''}".strip().replace(
            f"{self.run_dir.parent}/", ""
        )

    def _told(self) -> str:
        """Return the end of what the attempt said."""
        lines = self._said.read_text(errors="replace").splitlines()
        return f"{self._ending()}; " + " | ".join(lines[-5:])
