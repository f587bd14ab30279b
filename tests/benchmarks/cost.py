"""What a step costs as the model grows: one command, a table, a plot with the expected curves.

    .venv/bin/python tests/benchmarks/cost.py --plot cost.png --out cost.json

One size at a time varies around a small model that trains through DeepSpeed's engine and
`loop.train_step` in fp32. All models are warm and take turns, forwards and backwards through the
list; a point is the median of its rounds. What is expected is `cost_model`'s count of FLOPs and
bytes, with two rates fitted to all points of one rank: processor time at one thread. For two ranks,
real processes over gloo with a batch each, the clock counts: there one rank's time is expected, and
at most the gradients' all-reduce at the rate of one by itself, part of which the backward pass
hides. They have to be the only ones that compute on two cores.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist
from measured import cost_model
from measured.dims import TINY, Dims
from measured.ours import training

from trainer.distributed import this_process
from trainer.engine import deepspeed
from trainer.host_cpu import use_cpu_well
from trainer.launchers import RENDEZVOUS, complete_environ
from trainer.training.loop import train_step

BASE = replace(TINY, n_streams=8)
#: WikiText-103's, as far as a vocabulary reaches.
CUTOFFS = (20_000, 40_000, 200_000)
WARM_STEPS = 2
MESSAGE_BYTES = 64 << 20


@dataclass(eq=False, kw_only=True)
class Point:
    """A model, and seconds of its steps, round by round."""

    x: int
    dims: Dims
    """Those of a rank."""
    n_ranks: int = 1
    processor: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    expected: float = 0.0

    @property
    def measured(self) -> float:
        """Return seconds of a step: of the processor, or with several ranks of the clock."""
        return statistics.median(self.processor if self.n_ranks == 1 else self.clock)


def sweeps() -> dict[str, list[Point]]:
    """Return points by what varies."""
    found = {
        name: [Point(x=x, dims=replace(BASE, **{name: x})) for x in sizes]
        for name, sizes in {
            "mem_len": (0, 100, 200, 400, 800, 1600),
            "tgt_len": (16, 32, 64, 128, 256),
            "n_layer": (1, 2, 4, 8, 16),
            "vocab_size": (1_000, 10_000, 30_000, 60_000),
        }.items()
    }
    clustered = [
        replace(BASE, vocab_size=size, cutoffs=tuple(c for c in CUTOFFS if c < size))
        for size in (30_000, 60_000, 120_000, 267_735)
    ]
    found["vocab_size, in clusters"] = [Point(x=d.vocab_size, dims=d) for d in clustered]
    found["parameters, on 2 ranks"] = [
        Point(x=cost_model.n_parameters(dims), dims=dims, n_ranks=2) for dims in (BASE, *clustered)
    ]
    return found


class Ranks:
    """Processes of one group, each with a warm run of every point; they step when told to."""

    def __init__(self, n_ranks: int, points: list[Point], *, n_segments: int) -> None:
        self._points = points
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        context = multiprocessing.get_context("spawn")
        port = complete_environ({})["MASTER_PORT"]
        every = [replace(p.dims, n_streams=p.dims.n_streams * n_ranks) for p in points]
        for rank in range(n_ranks):
            here, there = context.Pipe()
            launched = (str(rank), str(n_ranks), str(rank), str(n_ranks), "127.0.0.1", port)
            environ = dict(zip(RENDEZVOUS, launched, strict=True))
            arguments = (there, environ, every, n_segments)
            self._processes.append(context.Process(target=_serve, args=arguments, daemon=True))
            self._processes[-1].start()
            self._pipes.append(here)
        self.message_seconds = max(pipe.recv() for pipe in self._pipes)

    def step(self, point: Point) -> None:
        """Time one of a point, by the slowest rank."""
        for pipe in self._pipes:
            pipe.send(self._points.index(point))
        processor, clock = zip(*(pipe.recv() for pipe in self._pipes), strict=True)
        point.processor.append(max(processor))
        point.clock.append(max(clock))

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join()


def _serve(pipe: Connection, environ: dict[str, str], every: list[Dims], n_segments: int) -> None:
    os.environ.update(environ)
    use_cpu_well()
    world = deepspeed.connect(this_process(os.environ, device="cpu"), timeout_s=600)
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                training(dims, ds_file="zero0_fp32", world=world, n_segments=n_segments)
            )
            for dims in every
        ]
        for run, state in runs:
            for _ in range(WARM_STEPS):
                train_step(run, state)
        pipe.send(_message_seconds())
        while (index := pipe.recv()) is not None:
            run, state = runs[index]
            dist.barrier()
            began = time.process_time(), time.perf_counter()
            train_step(run, state)
            pipe.send((time.process_time() - began[0], time.perf_counter() - began[1]))
    deepspeed.disconnect()


def _message_seconds() -> float:
    """Return the seconds of an all-reduce of `MESSAGE_BYTES`."""
    message, seconds = torch.zeros(MESSAGE_BYTES // 4), []
    for _ in range(5):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(message)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure(points: list[Point], *, n_rounds: int) -> dict[str, float]:
    """Fill in what was measured and what was expected; returns the rates."""
    groups = {
        n: Ranks(n, [p for p in points if p.n_ranks == n], n_segments=WARM_STEPS + n_rounds)
        for n in (1, 2)
    }
    for index in range(n_rounds):
        for point in points if index % 2 == 0 else points[::-1]:
            groups[point.n_ranks].step(point)
    for group in groups.values():
        group.close()
    alone = {point.dims: point for point in points if point.n_ranks == 1}
    counted = {dims: cost_model.step(dims) for dims in alone}
    rates = cost_model.fit([(counted[dims], point.measured) for dims, point in alone.items()])
    seconds_per_byte = groups[2].message_seconds / MESSAGE_BYTES
    for point in points:
        point.expected = counted[point.dims].seconds(**rates)
        if point.n_ranks > 1:
            messages = 4 * cost_model.n_parameters(point.dims) * seconds_per_byte
            point.expected = statistics.median(alone[point.dims].clock) + messages
    return rates | {"all_reduced_bytes_per_s": 1 / seconds_per_byte}


def plot(found: dict[str, list[Point]], path: Path) -> None:
    """Draw what was measured as dots, the middle half of its rounds as bars, and the expected."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(2, 3).flat, found.items(), strict=True):
        xs, measured = [p.x for p in points], [1e3 * p.measured for p in points]
        axes.plot(xs, [1e3 * p.expected for p in points], "--", label="expected")
        for p in points:
            low, _, high = statistics.quantiles(p.processor if p.n_ranks == 1 else p.clock, n=4)
            axes.vlines(p.x, 1e3 * low, 1e3 * high, color="tab:orange", linewidth=1)
        axes.plot(xs, measured, "o", color="tab:orange", label="measured")
        axes.set(xlabel=name, ylabel="ms per step", xlim=(0, None), ylim=(0, None))
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="at least 2")
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    parser.add_argument("--plot", type=Path, help="draw them there")
    told = parser.parse_args()
    if told.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: .venv/bin/pip install -e '.[plots]'")
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu")
    found = sweeps()
    rates = measure([p for points in found.values() for p in points], n_rounds=told.rounds)
    print(", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()))
    for name, points in found.items():
        for p in points:
            print(
                f"{name:26} {p.x:10,} {1e3 * p.measured:9,.1f} ms, expected "
                f"{1e3 * p.expected:9,.1f}: {p.measured / p.expected:.2f} times"
            )
    if told.out:
        kept = {name: [asdict(point) for point in points] for name, points in found.items()}
        told.out.write_text(json.dumps({"rates": rates, "points": kept}, indent=1) + "\n")
    if told.plot:
        plot(found, told.plot)


if __name__ == "__main__":
    main()
