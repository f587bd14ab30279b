"""Checkpoints: written whole or not at all, verified before they are believed, never unpickled.

A checkpoint is a directory ``step-00000040`` of safetensors and JSON:

- ``weights-R.safetensors`` and ``optimizer-R.safetensors``: full fp32 tensors by parameter name,
  each parameter in one rank's file. The same form for every ZeRO stage, precision and number of
  ranks, so any of them resumes from it, and no unpickling code is ever run.
- ``memory-R.safetensors``: each rank's memory, by stream id.
- ``state.json``: the run's state, both configurations, hashes of corpus and vocabulary.
- ``manifest.json``: format version, size and hash of every file.

It is written under a temporary name, synced, renamed; then the pointer ``latest`` is replaced.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer.distributed import World, barrier, broadcast_object, gather_objects
from trainer.errors import InputError
from trainer.files import sync_directory, write_atomically
from trainer.protocol import Memory

if TYPE_CHECKING:
    from trainer.engine import Engine

log = logging.getLogger(__name__)

FORMAT = 1


def directory(run_dir: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run_dir / "checkpoints"


def name_of(step: int) -> str:
    """Directory name of the checkpoint at `step`."""
    return f"step-{step:08d}"


def save(
    folder: Path,
    *,
    step: int,
    state: dict[str, Any],
    engine: "Engine",
    memories: list[tuple[list[int], Memory]],
    world: World,
) -> Path:
    """Write a checkpoint and point ``latest`` at it. Collective.

    Args:
        folder: see `directory`.
        step: names the checkpoint; one of the same name is replaced.
        state: JSON values, the same on every rank; rank 0's are written.
        engine: whose weights and optimizer state are gathered.
        memories: per slot, the stream ids of its rows and the memory.
        world: this process among its peers.

    Raises:
        OSError: on every rank, when any rank could not write. Older checkpoints are untouched.
    """
    temporary = folder / f".writing-{name_of(step)}"
    if world.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True, exist_ok=True)
    barrier(world)
    tensors = _gather_tensors(engine, world) | {"memory": _memory_tensors(memories)}
    problem, entries = None, {}
    try:
        for kind, values in tensors.items():
            path = temporary / f"{kind}-{world.rank:05d}.safetensors"
            save_file(values, path)
            entries[path.name] = _entry(path)
    except (OSError, SafetensorError) as error:
        problem = f"rank {world.rank}: {error}"
    gathered = gather_objects((problem, entries), world)
    problems = [problem for problem, _ in gathered if problem]
    if not problems and world.is_main:
        try:
            _seal(temporary, folder / name_of(step), state, [files for _, files in gathered])
        except OSError as error:
            problems = [f"rank 0: {error}"]
    problems = broadcast_object(problems, world)
    if problems:
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"checkpoint {name_of(step)} was not written: {'; '.join(problems)}")
    return folder / name_of(step)


def point(folder: Path, name: str, target: str) -> None:
    """Atomically let the pointer `name` (``latest``, ``best``) name a checkpoint. Rank 0."""
    write_atomically(folder / name, target + "\n")


def prune(folder: Path, *, keep_last: int) -> None:
    """Delete all but the newest `keep_last` checkpoints and those pointed at. Rank 0."""
    pointed = {_pointed(folder, name) for name in ("latest", "best")}
    for path in _all(folder)[keep_last:]:
        if path.name not in pointed:
            shutil.rmtree(path, ignore_errors=True)


def verify(path: Path) -> dict[str, Any]:
    """Check every file against the manifest and return the checkpoint's state.

    Raises:
        InputError: what is missing or differs.
    """
    if not (path / "manifest.json").is_file():
        raise InputError(f"{path}: no checkpoint here (manifest.json is missing)")
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        version, files = manifest["format"], manifest["files"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}/manifest.json is corrupt: use another checkpoint") from None
    if version != FORMAT:
        raise InputError(f"{path}: format {version}; this version reads format {FORMAT}")
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{file} is missing: use another checkpoint")
        found = _entry(file, sync=False)
        if found != expected:
            raise InputError(f"{file} is corrupt: has {found}, should be {expected}")
    state: dict[str, Any] = json.loads((path / "state.json").read_bytes())
    return state


def resolve(run_dir: Path, which: str) -> Path:
    """Path of the checkpoint that `which` names: best, last, a step, or a path.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    folder = directory(run_dir)
    if which in ("best", "last"):
        target = _pointed(folder, "best" if which == "best" else "latest")
        found = folder / target if target else None
    elif which.isdigit():
        found = folder / name_of(int(which))
    else:
        found = Path(which)
    if found is None or not found.is_dir():
        there = ", ".join(path.name for path in _all(folder)) or "none"
        raise InputError(f"{run_dir}: no checkpoint {which!r}; there are: {there}")
    return found


