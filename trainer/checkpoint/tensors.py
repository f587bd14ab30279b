"""Checkpoints: written whole or not at all, verified before they are believed, never unpickled.

A checkpoint is a directory ``step-00000040`` of safetensors and JSON:

- ``weights-R.safetensors`` and ``optimizer-R.safetensors``: full fp32 tensors by parameter name,
  each parameter in one rank's file. The same form for every ZeRO stage, precision and number of
  ranks, so any of them resumes from it, and no unpickling code is ever run.
- ``memory-R.safetensors``: each rank's memory, by stream id: see `trainer.checkpoint.memories`.
- ``state.json``: the run's state, both configurations, hashes of corpus and vocabulary.
- ``manifest.json``: format version, size and hash of every file.

It is written under a temporary name, synced, renamed; then the pointer ``latest`` is replaced.
Only copying what is saved into the host's memory has to be waited for: see `save`.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.checkpoint import folder as files
from trainer.checkpoint.memories import memory_tensors
from trainer.checkpoint.pointers import name_of
from trainer.checkpoint.tensor_files import load_tensors, open_tensors, save_tensors
from trainer.distributed import World, gather_objects
from trainer.errors import InputError, first_few
from trainer.protocol import Memory

if TYPE_CHECKING:
    from trainer.engine.deepspeed import Engine


def save(
    folder: Path,
    *,
    step: int,
    state: dict[str, Any],
    engine: "Engine",
    memories: list[tuple[list[int], Memory]],
    world: World,
) -> Iterator[Callable[[], None]]:
    """Write a checkpoint and point ``latest`` at it, as a background job. Collective.

    What is saved is copied before the first work is yielded: steps may go on meanwhile. Each rank
    then holds its share of 12 bytes per parameter, and its memories, in the host's memory.

    Args:
        folder: see `checkpoint_files.directory`.
        step: names the checkpoint; one of the same name is replaced.
        state: JSON values, the same on every rank; rank 0's are written.
        engine: whose weights and optimizer state are gathered.
        memories: per slot, the stream ids of its rows and the memory.
        world: this process among its peers.

    Yields:
        Work without collectives, for any thread; resumed when all ranks have done theirs.

    Raises:
        OSError: on every rank, when any rank could not write. Older checkpoints are untouched.
    """
    draft, final = files.draft_of(folder, step), folder / name_of(step)
    problems: list[str] = []
    written: dict[str, Any] = {}

    def write() -> None:
        for kind, values in tensors.items():
            path = draft / f"{kind}-{world.rank:05d}.safetensors"
            save_tensors(values, path)
            written[path.name] = files.fingerprint(path, sync=True)

    def seal() -> None:
        if world.is_main:
            listed = {name: entry for part in everyones for name, entry in part.items()}
            files.seal(draft, final, state=state, files=listed)

    if world.is_main:
        _try(lambda: files.begin(draft), problems)
    _raise_together(problems, draft, world)
    tensors = _gather_tensors(engine, world) | {"memory": memory_tensors(memories)}
    yield lambda: _try(write, problems)
    _raise_together(problems, draft, world)
    everyones = gather_objects(written, world)
    yield lambda: _try(seal, problems)
    _raise_together(problems, draft, world)


def _try(action: Callable[[], None], problems: list[str]) -> None:
    """Note what kept `action` from writing, if anything."""
    try:
        action()
    except OSError as error:
        problems.append(str(error))


def _raise_together(problems: list[str], draft: Path, world: World) -> None:
    """Raise all ranks' problems on all ranks, and remove the draft; nothing if there are none."""
    told = [
        f"rank {rank}: {problem}"
        for rank, found in enumerate(gather_objects(problems, world))
        for problem in found
    ]
    if not told:
        return
    if world.is_main:
        shutil.rmtree(draft, ignore_errors=True)
    name = draft.name.removeprefix(files.DRAFT)
    raise OSError(f"checkpoint {name} was not written: {'; '.join(told)}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Full fp32 weights by parameter name, on the CPU, of a verified checkpoint."""
    weights: dict[str, Tensor] = {}
    for file in sorted(path.glob("weights-*.safetensors")):
        weights |= load_tensors(file)
    return weights


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a verified checkpoint's weights, by parameter name."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(path.glob("weights-*.safetensors")):
        with open_tensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                found[name] = tuple(tensors.get_slice(name).get_shape())
    return found


def refuse_misfit(
    found: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], *, where: Path
) -> None:
    """Compare the shapes of weights with a model's, by parameter name.

    Raises:
        InputError: all that differs.
    """
    differing = [
        f"{name} is {_shape(found.get(name))}, the model's {_shape(shapes.get(name))}"
        for name in sorted({*found, *shapes})
        if found.get(name) != shapes.get(name)
    ]
    if differing:
        raise InputError(f"{where} does not fit the model: {first_few(differing, separator='; ')}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a number"


def load_engine(path: Path, engine: "Engine", *, optimizer_step: int) -> None:
    """Put a verified checkpoint's weights into `engine`, and its moments after `optimizer_step`.

    Without an optimizer step there are no moments to put.

    Raises:
        InputError: see `refuse_misfit`.
    """
    refuse_misfit(read_shapes(path), engine.full_state.shapes(), where=path)
    index: dict[str, dict[str, Path]] = {}
    for kind in ("weights", "optimizer") if optimizer_step > 0 else ("weights",):
        for file in sorted(path.glob(f"{kind}-*.safetensors")):
            with open_tensors(file) as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    index.setdefault(key.partition("|")[0], {})[key] = file

    def read(name: str) -> dict[str, Tensor]:
        values = {}
        for key, file in index[name].items():
            with open_tensors(file) as tensors:
                values[key.partition("|")[2] or "weight"] = tensors.get_tensor(key)
        return values

    engine.full_state.write(read, optimizer_step=optimizer_step)


def _gather_tensors(engine: "Engine", world: World) -> dict[str, dict[str, Tensor]]:
    """This rank's share of the full state; sizes are balanced, largest parameter first."""
    load = [0] * world.world_size
    owner = {}
    sizes = {name: math.prod(shape) for name, shape in engine.full_state.shapes().items()}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        owner[name] = load.index(min(load))
        load[owner[name]] += sizes[name]
    weights, moments = {}, {}
    for name, values in engine.full_state.read():
        if owner[name] != world.rank:
            continue
        for key, value in values.items():
            kept = value.detach().to("cpu", torch.float32, copy=True).contiguous()
            if key == "weight":
                weights[name] = kept
            else:
                moments[f"{name}|{key}"] = kept
    return {"weights": weights, "optimizer": moments}
