"""All that changes during a run, in one dataclass, saved whole."""

from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

import torch
from torch import Tensor

from trainer.protocol import Memory
from trainer.track.measure import Measure


class Counters(TypedDict):
    """Steps, updates and tokens so far, which every record says."""

    step: int
    update: int
    n_tokens: int


@dataclass
class TrainState:
    """Progress of a run: plain values, and two tensors that live on the device."""

    step: int = 0
    """Attempts to update."""
    skipped_steps: int = 0
    """Attempts that did not."""
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
    """What the lowest validation loss is of."""
    evals_since_best: int = 0
    """Validations since then."""
    validated_step: int = -1
    """Step of the last whole validation."""
    saved_step: int = -1
    """Step of the last checkpoint."""
    nonfinite_in_a_row: int = 0
    """Newest steps whose loss was not finite."""
    rolled_back: bool = False
    """Whether the one rollback is spent."""
    attempt: int = 1
    """Starts of this run, the rollback counted in."""
    wandb_id: str | None = None
    """Of the one wandb run that all attempts continue."""
    parent: str | None = None
    """Checkpoint this run began from, if any."""
    window_loss_sum: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """This rank's nats since the last record, fp64 on the device."""
    memories: list[Memory] = field(default_factory=list)
    """Per slot, this rank's rows."""

    @property
    def update(self) -> int:
        """Updates applied: what the learning rate and `max_steps` count."""
        return self.step - self.skipped_steps

    @property
    def counters(self) -> Counters:
        """Return the counters as they stand now."""
        return {"step": self.step, "update": self.update, "n_tokens": self.n_tokens}

    def forget_best(self) -> None:
        """Drop what validations of another measure found: no loss of this one compares with it."""
        self.best_loss = self.best_step = self.best_of = None
        self.evals_since_best, self.validated_step = 0, -1

    def to_json(self) -> dict[str, Any]:
        """Everything but the memories."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "memories"}
        best_of = self.best_of and self.best_of.model_dump(mode="json")
        return values | {"window_loss_sum": float(self.window_loss_sum), "best_of": best_of}

    def load_json(self, values: dict[str, Any]) -> None:
        """Take over what `to_json` gave; the memories stay."""
        for name, value in values.items():
            if name == "window_loss_sum":
                self.window_loss_sum.fill_(value)
            elif name == "best_of":
                self.best_of = value and Measure.model_validate(value)
            else:
                setattr(self, name, value)
