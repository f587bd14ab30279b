"""All that changes during a run, in one dataclass, saved whole."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

import torch
from torch import Tensor

from trainer.protocol import Memory
from trainer.track.measure import Measure


class Counters(TypedDict):
    """Steps, updates and tokens so far, which every record holds."""

    step: int
    update: int
    n_tokens: int


@dataclass
class TrainState:
    """Progress of a run: plain values, and tensors on the device."""

    step: int = 0
    """Attempts to update."""
    skipped_steps: int = 0
    """Attempts that did not update the weights."""
    data_step: int = 0
    """Position in the text; runs ahead of `step` after a rollback."""
    n_tokens: int = 0
    """Targets trained on, over all ranks."""
    seconds: float = 0.0
    """Time spent in steps, over all attempts."""
    window_tokens: int = 0
    """Targets since the last record, over all ranks."""
    window_seconds: float = 0.0
    """Time spent in steps since the last record."""
    last_loss: float | None = None
    """Loss of the last record."""
    best_loss: float | None = None
    """Lowest validation loss."""
    best_step: int | None = None
    """Step of the lowest validation loss."""
    best_of: Measure | None = None
    """The measure of the lowest validation loss."""
    evals_since_best: int = 0
    """Validations since the lowest validation loss."""
    validated_step: int = -1
    """Step of the last whole validation."""
    saved_step: int = -1
    """Step of the last checkpoint."""
    nonfinite_in_a_row: int = 0
    """The number of newest steps in a row with a loss that was not finite."""
    rolled_back: bool = False
    """True once the run has used its one rollback for losses that were not finite."""
    recent_losses: list[float] = field(default_factory=list)
    """Losses of the last steps with a finite one, which a spike is held against."""
    spikes_in_a_row: int = 0
    """The number of newest steps in a row whose loss was a spike."""
    spiked_back_to: int = -1
    """The step of the checkpoint that the last rollback for a spike went back to."""
    unjudged_losses: list[float | None] = field(default_factory=list)
    """At a checkpoint, losses of the newest steps, of which the loop learns later."""
    unjudged_streams: list[list[int]] = field(default_factory=list)
    """The streams whose loss was not finite in each of these steps."""
    attempt: int = 1
    """The number of starts of this run, counting the rollback."""
    wandb_id: str | None = None
    """The id of the one wandb run that all attempts continue."""
    parent: str | None = None
    """The other run's checkpoint that this run began from, if any."""
    window_loss_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """This rank's nats since the last record, fp64 on the device."""
    window_extra: dict[str, Tensor] = field(default_factory=dict)
    """Likewise this rank's sums of the model's extra losses, by name."""
    memories: list[Memory] = field(default_factory=list)
    """Per slot, the memory of this rank's streams."""

    @property
    def update(self) -> int:
        """Return the number of updates applied, which the learning rate and `max_steps` count."""
        return self.step - self.skipped_steps

    @property
    def counters(self) -> Counters:
        """Return the counters as they stand now."""
        return {"step": self.step, "update": self.update, "n_tokens": self.n_tokens}

    def forget_best(self) -> None:
        """Forget the best loss, because validations now measure something else."""
        self.best_loss = self.best_step = self.best_of = None
        self.evals_since_best, self.validated_step = 0, -1

    def to_json(self) -> dict[str, Any]:
        """Return everything but the memories as JSON; losses that are not finite are None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "memories"}
        best_of = self.best_of and self.best_of.model_dump(mode="json")
        losses = {"window_loss_sum": float(self.window_loss_sum), "last_loss": self.last_loss}
        extra = {name: _finite(float(loss)) for name, loss in self.window_extra.items()}
        finite = {key: _finite(x) for key, x in losses.items()}
        return values | {"best_of": best_of, "window_extra": extra} | finite

    def load_json(self, values: dict[str, Any]) -> None:
        """Set everything but the memories to what `to_json` returned."""
        for name, value in values.items():
            if name == "window_loss_sum":
                self.window_loss_sum.fill_(math.nan if value is None else value)
            elif name == "window_extra":
                like = self.window_loss_sum
                self.window_extra = {
                    key: like.new_tensor(math.nan if x is None else x) for key, x in value.items()
                }
            elif name == "best_of":
                self.best_of = value and Measure.model_validate(value)
            else:
                setattr(self, name, value)


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None
