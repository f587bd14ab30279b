"""Checkpoints for the tests of what is on disk, written without training anything."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from builders import CPU, lone_world

from trainer.checkpoint import pointers
from trainer.checkpoint.contents import tensors
from trainer.checkpoint.contents.tensor_files import load_tensors
from trainer.checkpoint.folder import resolve
from trainer.checkpoint.hashing import fingerprint
from trainer.distributed import World
from trainer.engine.full_state import Part
from trainer.model.memory.inputs import LayerInputs, empty_memory

KINDS = ("weights", "optimizer", "memory")
TENSOR_FILES = [f"{kind}-00000.safetensors" for kind in KINDS]
#: All files of a checkpoint of one rank that its manifest lists.
LISTED = [*TENSOR_FILES, "index.json", "state.json"]


class Trained:
    """Tensors that a run would have after a step: random ones, seeded by the step."""

    def __init__(self, step: int, *, uncopied: bool = False, attempt: int | None = None) -> None:
        self.train = {"step": step} | ({} if attempt is None else {"attempt": attempt})
        draws = torch.Generator().manual_seed(step)
        weights = {name: torch.randn(30, 10, generator=draws) for name in ("a", "b.c")}
        self.items = {
            name: {"weight": weight, "exp_avg": weight + 1, "exp_avg_sq": weight**2}
            for name, weight in weights.items()
        }
        layers = tuple(torch.randn(2, 4, 3, 5, generator=draws))
        self.uncopied = uncopied
        self.step, self.memory = step, LayerInputs(layers, torch.arange(4) % 4, 0)

    @staticmethod
    def unread(n_streams: int, *, dtype: torch.dtype = torch.float32) -> LayerInputs:
        """Return memory of the same shapes that has read nothing."""
        return empty_memory(2, n_streams, 3, 5, dtype=dtype, device=CPU)

    def train_on(self) -> None:
        """Change every tensor where it is."""
        items = [tensor for item in self.items.values() for tensor in item.values()]
        for tensor in [*items, *self.memory.layers, self.memory.valid_B]:
            tensor.add_(1)

    def parts(self, world: World) -> list[Part]:
        """Return what the rank owns: of all parameters the same share."""
        low, high = (300 * i // world.world_size for i in (world.rank, world.rank + 1))
        return [
            Part(name, low, {key: value.flatten()[low:high] for key, value in item.items()})
            for name, item in self.items.items()
        ]

    def saving(self, folder: Path, world: World) -> Iterator[Callable[[], None]]:
        """Return the job that saves the tensors."""
        full_state = SimpleNamespace(
            shapes=lambda: {name: tuple(item["weight"].shape) for name, item in self.items.items()},
            parts=lambda: iter(self.parts(world)),
            saves_uncopied=self.uncopied,
        )
        engine: Any = SimpleNamespace(full_state=full_state)
        return tensors.save(
            folder,
            step=self.step,
            engine=engine,
            world=world,
            state={
                "experiment": {},
                "vocabulary": "0",
                "corpus": "0",
                "precision": "fp32",
                "train": self.train,
                "engine": {"optimizer_step": self.step},
            },
            memories=[([3, 1, 0, 2], self.memory)],
        )


def save(folder: Path, step: int, *, attempt: int | None = None) -> Path:
    """Return a checkpoint of random tensors, seeded by the step."""
    for work in Trained(step, attempt=attempt).saving(folder, lone_world()):
        work()
    return folder / pointers.name_of(step)


def memory_by_stream(path: Path) -> dict[str, torch.Tensor]:
    """Return what a checkpoint has of the memory of all streams, in their order."""
    parts = [load_tensors(file) for file in sorted(path.glob("memory-*.safetensors"))]
    together = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = together.pop("stream_ids").argsort()
    return {name: saved[order] for name, saved in together.items()}


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`, hidden ones as well, but the logs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder / "logs"
    }


def flip_a_bit(file: Path) -> None:
    """Flip a bit, as a disk does in its old age."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    """Cut the last byte off a file."""
    file.write_bytes(file.read_bytes()[:-1])


def alter_state(run: Path, old: str, new: str) -> None:
    """Change what the last checkpoint of a run says of it, and keep it whole."""
    path = resolve(run, "last")
    state, manifest = path / "state.json", path / "manifest.json"
    assert old in state.read_text()
    state.write_text(state.read_text().replace(old, new))
    listed = json.loads(manifest.read_text())
    listed["files"]["state.json"] = fingerprint(state)
    manifest.write_text(json.dumps(listed))


def alter_train_state(run: Path, **changes: Any) -> None:
    """Let the last checkpoint of a run remember other values than it had."""
    state = resolve(run, "last") / "state.json"
    old = state.read_text()
    values = json.loads(old)
    values["train"] |= changes
    alter_state(run, old, json.dumps(values))
