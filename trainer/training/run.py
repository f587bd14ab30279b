"""A run as its loop sees it: its fixed parts, and the result of a step."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint.state import TrainState
from trainer.config.recipe import ExperimentConfig
from trainer.data.corpus import Corpus
from trainer.data.read_ahead import SegmentReader
from trainer.data.streams import Streams
from trainer.distributed import World, gather_objects
from trainer.engine.engine import Engine
from trainer.engine.passes.captured import CapturedPasses
from trainer.engine.passes.usual import Passes
from trainer.protocol import Memory
from trainer.track.failures import Failures
from trainer.track.measure import Measure
from trainer.track.tracker import Tracker
from trainer.training.background import Background
from trainer.training.bad_losses.faults import FaultWatch
from trainer.training.bad_losses.stream_losses import StreamLosses
from trainer.training.ending.stopping import StopRequests
from trainer.training.profiling import Profiler


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that stays the same during a run."""

    experiment: ExperimentConfig
    run_dir: Path
    corpus: Corpus
    streams: Streams
    reader: SegmentReader
    engine: Engine
    passes: Passes | CapturedPasses
    tracker: Tracker
    stops: StopRequests
    watch: FaultWatch
    losses: StreamLosses
    profiler: Profiler
    background: Background
    failures: Failures
    world: World
    identity: dict[str, Any]
    """The run's description in each checkpoint: configurations, hashes, number of ranks."""
    peak_tokens_per_s: float | None
    """See `trainer.track.throughput.rates`."""
    valid_of: Measure | None
    """The measure of validation losses; None without a valid split."""

    def empty_memories(self, data_step: int) -> list[Memory]:
        """Return a memory per slot, of streams that have read nothing, for a step of the text."""
        mem_len, n_rows = self.streams.lengths(data_step).mem_len, self.streams.micro
        empty = self.engine.empty_memory
        return [empty(n_rows, mem_len=mem_len) for _ in range(self.engine.slots)]

    def window_extra(self, state: TrainState) -> dict[str, float]:
        """Return the sums of the model's extra losses since the last record, over all ranks.

        Collective, but for Transformer-XL, which has none.
        """
        if self.experiment.model.builder is None:
            return {}
        own = {name: float(loss) for name, loss in state.window_extra.items()}
        everyones = gather_objects(own, self.world)
        names = dict.fromkeys(name for found in everyones for name in found)
        return {name: sum(found.get(name, 0.0) for found in everyones) for name in names}


@dataclass(frozen=True, kw_only=True)
class StepStats:
    """Result of one step; tensors stay on the device."""

    loss_sum: Tensor
    """This rank's nats, fp64."""
    extra: dict[str, Tensor]
    """This rank's sum of each extra loss of the model, fp64."""
    n_tokens: int
    """Targets over all ranks."""
    lr: float
    """The rate of the update, also if it was not applied."""
    nats_S: Tensor
    """The sum of nats of each of this rank's streams, slot after slot."""
    seconds: float
