"""Writing and reading the tensors of checkpoints, whole or not at all, without unpickling.

A checkpoint is a directory ``step-00000040`` of safetensors and JSON:

- ``weights-R.safetensors`` and ``optimizer-R.safetensors`` of rank R: the parts of parameters that
  the rank owns, flat in fp32 by parameter name, and of the moments by ``NAME|exp_avg``.
- ``index.json``: each parameter's shape, and which ranks hold which part of it. The parts are the
  same whatever the ZeRO stage and precision that cut them, so a run may resume with any other, on
  any number of ranks: see `trainer.checkpoint.contents.index`.
- ``memory-R.safetensors``: each rank's memory, by stream id: see
  `trainer.checkpoint.contents.memories`.
- ``state.json``: the run's state, both configurations, hashes of corpus and vocabulary.
- ``manifest.json``: format version, size and hash of every file.

The directory is written under a temporary name, synced and renamed; then the pointer ``latest`` is
replaced. No rank sends weights or moments to another. Training waits only until all of them are
copied: see `save`.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.checkpoint import sealing
from trainer.checkpoint.contents.index import (
    INDEX,
    index_of,
    optimizer_file,
    read_index,
    weights_file,
    write_index,
)
from trainer.checkpoint.contents.memories import memory_tensors
from trainer.checkpoint.contents.parts import Parts
from trainer.checkpoint.contents.tensor_files import refuse_misfit, save_tensors
from trainer.checkpoint.hashing import fingerprint
from trainer.checkpoint.pointers import name_of
from trainer.distributed import World, gather_objects
from trainer.protocol import Memory

if TYPE_CHECKING:
    from trainer.engine.engine import Engine

T = TypeVar("T")


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

    All that steps change is copied before the first yield, so training can go on then: 12 bytes
    per parameter, divided among the ranks, in the host's memory, page-locked on the way from a
    GPU. Only where the state `saves_uncopied` are tensors written to their files at once, for
    which steps wait; files are brought to the disk, and hashed, while training goes on.

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
    draft = _Draft(sealing.draft_of(folder, step), world)
    if world.is_main:
        draft.attempt(lambda: sealing.begin(draft.path))
    draft.agree()
    shapes = engine.full_state.shapes()
    owned, places = _owned(engine, world.rank)
    at_once = owned if engine.full_state.saves_uncopied else {}
    held = {name: _copied(values) for name, values in owned.items() if name not in at_once}
    held[f"memory-{world.rank:05d}.safetensors"] = memory_tensors(memories)
    draft.attempt(lambda: draft.write(at_once))
    yield lambda: draft.attempt(lambda: draft.finish(held, written=at_once))
    draft.agree()
    told = _gathered_on_main((places, draft.listed), world)

    def seal() -> None:
        """Make the draft the checkpoint, on rank 0."""
        if world.is_main:
            listed = _listed(draft.path, shapes, told)
            sealing.seal(draft.path, folder / name_of(step), state=state, files=listed)

    yield lambda: draft.attempt(seal)
    draft.agree()


class _Draft:
    """A checkpoint that all ranks write; where one of them fails, it fails for all."""

    def __init__(self, path: Path, world: World) -> None:
        self.path, self.world = path, world
        self.listed: dict[str, Any] = {}
        """Size and hash of each file that this rank has finished, by name."""
        self._problem: str | None = None

    def attempt(self, action: Callable[[], None]) -> None:
        """Do `action`, unless an earlier one could not write; remember why one cannot."""
        if self._problem is not None:
            return
        try:
            action()
        except OSError as error:
            self._problem = str(error)

    def write(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Write files of tensors."""
        for name, values in tensors.items():
            save_tensors(values, self.path / name)

    def finish(self, tensors: dict[str, dict[str, Tensor]], *, written: Iterable[str]) -> None:
        """Write the rest of this rank's files; bring all to the disk, and list them."""
        for name, values in tensors.items():
            self.write({name: values})
            self.world.progress.note_work()
        for name in (*written, *tensors):
            self.listed[name] = fingerprint(self.path / name, sync=True)
            self.world.progress.note_work()

    def agree(self) -> None:
        """Raise the problems of all ranks on every rank, and remove the draft. Collective.

        Raises:
            OSError: on some rank an `attempt` failed.
        """
        told = [
            f"rank {rank}: {problem}"
            for rank, problem in enumerate(gather_objects(self._problem, self.world))
            if problem is not None
        ]
        if not told:
            return
        if self.world.is_main:
            shutil.rmtree(self.path, ignore_errors=True)
        name = self.path.name.removeprefix(sealing.DRAFT)
        raise OSError(f"checkpoint {name} was not written: {'; '.join(told)}")


