"""Which part of the model takes how much of a step: one command, a table per configuration.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/parts.py tiny small --out parts.json

A run on the CPU through DeepSpeed's engine and `loop.train_step`, watched: processor time of the
process goes to the part that is at work, the median over steps. A module's part of the backward
pass is the time of those nodes of autograd's graph that its forward pass made. Gradients are kept,
and at a ZeRO stage of 1 or 2 shared out, where they arrive in the parameters. The engine is what
DeepSpeed does around all that. A tied table's gradient is made in the softmax's forward pass, where
many tokens have targets in it, and else by the optimizer, its norm by clipping.
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from measured.dims import CONFIGS
from measured.ours import training
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._pytree import tree_leaves

from trainer.data.read_ahead import SegmentReader
from trainer.data.streams import Streams
from trainer.distributed import World, this_process
from trainer.engine import deepspeed
from trainer.engine.engine import Engine
from trainer.host_cpu import use_cpu_well
from trainer.launchers import complete_environ
from trainer.training.loop import train_step
from trainer.training.run import Run

WARM_STEPS = 3
LOOP, ENGINE, KEEPING, WATCHING = "loop", "engine", "keeping gradients", "watching"
MODEL = ("embedding", "attention", "feed-forward", "softmax", "rest of the model")
REST = MODEL[-1]
ROWS = ("data", *MODEL, KEEPING, "clipping", "optimizer", ENGINE, LOOP)


class Clock:
    """A clock of processor time by the part that is at work, in seconds since `begin`."""

    def __init__(self) -> None:
        self.spent: dict[tuple[str, str], float] = {}
        self._stack: list[tuple[str, str]] = [(LOOP, "")]
        self._since = time.process_time()

    def begin(self) -> None:
        """Forget what was added up."""
        self.switch(*self._stack[-1])
        self.spent = {}

    def switch(self, part: str, direction: str = "") -> None:
        """Count the time from now on for this part."""
        now = time.process_time()
        self.spent[self._stack[-1]] = self.spent.get(self._stack[-1], 0.0) + now - self._since
        self._stack[-1], self._since = (part, direction), now

    @contextmanager
    def at_work(self, part: str, direction: str = "") -> Iterator[None]:
        """Let a part interrupt another until the block ends."""
        self.enter(part, direction)
        yield
        self.leave()

    def enter(self, part: str, direction: str = "") -> None:
        """Interrupt the part that is at work."""
        self._stack.append(self._stack[-1])
        self.switch(part, direction)

    def leave(self) -> None:
        """Go back to it."""
        interrupted = self._stack[-2]
        self.switch(*interrupted)
        self._stack.pop()


class Watch:
    """A watch that tells a clock which part of a run is at work, until it is closed."""

    def __init__(self, run: Run) -> None:
        self.clock = Clock()
        self._tagged: set[Node] = set()
        self._patches = ExitStack()
        self._modules(run.engine.ds.module)
        for owner, name, part in (
            (SegmentReader, "segment", "data"),
            (Streams, "n_tokens", "data"),
            (Engine, "__call__", ENGINE),
            (Engine, "step", ENGINE),
            (nn.utils, "get_total_norm", "clipping"),
            (nn.utils, "clip_grads_with_norm_", "clipping"),
            (type(run.engine.ds.basic_optimizer), "step", "optimizer"),
        ):
            self._replace(owner, name, self._watched(getattr(owner, name), part))
        self._replace(Engine, "backward", self._backward(Engine.backward))

    def close(self) -> None:
        """Put back what was watched."""
        self._patches.close()

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        self._patches.enter_context(mock.patch.object(owner, name, function))

    def _watched(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(function)  # which keeps the marks that torch puts on an optimizer's step
        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.clock.at_work(part):
                return function(*args, **kwargs)

        return watched

    def _backward(self, function: Callable[..., None]) -> Callable[..., None]:
        def watched(built: Engine, loss: Tensor) -> None:
            with self.clock.at_work(WATCHING):
                self._tag(loss, REST)
            with self.clock.at_work(ENGINE):
                function(built, loss)
            with self.clock.at_work(WATCHING):
                self._tagged.clear()

        return watched

    def _modules(self, model: Any) -> None:
        """Watch the model and its parts."""
        parts = {model: REST, model.embedding: "embedding", model.softmax: "softmax"}
        for layer in model.layers:
            parts |= {layer.attention: "attention", layer.feed_forward: "feed-forward"}
        for module, part in parts.items():
            module.register_forward_pre_hook(
                lambda *_, part=part: self.clock.enter(part, "forward")  # type: ignore[misc]
            )
            module.register_forward_hook(
                lambda _module, _args, output, part=part: self._done(output, part)  # type: ignore[misc]
            )

    def _done(self, output: Any, part: str) -> None:
        self.clock.switch(WATCHING)
        self._tag(output, part)
        self.clock.leave()

    def _tag(self, output: Any, part: str) -> None:
        """Give the part all nodes that made `output` and that no part has yet."""
        nodes = [getattr(leaf, "grad_fn", None) for leaf in tree_leaves(output)]
        while nodes:
            node = nodes.pop()
            if node is None or node in self._tagged:
                continue
            name = (KEEPING, "") if "AccumulateGrad" in node.name() else (part, "backward")
            node.register_prehook(lambda _, name=name: self.clock.switch(*name))  # type: ignore[misc]
            self._tagged.add(node)
            nodes += [inner for inner, _ in node.next_functions]


def profile(
    config: str, ds_file: str, *, n_steps: int, world: World
) -> dict[str, dict[str, float]]:
    """Return seconds of a step by row and direction, the median over steps."""
    dims = CONFIGS[config]
    n_segments = n_steps + WARM_STEPS
    spent = []
    with training(dims, ds_file=ds_file, world=world, n_segments=n_segments) as (run, state):
        watch = Watch(run)
        for _ in range(n_segments):
            watch.clock.begin()
            train_step(run, state)
            watch.clock.switch(LOOP)
            spent.append(watch.clock.spent)
        watch.close()
    return {
        row: {
            direction: statistics.median(s.get((row, direction), 0.0) for s in spent[WARM_STEPS:])
            for direction in ("forward", "backward", "")
        }
        for row in ROWS
    }


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [name for name in CONFIGS if not name.startswith("eval")]
    parser.add_argument("configs", nargs="*", default="all", choices=["all", *names])
    parser.add_argument("--ds-config", default="zero0_fp32")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path, help="write the seconds there as JSON")
    told = parser.parse_args()
    os.environ.update(complete_environ(os.environ) | {"DS_ACCELERATOR": "cpu"})
    use_cpu_well()
    world = deepspeed.connect(this_process(os.environ, device="cpu"), timeout_s=600)
    results = {}
    for config in names if "all" in told.configs else told.configs:
        results[config] = profile(config, told.ds_config, n_steps=told.steps, world=world)
        whole = sum(sum(row.values()) for row in results[config].values())
        print(f"\n{config}, {told.ds_config}: {1e3 * whole:,.1f} ms of processor time per step")
        print(f"{'part':20} {'share':>7} {'forward':>9} {'backward':>9}")
        for name, row in results[config].items():
            both = [f"{row[way] / whole:9.1%}" if name in MODEL else "" for way in row][:2]
            print(f"{name:20} {sum(row.values()) / whole:7.1%} {' '.join(both)}")
    if told.out:
        made = {"ds_config": told.ds_config, "seconds": results}
        told.out.write_text(json.dumps(made, indent=1) + "\n")
    deepspeed.disconnect()


if __name__ == "__main__":
    main()
