"""Finding, checking and recording the start of a run before its engine is built. Rank 0."""

import contextlib
import logging
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from trainer.checkpoint.hashing import Fingerprints, fingerprints
from trainer.checkpoint.state import TrainState
from trainer.errors import CorpusError, Exit, InputError, ShortageError
from trainer.outside import printable
from trainer.track.record.metrics import next_attempt
from trainer.track.run_files.status import Status, read_status, write_status
from trainer.training.due import is_done
from trainer.training.opening import rundir
from trainer.training.opening.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The state that a run starts from."""

    origin: rundir.Origin | None
    """The checkpoint from which the run goes on."""
    weights: Path | None
    """The checkpoint, or the file of others' weights, of which a new run takes the weights."""
    done: Status | None
    """The status of a run that is done already, so that nothing starts."""


def find_start(plan: Plan, run_dir: Path, model: nn.Module, hashed: Fingerprints) -> Start:
    """Check what the run begins with, before anything but the claim is written. Rank 0.

    Args:
        plan: the plan of the run.
        run_dir: its directory.
        model: the model that it trains.
        hashed: returns size and hash of a checkpoint's files.

    Raises:
        InputError: names what does not fit.
    """
    start = look(plan, run_dir, model, hashed)
    rundir.make(run_dir)
    return start


def look(
    plan: Plan, run_dir: Path, model: nn.Module | None, hashed: Fingerprints = fingerprints
) -> Start:
    """Find the start without writing anything; `model` may be None without ``--init-from``."""
    arguments, experiment = plan.arguments, plan.arguments.experiment
    if run_dir.is_dir():
        rundir.check(run_dir, experiment, allowed=arguments.allow_change)
    origin = rundir.find_origin(
        run_dir,
        experiment,
        plan.corpus,
        resume=arguments.resume,
        resume_from=arguments.resume_from,
        allowed=arguments.allow_change,
        hashed=hashed,
    )
    weights = None
    if origin is None and arguments.init_from is not None:
        assert model is not None, "weights are held against those of a model"
        weights = rundir.find_weights(arguments.init_from, plan.corpus, model=model, hashed=hashed)
    done = finished(run_dir)
    if origin is not None and done is not None:
        saved = TrainState()
        saved.load_json(origin.saved["train"])
        done = done if is_done(experiment, saved) else None
    return Start(origin=origin, weights=weights, done=done)


def finished(run_dir: Path) -> Status | None:
    """Return the status of a run that is done and has a result; None if there is none to read."""
    try:
        status = read_status(run_dir)
    except InputError as error:
        log.warning("going by the checkpoints alone: %s", error)
        return None
    is_done = status is not None and status.state == "done" and status.result is not None
    return status if is_done else None


def announce(plan: Plan, run_dir: Path, start: Start, hosts: list[str]) -> int:
    """Write the run's description and its start; return the number of this attempt. Rank 0.

    From here on `status.json` describes this attempt, no longer the previous one.
    """
    experiment = plan.arguments.experiment
    saved, command = TrainState(), plan.arguments.called or shlex.join(sys.argv)
    if start.origin is not None:
        saved.load_json(start.origin.saved["train"])
    attempt = next_attempt(run_dir)
    status = Status.of_this_process(
        state="starting",
        step=saved.step,
        update=saved.update,
        max_steps=experiment.train.max_steps,
        attempt=attempt,
    )

    def write() -> None:
        rundir.describe(
            run_dir, experiment, plan.resolved.values, plan.corpus, hosts=hosts, command=command
        )
        write_status(run_dir, status)

    rundir.writing(write)()
    return attempt


def give_up(run_dir: Path, error: BaseException) -> None:
    """Write into the status that the run could not be built. Rank 0."""
    status = read_status(run_dir)
    if status is None:
        return
    codes = {
        InputError: Exit.BAD_INPUT,
        CorpusError: Exit.CORPUS,
        ShortageError: Exit.OUT_OF_MEMORY,
    }
    code = codes.get(type(error))
    reason = printable(f"{type(error).__name__}: {error}" if code is None else str(error))
    failed = {"state": "failed", "reason": reason, "exit_code": code}
    with contextlib.suppress(OSError):  # `error` matters more than a status
        write_status(run_dir, status.model_copy(update=failed | {"heartbeat": time.time()}))