def _listed(
    draft: Path,
    shapes: dict[str, tuple[int, ...]],
    told: list[tuple[list[tuple[str, int, int]], dict[str, Any]]],
) -> dict[str, Any]:
    """Write the index of the parts that ranks have told; return what the manifest lists."""
    write_index(index_of(shapes, {rank: parts for rank, (parts, _) in enumerate(told)}), draft)
    listed = {name: entry for _, found in told for name, entry in found.items()}
    return listed | {INDEX: fingerprint(draft / INDEX, sync=True)}


def _owned(
    engine: "Engine", rank: int
) -> tuple[dict[str, dict[str, Tensor]], list[tuple[str, int, int]]]:
    """Return the rank's tensors by file and name, and name, first element and size of each part."""
    weights, moments, places = {}, {}, []
    for name, begin, tensors in engine.full_state.parts():
        places.append((name, begin, tensors["weight"].numel()))
        for key, value in tensors.items():
            if key == "weight":
                weights[name] = value
            else:
                moments[f"{name}|{key}"] = value
    return {weights_file(rank): weights, optimizer_file(rank): moments}, places


def _gathered_on_main(value: T, world: World) -> list[T]:
    """Return all ranks' values in order of rank on rank 0, and nothing elsewhere."""
    if world.world_size == 1:
        return [value]
    boxes: list[Any] | None = [None] * world.world_size if world.is_main else None
    dist.gather_object(value, boxes, dst=0, group=world.group)
    return boxes or []


def _copied(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in the host's memory; those of a GPU's tensors are under way together."""
    copies = {}
    for name, value in values.items():
        on_gpu = value.device.type == "cuda"
        copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=on_gpu)
        copies[name] = copy.copy_(value, non_blocking=on_gpu)
    if any(value.device.type == "cuda" for value in values.values()):
        torch.cuda.synchronize()
    return copies


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a verified checkpoint's full fp32 weights by parameter name, on the CPU."""
    index = read_index(path)
    parts, weights = Parts(path, index), {}
    parts.check()  # before memory is taken for what the index says
    for name, (shape, _) in index.items():
        weights[name] = torch.empty(shape)
        parts.read(name, "weight", 0, weights[name].view(-1))
    return weights


def read_second_moments(path: Path) -> dict[str, Tensor]:
    """Return a verified checkpoint's second moments by parameter name, fp32 on the CPU.

    Raises:
        InputError: it does not hold them.
    """
    index = read_index(path)
    parts, moments = Parts(path, index), {}
    for name, (shape, _) in index.items():
        moments[name] = torch.empty(shape)
        parts.read(name, "exp_avg_sq", 0, moments[name].view(-1))
    return moments


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a verified checkpoint's weights by parameter name."""
    return {name: entry.shape for name, entry in read_index(path).items()}


def load_engine(path: Path, engine: "Engine", *, optimizer_step: int) -> None:
    """Load a verified checkpoint's weights into `engine`, and its moments if there are any.

    There are moments if `optimizer_step`, the number of updates that they have seen, is not 0.
    A rank reads only what it owns, and what it has a copy of.

    Raises:
        InputError: see `refuse_misfit`.
    """
    index = read_index(path)
    shapes = {name: entry.shape for name, entry in index.items()}
    refuse_misfit(shapes, engine.full_state.shapes(), where=path)
    engine.full_state.write(Parts(path, index).read, optimizer_step=optimizer_step)
