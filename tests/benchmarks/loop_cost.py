"""What the loop costs beside the engine: one command, one table.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/loop_cost.py [--config tiny] [flags]

A real run on the CPU whose loop is watched; flags are those of the training command. Processor
time of the process by part of a step, the median over steps, and the sum of all that is not the
engine's forward, backward and update. Clock time beside it shows what waits without computing.
Records and checkpoints, which a median would hide, are means.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from measured.dims import CONFIGS
from measured.ours import experiment_of, split_of

from trainer.config.command_line.arguments import parse_train
from trainer.data.streams import Streams
from trainer.engine import deepspeed
from trainer.engine.engine import Engine
from trainer.engine.passes import usual as passes
from trainer.engine.passes.usual import Passes
from trainer.host_cpu import use_cpu_well
from trainer.launchers import complete_environ
from trainer.training import duties, loop, saving
from trainer.training.bad_losses import recovery
from trainer.training.bad_losses.faults import FaultWatch
from trainer.training.ending.stopping import StopRequests
from trainer.training.opening.plan import make_plan
from trainer.training.profiling import Profiler
from trainer.training.session import train_connected

WARM_STEPS = 5
ENGINE, REST = "engine", "all else between"
#: Functions by the row they are counted in; none calls another of them.
PARTS: dict[str, list[tuple[Any, str]]] = {
    ENGINE: [(Engine, "__call__"), (Engine, "backward"), (Engine, "step")],
    "read segments": [(Streams, "segment"), (Streams, "n_tokens")],
    "seed dropout": [(loop, "dropout_seed"), (torch, "manual_seed")],
    "look for rows that are not finite": [(passes, "nats_by_row"), (Passes, "_keep_finite")],
    "exchange flags": [(FaultWatch, "exchange"), (recovery, "handle_nonfinite")],
    "poll for a stop": [(StopRequests, "poll")],
    "profiler's hooks": [(Profiler, "before_step"), (Profiler, "after_step")],
    "record": [(duties, "record")],
    "sample, validate, save": [
        (duties, "sample_if_due"),
        (duties, "validate_if_due"),
        (saving, "save_if_due"),
    ],
}
OCCASIONAL = {"record", "sample, validate, save"}

Times = npt.NDArray[np.float64]


class Watch:
    """A sum of what functions take, step by step: microseconds of processor and of the clock."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Times]] = []
        self._parts: dict[str, Times] = {}
        self._began: Times | None = None

    def watch(self, row: str, owner: Any, name: str) -> None:
        """Count `owner.name` in `row` from now on."""
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            began = _clocks()
            try:
                return function(*args, **kwargs)
            finally:
                self._parts[row] = self._parts.get(row, 0.0) + _clocks() - began

        setattr(owner, name, watched)

    def begin_step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, wrapped so that each call begins a step."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            now = _clocks()
            if self._began is not None:
                rest = now - self._began - sum(self._parts.values())
                self.steps.append(self._parts | {REST: rest})
            self._parts, self._began = {}, now
            return function(*args, **kwargs)

        return watched


def _clocks() -> Times:
    return 1e6 * np.array([time.process_time(), time.perf_counter()])


def watch_a_run(config: str, ds_config: str, *, n_steps: int, flags: list[str]) -> Watch:
    """Train and watch; warm steps are left out."""
    dims = CONFIGS[config]
    watch = Watch()
    for row, functions in PARTS.items():
        for owner, name in functions:
            watch.watch(row, owner, name)
    loop.train_step = watch.begin_step(loop.train_step)
    environ = dict(os.environ) | complete_environ(os.environ)
    os.environ.update(environ)
    use_cpu_well()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        split_of(dims, n_steps + WARM_STEPS + 8, folder / "corpus")
        recipe = folder / "recipe.json"
        recipe.write_text(experiment_of(dims, 0.1).model_dump_json())
        max_steps = str(n_steps + WARM_STEPS + 1)
        argv = [
            str(recipe),
            "--data",
            str(folder / "corpus"),
            "--run-dir",
            str(folder / "run"),
            "--deepspeed-config",
            ds_config,
            "--device",
            "cpu",
            "--train.max-steps",
            max_steps,
            "--tracking.wandb",
            "disabled",
            "--valid.interval-steps",
            "0",
            *flags,
        ]
        plan = make_plan(parse_train(argv), environ)
        world = deepspeed.connect(plan.world, timeout_s=600)
        train_connected(plan, world, environ, StopRequests())
    deepspeed.disconnect()
    watch.steps = watch.steps[WARM_STEPS:]
    return watch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="tiny", choices=list(CONFIGS))
    parser.add_argument("--ds-config", default="zero0_fp32")
    parser.add_argument("--steps", type=int, default=100)
    told, flags = parser.parse_known_args()
    watch = watch_a_run(told.config, told.ds_config, n_steps=told.steps, flags=flags)

    rows = {}
    for row in (*PARTS, REST):
        times = np.array([step.get(row, np.zeros(2)) for step in watch.steps])
        rows[row] = times.mean(axis=0) if row in OCCASIONAL else np.median(times, axis=0)
    whole = sum(rows.values())
    rows["the loop's own"] = whole - rows[ENGINE]
    print(f"\n{told.config}, {told.ds_config}, {len(watch.steps)} steps of {whole[0]:,.0f} µs")
    print(f"{'part':36} {'processor µs':>13} {'share':>8} {'clock µs':>10}")
    for row, (processor, clock) in rows.items():
        print(f"{row:36} {processor:13,.0f} {processor / whole[0]:8.2%} {clock:10,.0f}")


if __name__ == "__main__":
    main()
