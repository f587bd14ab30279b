"""Opening a run's tracker with all its destinations, and tracking what is evaluated afterwards."""

import logging
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from trainer.config.recipe import TrackingConfig, experiment_from
from trainer.outside import read_json
from trainer.track.boards.tensorboard import Board, check_tensorboard
from trainer.track.boards.trackio_log import TrackioLog, check_trackio, is_tracked
from trainer.track.boards.wandb.log import Sample, WandbLog, choose_id, stored_id
from trainer.track.boards.wandb.settings import check_wandb
from trainer.track.console.eta import Pause
from trainer.track.console.printer import Console
from trainer.track.record.metrics import MetricsWriter, read_metrics
from trainer.track.record.records import METRICS_FILE
from trainer.track.run_files.status import read_status
from trainer.track.tracker import Tracker

_log = logging.getLogger(__name__)


def check_tracking(config: TrackingConfig, *, environ: Mapping[str, str]) -> None:
    """Raise the `InputError` that `open_tracker` would raise, before a job waits for its ranks."""
    check_wandb(config, environ=environ)
    check_tensorboard(config)
    check_trackio(config, environ=environ)


def open_tracker(
    config: TrackingConfig,
    *,
    run_dir: Path,
    rank: int,
    attempt: int,
    max_steps: int,
    wandb_id: str | None,
    run_config: Mapping[str, Any],
    environ: MutableMapping[str, str],
    pauses: Mapping[str, Pause],
    step: int = 0,
    update: int = 0,
) -> Tracker:
    """Return a tracker to all destinations on rank 0; on other ranks, one that does nothing.

    Args:
        config: the destinations.
        run_dir: the run's directory, which exists.
        rank: the rank of this process.
        attempt: starts of the run so far, with this one.
        max_steps: updates after which the run ends.
        wandb_id: the id in the checkpoint, used if `run_dir` has none.
        run_config: the resolved configurations, shown by wandb.
        environ: the environment of the process; see `WandbLog`.
        pauses: when the run will not train for a while, which the ETA counts.
        step: the step resumed from.
        update: the update resumed from.

    Raises:
        InputError: see `check_tracking`.
    """
    if rank != 0:
        return Tracker()
    check_tracking(config, environ=environ)
    wandb_log, wandb_id = _opened_wandb(
        config,
        run_dir=run_dir,
        wandb_id=wandb_id,
        run_config=run_config,
        environ=environ,
        step=step,
    )
    return Tracker(
        metrics=MetricsWriter(run_dir, attempt=attempt),
        console=Console(max_steps=max_steps, update=update, pauses=pauses),
        wandb_log=wandb_log,
        wandb_id=wandb_id,
        # An earlier attempt's steps beyond this one's start are done again: they are hidden.
        board=Board(run_dir, after=step if attempt > 1 else None) if config.tensorboard else None,
        trackio_log=(
            TrackioLog(config, run_dir=run_dir, run_config=run_config, up_to=step)
            if config.trackio
            else None
        ),
    )


def _opened_wandb(
    config: TrackingConfig,
    *,
    run_dir: Path,
    wandb_id: str | None,
    run_config: Mapping[str, Any],
    environ: MutableMapping[str, str],
    step: int,
) -> tuple[WandbLog | None, str | None]:
    """Return the open wandb run, None where wandb is disabled, and the id that it has or had."""
    mode = check_wandb(config, environ=environ)
    if mode == "disabled":
        return None, stored_id(run_dir) or wandb_id
    run_id = choose_id(run_dir, wandb_id=wandb_id, environ=environ)
    wandb_log = WandbLog(
        config,
        mode=mode,
        run_dir=run_dir,
        run_id=run_id,
        run_config=run_config,
        environ=environ,
        samples=_samples(run_dir, up_to=step),
    )
    wandb_log.log_evaluations()
    return wandb_log, run_id


def _samples(run_dir: Path, *, up_to: int) -> list[Sample]:
    """Return the samples that earlier attempts recorded, up to step `up_to`."""
    if not (run_dir / METRICS_FILE).is_file():
        return []
    return [
        Sample(record["step"], record["tokens"], str(record.get("sample/text", "")))
        for record in read_metrics(run_dir, kind="sample")
        if record["step"] <= up_to
    ]


def track_evaluations(run_dir: Path, *, environ: MutableMapping[str, str]) -> None:
    """Log to the run's wandb and trackio runs the results of `txl eval` they lack. Rank 0 only.

    Only one process at a time may write to them. So a run in training logs them itself, at its
    start and end. Nothing happens for a run that has neither.
    """
    run_id, status = stored_id(run_dir), read_status(run_dir)
    if run_id is None and not is_tracked(run_dir):
        return
    path = run_dir / "config.json"
    config = experiment_from(read_json(path), where=str(path)).tracking
    mode = check_wandb(config, environ=environ) if run_id is not None else "disabled"
    in_trackio = config.trackio and is_tracked(run_dir)
    if mode == "disabled" and not in_trackio:
        return
    if status is not None and status.state in ("starting", "running") and not status.is_gone():
        _log.info("the run that is training tracks this result when it stops or starts again")
        return
    if run_id is not None and mode != "disabled":
        wandb_log = WandbLog(
            config, mode=mode, run_dir=run_dir, run_id=run_id, run_config={}, environ=environ
        )
        wandb_log.log_evaluations()
        wandb_log.close(0)
    if in_trackio:
        TrackioLog(config, run_dir=run_dir, run_config={}).close()
