"""Writing and reading the tensors of checkpoints, whole or not at all, without unpickling.

A checkpoint is a directory ``step-00000040`` of safetensors and JSON:

- ``weights-R.safetensors`` and ``optimizer-R.safetensors`` of rank R: full fp32 tensors by
  parameter name, each parameter in one rank's file. The form does not depend on ZeRO stage,
  precision or number of ranks, so a run may resume with any other.
- ``memory-R.safetensors``: each rank's memory, by stream id: see `trainer.checkpoint.memories`.
- ``state.json``: the run's state, both configurations, hashes of corpus and vocabulary.
- ``manifest.json``: format version, size and hash of every file.

The directory is written under a temporary name, synced and renamed; then the pointer ``latest`` is
replaced. Training waits only until everything is copied to the host's memory: see `save`.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.checkpoint import folder as files
from trainer.checkpoint.memories import memory_tensors
from trainer.checkpoint.pointers import name_of
from trainer.checkpoint.tensor_files import (
    load_tensors,
    open_tensors,
    refuse_misfit,
    save_tensors,
)
from trainer.distributed import World, gather_objects
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

    Everything is copied to the host's memory before the first yield, so training can go on then.
    The copy takes 12 bytes per parameter, divided among the ranks, and each rank's own memories.

    Args:
        folder: see `trainer.checkpoint.folder.directory`.
        step: gives the checkpoint its name; a checkpoint of the same name is replaced.
        state: JSON values, the same on every rank; rank 0's are written.
        engine: the engine whose weights and optimizer state are saved.
        memories: per slot, the stream ids of its rows and the memory.
        world: this process among its peers.

    Yields:
        Work without collectives, for any thread; to be resumed when all ranks have done theirs.

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
    """Do `action`, and add its error to `problems` if it could not write."""
    try:
        action()
    except OSError as error:
        problems.append(str(error))


def _raise_together(problems: list[str], draft: Path, world: World) -> None:
    """If any rank has problems, remove the draft and raise all problems on all ranks."""
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
    """Return a verified checkpoint's full fp32 weights by parameter name, on the CPU."""
    weights: dict[str, Tensor] = {}
    for file in sorted(path.glob("weights-*.safetensors")):
        weights |= load_tensors(file)
    return weights


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a verified checkpoint's weights by parameter name."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(path.glob("weights-*.safetensors")):
        with open_tensors(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                found[name] = tuple(tensors.get_slice(name).get_shape())
    return found


def load_engine(path: Path, engine: "Engine", *, optimizer_step: int) -> None:
    """Load a verified checkpoint's weights into `engine`, and its moments if there are any.

    There are moments if `optimizer_step`, the number of updates that they have seen, is not 0.

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
    """Return copies of the parameters' state that this rank saves.

    Parameters are shared out from the largest down, each to the rank that has the least so far.
    """
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
