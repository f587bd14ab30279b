"""Checkpoints for the tests of what is on disk, written without training anything."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from builders import lone_world

from trainer import checkpoint, checkpoint_files
from trainer.protocol import Memory

KINDS = ("weights", "optimizer", "memory")
TENSOR_FILES = [f"{kind}-00000.safetensors" for kind in KINDS]


def save(folder: Path, step: int) -> Path:
    """A checkpoint of random tensors, seeded by the step."""
    draws = torch.Generator().manual_seed(step)
    weights = {name: torch.randn(30, 10, generator=draws) for name in ("a", "b.c")}
    full_state = SimpleNamespace(
        shapes=lambda: {name: tuple(weight.shape) for name, weight in weights.items()},
        read=lambda: iter(
            (name, {"weight": weight, "exp_avg": weight + 1, "exp_avg_sq": weight**2})
            for name, weight in weights.items()
        ),
    )
    hidden_LBMD = torch.randn(2, 4, 3, 5, generator=draws)
    engine: Any = SimpleNamespace(full_state=full_state)
    for work in checkpoint.save(
        folder, step=step, state={"train": {"step": step}, "engine": {"optimizer_step": step}},
        engine=engine, world=lone_world(),
        memories=[([3, 1, 0, 2], Memory(hidden_LBMD, torch.arange(4) % 4, 0))],
    ):  # fmt: skip
        work()
    return folder / checkpoint_files.name_of(step)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones as well, but the logs."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder / "logs"
    }


def flip_a_bit(file: Path) -> None:
    """What a disk does in its old age."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
