"""Finding a run's start, and reasons to refuse the run, without writing anything."""

import errno
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from trainer.budget.check import check_memory
from trainer.distributed import World, gather_objects
from trainer.errors import InputError
from trainer.model.build import build_model
from trainer.training.opening import rundir
from trainer.training.opening.claimant import Claimant
from trainer.training.opening.plan import Plan
from trainer.training.opening.start import finished, look

log = logging.getLogger(__name__)


def describe_start(plan: Plan) -> dict[str, Any]:
    """Make the run's checks without writing anything; return what the run would begin with.

    Raises:
        InputError: the run would raise it.
    """
    arguments, config = plan.arguments, plan.arguments.experiment.model
    run_dir = arguments.run_dir or _free_run_dir(arguments.recipe)
    _refuse_unmakeable(run_dir)
    Claimant().look(run_dir)
    model = None
    if arguments.init_from is not None:
        with torch.device("meta"):
            model = build_model(config, vocabulary_size=plan.corpus.vocabulary.size, seed=0)
    start = look(plan, run_dir, model)
    if plan.budget is not None and start.done is None:
        warnings = check_memory(
            plan.budget, plan.world, n_sharing=plan.n_sharing, insist=arguments.beyond_memory
        )
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
    origin = start.origin
    return {
        "run_dir": str(run_dir),
        "from": str(origin.path if origin is not None else start.weights or "the beginning"),
        "changes": [str(change) for change in origin.changes] if origin is not None else [],
        "skipped": origin.skipped if origin is not None else [],
        "is_done": start.done is not None,
    }


def refuse_without_memory(plan: Plan, run_dir: Path, world: World) -> None:
    """Refuse the run if any rank lacks the memory for it; a finished run is never refused.

    Collective.

    Raises:
        InputError: on every rank; some rank lacks memory.
    """
    problem = None
    if plan.budget is not None and finished(run_dir) is None:
        insist = plan.arguments.beyond_memory
        try:
            warnings = check_memory(plan.budget, world, n_sharing=plan.n_sharing, insist=insist)
        except InputError as error:
            warnings, problem = [], str(error)
        for warning in warnings:
            log.warning("%s", warning)
    for rank, refusal in enumerate(gather_objects(problem, world)):
        if refusal is not None:
            raise InputError(refusal if world.world_size == 1 else f"rank {rank}: {refusal}")


def _free_run_dir(recipe: str) -> Path:
    """Return the default directory that a run would make now."""
    candidates = rundir.default_run_dirs(recipe, now=time.time())
    return next(path for path in candidates if not path.exists())


def _refuse_unmakeable(run_dir: Path) -> None:
    """Raise what a claim would raise for a directory that cannot be made or written in."""
    there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if there == run_dir and not there.is_dir():
        raise InputError(f"--run-dir {run_dir} is a file: give another")
    problem = None
    if not there.is_dir():
        problem = errno.ENOTDIR
    elif not os.access(there, os.W_OK | os.X_OK):
        problem = errno.EACCES
    if problem is not None:
        raise InputError(f"--run-dir {run_dir} cannot be made: {os.strerror(problem)}")
