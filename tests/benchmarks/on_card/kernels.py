"""The parts of `card.py`: each in a process of its own, a JSON line per row on standard output."""

import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from measured.processes import Worker
from measured.variants import Variant
from on_card.checks import dims_on, model, our_step, waits
from on_card.rows import Row, row
from torch import Tensor
from triton_model import prepare

from trainer.model.triton.alignment import aligned

#: Of one H200 with 9,000 tokens per step: matrices in bf16, and Adam's memory traffic.
FLOOR_MS = 5.2
ROUNDS = 3


def environment(device: str, _: str) -> Iterator[Row]:
    """Versions, and the card."""
    for name in ("torch", "triton", "deepspeed"):
        yield row("environment", name, metadata.version(name))
    if device == "cuda":
        query = [
            "nvidia-smi",
            "--query-gpu=name,driver_version,clocks.max.sm",
            "--format=csv,noheader",
        ]
        told = subprocess.run(query, capture_output=True, text=True, check=True)
        yield row("environment", "card, driver, clock", told.stdout.strip())
        yield row("environment", "CUDA", str(torch.version.cuda))


def train(device: str, argument: str) -> Iterator[Row]:
    """Speed, memory and loss of an implementation's training step."""
    variant, (config, dims) = Variant(**json.loads(argument)), dims_on(device)
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "config": config,
            "device": device,
            "mode": "train",
            "dropout": 0.1,
            "n_segments": 6 + ROUNDS * dims.n_steps,
            "style": variant.name.partition(",")[0],
        }
        worker = Worker(variant, task, Path(folder))
        worker.steps(5)  # warm, and Triton compiles
        told = [worker.steps(dims.n_steps) for _ in range(ROUNDS)]
        worker.close()
    best_s = min(answer["seconds"] for answer in told) / dims.n_steps
    losses = [loss for answer in told for loss in answer["losses"]]
    finite = all(map(math.isfinite, losses))
    yield row(variant.name, "tokens/s", dims.n_streams * dims.tgt_len / best_s, ok=finite)
    yield row(variant.name, "ms/step", 1e3 * best_s, ok=finite)
    if device == "cuda":
        yield row(variant.name, "share of an H200's floor", FLOOR_MS / (1e3 * best_s), ok=finite)
    yield row(variant.name, "peak MiB", max(answer["peak_mib"] for answer in told), ok=finite)
    yield row(variant.name, "loss of the last step", losses[-1], ok=finite)


def profile(device: str, _: str) -> Iterator[Row]:
    """What the device spends three steps on, and whether it has to wait for launches."""
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU] if device == "cpu" else [activity.CPU, activity.CUDA]
    with our_step(device) as step, torch.profiler.profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(3):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        wall_ms = (time.perf_counter() - began) / 3 * 1e3
    events = profiler.key_averages()
    key = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    on_device = [e for e in events if device == "cpu" or str(e.device_type).endswith("CUDA")]
    busy_ms = sum(getattr(e, key) for e in on_device) / 3e3
    yield row("profile", "ms/step by the clock, profiled", wall_ms)
    yield row("profile", "ms/step that the device is busy", busy_ms)
    yield row("profile", "launches/step", sum(e.count for e in on_device) / 3)
    for event in sorted(on_device, key=lambda e: -getattr(e, key))[:20]:
        yield row(
            "profile", f"{event.key[:34]} x{event.count / 3:.0f}, ms", getattr(event, key) / 3e3
        )


def milliseconds(work: Callable[[], object], device: str, *, n: int = 20) -> float:
    """Of one call, warm; by the device's events on a GPU."""
    for _ in range(3):
        work()
    if device == "cpu":
        began = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - began)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(n):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / n


def blocks(device: str, _: str) -> Iterator[Row]:
    """Attention forward and backward, by how each kernel cuts its work."""
    from trainer.model.triton.attention import Blocks, Cut, default_cut, fused_attention

    _, dims = dims_on(device)
    width, n_keys = -(-dims.d_head // 8) * 8, dims.tgt_len + dims.mem_len
    shapes = [
        (dims.n_streams, dims.tgt_len, dims.n_head, width),
        (dims.n_streams, n_keys, 2, dims.n_head, width),
        (dims.n_streams, dims.n_head, dims.tgt_len, -(-n_keys // 8) * 8),
    ]
    leaves = [
        torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_() for shape in shapes
    ]
    default = default_cut(width, torch.bfloat16)
    sizes = [(q, k, warps) for q in (32, 64, 128) for k in (32, 64) for warps in (4, 8)]
    tried = [Blocks(*size, stages) for size in sizes for stages in (1, 2)]

    def attend(cut: Cut) -> None:
        out = fused_attention(*leaves, visible_from_BT=None, dropout=0.0, seed=None, cut=cut)
        torch.autograd.grad(out.sum(), leaves)

    for kernel in () if device == "cpu" else Cut._fields:
        times = {}
        for choice in tried:
            try:
                cut = default._replace(**{kernel: choice})
                times[choice] = milliseconds(partial(attend, cut), device)
            except Exception as error:  # too much shared memory is a result, too
                yield row("blocks", f"{kernel}, {choice}", type(error).__name__)
        for choice in sorted(times, key=lambda c: times[c])[:3]:
            yield row("blocks", f"{kernel}, {choice}, ms of all", times[choice])
    yield row(
        "blocks", f"the default, {default}, ms", milliseconds(partial(attend, default), device)
    )


def products(device: str, _: str) -> Iterator[Row]:
    """What aligned rows are worth, with what it costs to align them."""
    _, dims = dims_on(device)
    n, width, inner = dims.n_streams * dims.tgt_len, dims.d_model, dims.d_inner
    n_words = dims.cutoffs[0]
    for name, n_columns in (("feed-forward", inner), ("softmax's head", n_words)):
        x, weight = (
            torch.randn(shape, device=device, dtype=torch.bfloat16)
            for shape in ((n, width), (n_columns, width))
        )
        as_it_is, wide = partial(F.linear, x, weight), aligned(x)
        yield row("products", f"{name}, rows of {width}, ms", milliseconds(as_it_is, device))
        copied = milliseconds(partial(_copied_product, wide, weight), device)
        yield row("products", f"{name}, copied and aligned, ms", copied)


def _copied_product(wide: Tensor, weight: Tensor) -> Tensor:
    return F.linear(wide, aligned(weight))


PARTS: dict[str, Callable[[str, str], Iterator[Row]]] = {
    "environment": environment,
    "model": model,
    "waits": waits,
    "profile": profile,
    "blocks": blocks,
    "products": products,
    "train": train,
}


def main(name: str, device: str, argument: str) -> None:
    """Print the rows of a part."""
    if device == "cpu":
        prepare()
    warnings.simplefilter("ignore")
    for found in PARTS[name](device, argument):
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