def newest_whole(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that verifies, with its state; says which it skipped and why."""
    pointed = _pointed(folder, "latest")
    candidates = sorted(_all(folder), key=lambda path: path.name != pointed)
    for path in candidates:
        try:
            return path, verify(path)
        except InputError as error:
            log.warning("skipped a checkpoint: %s", error)
    return None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Full fp32 weights by parameter name, on the CPU, of a verified checkpoint."""
    weights: dict[str, Tensor] = {}
    for file in sorted(path.glob("weights-*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            weights |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    return weights


def load_engine(path: Path, engine: "Engine", *, optimizer_step: int, moments: bool = True) -> None:
    """Put a verified checkpoint's weights, and unless told otherwise its moments, into `engine`.

    Raises:
        InputError: parameters are missing, or there are some too many.
    """
    kinds = ("weights", "optimizer") if moments and optimizer_step > 0 else ("weights",)
    index: dict[str, dict[str, Path]] = {}
    for kind in kinds:
        for file in sorted(path.glob(f"{kind}-*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118
                    name, _, part = key.partition("|")
                    index.setdefault(name, {})[part or "weight"] = file
    expected = {name for name, _ in engine.full_state.sizes()}
    if expected != set(index):
        raise InputError(
            f"{path} does not fit the model: it lacks {sorted(expected - set(index))} "
            f"and has {sorted(set(index) - expected)} besides"
        )

    def read(name: str) -> dict[str, Tensor]:
        values = {}
        for part, file in index[name].items():
            with safe_open(file, framework="pt") as tensors:
                values[part] = tensors.get_tensor(name if part == "weight" else f"{name}|{part}")
        return values

    engine.full_state.write(read, optimizer_step=optimizer_step if moments else 0)


def read_memories(
    path: Path, stream_ids: list[list[int]], *, dtype: torch.dtype, device: torch.device
) -> list[Memory]:
    """Per slot, the saved memory of the streams this rank now reads, whoever had them before."""
    files = sorted(path.glob("memory-*.safetensors"))
    opened: list[Any] = [safe_open(file, framework="pt") for file in files]
    place = {
        int(stream): (tensors, row)
        for tensors in opened
        for row, stream in enumerate(tensors.get_tensor("stream_ids").tolist())
    }
    memories = []
    for ids in stream_ids:
        rows = [place[stream] for stream in ids]
        hidden = [t.get_slice("hidden_LBMD")[:, row : row + 1] for t, row in rows]
        valid_B = torch.stack([t.get_tensor("valid_B")[row] for t, row in rows])
        hidden_LBMD = torch.cat(hidden, dim=1).to(device=device, dtype=dtype)
        memories.append(Memory(hidden_LBMD, valid_B.to(device), int(valid_B.min())))
    return memories


def _gather_tensors(engine: "Engine", world: World) -> dict[str, dict[str, Tensor]]:
    """This rank's share of the full state; sizes are balanced, largest parameter first."""
    load = [0] * world.world_size
    owner = {}
    for name, numel in sorted(engine.full_state.sizes(), key=lambda item: -item[1]):
        owner[name] = load.index(min(load))
        load[owner[name]] += numel
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


def _memory_tensors(memories: list[tuple[list[int], Memory]]) -> dict[str, Tensor]:
    return {
        "stream_ids": torch.tensor([stream for ids, _ in memories for stream in ids]),
        "valid_B": torch.cat([memory.valid_B.cpu() for _, memory in memories]),
        "hidden_LBMD": torch.cat([memory.hidden_LBMD.cpu() for _, memory in memories], dim=1),
    }


def _seal(
    temporary: Path, final: Path, state: dict[str, Any], entries: list[dict[str, Any]]
) -> None:
    (temporary / "state.json").write_text(json.dumps(state, indent=1))
    files = {"state.json": _entry(temporary / "state.json")}
    for part in entries:
        files |= part
    manifest = temporary / "manifest.json"
    manifest.write_text(json.dumps({"format": FORMAT, "files": files}, indent=1))
    _entry(manifest)
    sync_directory(temporary)
    replaced = final.with_name(f".replaced-{final.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        final.rename(replaced)
    temporary.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)
    sync_directory(final.parent)
    point(final.parent, "latest", final.name)


def _entry(path: Path, *, sync: bool = True) -> dict[str, Any]:
    """Size and hash of a file; synced to disk first when it was just written."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


def _all(folder: Path) -> list[Path]:
    """Checkpoints under their final name, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _pointed(folder: Path, name: str) -> str | None:
    path = folder / name
    return path.read_text().strip() if path.is_file() else None
