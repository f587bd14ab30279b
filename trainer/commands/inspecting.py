"""The command ``txl inspect``: what the streams of a run read at a step, and the step again.

Only a replay imports torch and deepspeed.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from trainer.errors import InputError

if TYPE_CHECKING:
    from trainer.report.inspect.place import Place
    from trainer.report.inspect.replayed import Replayed


@dataclass(frozen=True)
class Inspect:
    """Show what each stream read at a step: document, place and text, the worst loss first.

    The losses of streams are filed at a spike or a loss that is not finite.
    """

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    step: int
    """the step, counted from 1"""
    attempt: int | None = None
    """the attempt, where several did the step; by default the last"""
    data: Path | None = None
    """the run's corpus, if it has moved"""
    streams: int = 10
    """streams shown"""
    json: bool = False
    """as JSON, with all streams and their whole texts"""
    replay: bool = False
    """do the step again from the checkpoint before, with the norm of each layer's gradient;
    nothing is written"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to replay"""
    trust_code: bool = False
    """run the code that the run names as its model (model.factory), to replay"""

    def run(self) -> None:
        """Print what was read, and what the step is when it is done again."""
        from trainer.report.inspect.place import place_of
        from trainer.report.inspect.reading import read_step
        from trainer.report.inspect.replayed import replayed_json, told_replayed
        from trainer.report.inspect.text import to_json, told

        if self.streams < 1:
            raise InputError(f"--streams {self.streams} is not at least 1")
        place = place_of(self.run_dir, step=self.step, attempt=self.attempt)
        reading = read_step(self.run_dir, place, data=self.data)
        replayed = self._replayed(place) if self.replay else None
        if os.environ.get("RANK", "0") != "0":
            return
        if replayed is not None:
            reading = reading.with_nats(replayed.nats)
        if self.json:
            more = {} if replayed is None else {"replayed": replayed_json(reading, replayed)}
            print(json.dumps(to_json(reading) | more, indent=2, allow_nan=False))
        else:
            print(told(reading, most=self.streams))
            if replayed is not None:
                print(told_replayed(reading, replayed))

    def _replayed(self, place: "Place") -> "Replayed":
        """Do the step again; under torchrun or deepspeed, on all ranks together."""
        import torch

        from trainer.launchers import complete_environ

        os.environ.update(complete_environ(os.environ))
        if self.device == "cpu" or not torch.cuda.is_available():
            os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it at import
        from trainer.training.bad_losses.replaying import replay

        return replay(
            self.run_dir,
            place,
            data=self.data,
            device=self.device,
            trust=self.trust_code,
            environ=os.environ,
        )
