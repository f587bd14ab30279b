"""What one rank of `large_model.py` does: build, save and load at stage 3, and count."""

import ctypes
import gc
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from builders import tiny_experiment
from traffic import Traffic

from trainer.checkpoint import hashing
from trainer.checkpoint.contents import tensors
from trainer.checkpoint.contents.parts import Parts
from trainer.checkpoint.folder import MANIFEST, newest_whole
from trainer.checkpoint.hashing import led_with_hashes
from trainer.config.deepspeed.file import load_ds_config, resolve
from trainer.config.recipe import ExperimentConfig
from trainer.distributed import World, barrier
from trainer.engine import deepspeed
from trainer.engine.engine import Engine
from trainer.host_cpu import returning_freed, use_cpu_well
from trainer.model.build import build_in_parts

#: Sizes of models by number of layers: about 0.36 billion parameters with 28, and 7.1 with 32.
LARGE = {"d_model": 1024, "n_head": 16, "d_head": 64, "d_inner": 4096}
HUGE = {"n_layer": 32, "d_model": 4096, "n_head": 32, "d_head": 128, "d_inner": 16384}
SMALL = {"n_layer": 3, "d_model": 64, "n_head": 4, "d_head": 16, "d_inner": 256}
N_WORDS = {"large": 4_000, "huge": 32_000, "small": 1_000}


def experiment_of(sizes: dict[str, int], n_ranks: int) -> ExperimentConfig:
    """Return an experiment that trains a model of these sizes."""
    return tiny_experiment(model={**sizes, "init_std": 0.02}, train={"train_batch_size": n_ranks})


def build(world: World, sizes: dict[str, int], n_words: int) -> Engine:
    """Build the model as a run does, each rank its parts of it."""
    experiment = experiment_of(sizes, world.world_size)
    model, fills = build_in_parts(experiment.model, vocabulary_size=n_words, seed=1)
    resolved = resolve(
        load_ds_config("zero3_fp32"), experiment, world_size=world.world_size, where="benchmark"
    )
    with returning_freed():
        return deepspeed.build(
            model, optim=experiment.optim, max_steps=9, resolved=resolved, world=world, fills=fills
        )


def save(engine: Engine, folder: Path, world: World) -> tuple[float, float]:
    """Save; return seconds for which training waits, and until the checkpoint is sealed."""
    state = {
        "experiment": {},
        "vocabulary": "0",
        "corpus": "0",
        "precision": "fp32",
        "train": {"step": 1},
        "engine": {"optimizer_step": 1},
    }
    memories = [([world.rank], engine.empty_memory(1, mem_len=1))]
    began = time.perf_counter()
    job = tensors.save(folder, step=1, state=state, engine=engine, memories=memories, world=world)
    work, waited_s = next(job, None), time.perf_counter() - began
    while work is not None:
        work()
        barrier(world)
        work = next(job, None)
    return waited_s, time.perf_counter() - began


def load(engine: Engine, folder: Path, world: World) -> float:
    """Verify the checkpoint and load it; return seconds."""
    began = time.perf_counter()
    newest = led_with_hashes(lambda hashed: newest_whole(folder, hashed), world)
    assert newest.path is not None, newest.skipped
    tensors.load_engine(newest.path, engine, optimizer_step=1)
    barrier(world)
    return time.perf_counter() - began


def owned_bytes(engine: Engine) -> int:
    """Return bytes of the rank's tensors, each storage once: weights, gradients and moments."""
    optimizer: Any = engine.ds.optimizer
    state = engine.ds.basic_optimizer.state
    found = [optimizer.lp_param_buffer, *optimizer.fp32_partitioned_groups_flat]
    found += [
        x for values in state.values() for x in values.values() if isinstance(x, torch.Tensor)
    ]
    gradient = optimizer.lp_param_buffer.nbytes  # held from the first backward pass on
    return gradient + sum(x.untyped_storage().nbytes() for x in found)


