"""Counters of DeepSpeed's engine, as plain values for checkpoints."""

from typing import Any

from trainer.engine.gradients.loss_scale import LossScale
from trainer.engine.optimizers.schedules import Schedule

_LOSS_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def of(ds: Any, loss_scale: LossScale | None) -> dict[str, Any]:
    """Return the counters of the engine `ds` that cannot be computed from the step."""
    if loss_scale is not None:
        return {"loss_scaler": loss_scale.counters()}
    scaler = ds.optimizer.loss_scaler if ds.fp16_enabled() else None
    return {
        "loss_scaler": {key: getattr(scaler, key) for key in _LOSS_SCALER if hasattr(scaler, key)}
    }


def set_to(
    saved: dict[str, Any],
    ds: Any,
    loss_scale: LossScale | None,
    *,
    step: int,
    skipped_steps: int,
) -> None:
    """Let the engine `ds` go on from `saved`, as `of` returned it, at `step`.

    A loss scale goes on wherever there is one, at any stage.
    """
    schedule, update = ds.lr_scheduler, step - skipped_steps
    if isinstance(schedule, Schedule):
        schedule.load_state_dict({"updates": update})
    elif update > 0:
        schedule.step(update - 1)  # DeepSpeed's own count from the second rate
    if loss_scale is not None:
        loss_scale.set_to(saved["loss_scaler"])
    elif ds.fp16_enabled():
        for key, value in saved["loss_scaler"].items():
            setattr(ds.optimizer.loss_scaler, key, value)
    ds.global_steps, ds.skipped_steps = step, skipped_steps