class Memory:
    """Resident memory of this process beyond that at the beginning."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        self._base = self.now()

    def now(self) -> int:
        """Return free memory to the system, forget the peak, and return what is held."""
        gc.collect()
        self._libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return self._kib("VmRSS") - getattr(self, "_base", 0)

    def peak(self) -> int:
        """Return the most that was held since `now`."""
        return self._kib("VmHWM") - self._base

    def _kib(self, name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def begin(world: World) -> tuple[World, Memory]:
    """Join the ranks, and load what the libraries load when they are first used."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    use_cpu_well()
    torch.set_num_threads(1)
    world = deepspeed.connect(world, timeout_s=300)
    engine = build(world, SMALL, N_WORDS["small"])
    engine.full_state.create_moments(1)
    engine.destroy()
    return world, Memory()


def start_and_save(world: World, folder: Path) -> dict[str, float]:
    """Return what one rank takes to start and to save."""
    sizes, n_words = json.loads((folder / "sizes.json").read_text())
    world, memory = begin(world)
    began = time.perf_counter()
    engine = build(world, sizes, n_words)
    told: dict[str, float] = {"start_s": time.perf_counter() - began, "start": memory.peak()}
    told["owned at start"] = owned_bytes(engine)
    told["held after start"] = memory.now()
    engine.full_state.create_moments(1)
    told["owned at save"] = owned_bytes(engine)
    told["held before save"] = memory.now()
    told["save waits_s"], told["save_s"] = save(engine, folder / "checkpoints", world)
    told["save"] = memory.peak()
    told["parameters"] = n_parameters(engine)
    return told


def load_again(world: World, folder: Path) -> dict[str, float]:
    """Return what one rank takes to load, in a process that has saved nothing."""
    sizes, n_words = json.loads((folder / "sizes.json").read_text())
    world, memory = begin(world)
    engine = build(world, sizes, n_words)
    told: dict[str, float] = {"held before load": memory.now()}
    told["load_s"] = load(engine, folder / "checkpoints", world)
    told["load"] = memory.peak()
    told["owned at load"] = owned_bytes(engine)
    return told


def n_parameters(engine: Engine) -> int:
    return sum(torch.Size(shape).numel() for shape in engine.full_state.shapes().values())


@contextmanager
def counted(world: World) -> Iterator[dict[str, float]]:
    """Count, until the block ends, what this rank reads of parameters and to hash, and sends."""
    found = {"read": 0.0, "hashed": 0.0, "sent": 0.0}
    read, fingerprint = Parts.read, hashing.fingerprint

    def counting_read(self: Parts, name: str, key: str, at: int, into: torch.Tensor) -> None:
        found["read"] += 4 * into.numel()
        read(self, name, key, at, into)

    def counting_hash(path: Path, *, sync: bool = False) -> dict[str, Any]:
        found["hashed"] += path.stat().st_size
        return fingerprint(path, sync=sync)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Parts, "read", counting_read))
        stack.enter_context(mock.patch.object(hashing, "fingerprint", counting_hash))
        traffic = stack.enter_context(Traffic(world.world_size))
        yield found
    found["sent"] = sum(traffic.bytes_by_collective.values())


def count(world: World, folder: Path) -> dict[str, Any]:
    """Return the bytes that this rank reads, writes and sends of a small model, by moment."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    world = deepspeed.connect(world, timeout_s=300)
    told: dict[str, Any] = {}
    with counted(world) as told["start"]:
        engine = build(world, SMALL, N_WORDS["small"])
    engine.full_state.create_moments(1)
    with counted(world) as told["save"]:
        save(engine, folder / "checkpoints", world)
    path = folder / "checkpoints" / "step-00000001"
    own = [path / f"{kind}-{world.rank:05d}.safetensors" for kind in ("weights", "optimizer")]
    told["save"]["written"] = sum(file.stat().st_size for file in own)
    with counted(world) as told["load"]:
        load(engine, folder / "checkpoints", world)
    told["manifest"] = (path / MANIFEST).stat().st_size
    told["files"] = sum(file.stat().st_size for file in path.iterdir())
    told["parameters"] = n_parameters(engine)
    return told
