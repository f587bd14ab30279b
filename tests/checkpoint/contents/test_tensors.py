"""A checkpoint is there whole or not at all, is verified before it is believed, never unpickled."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import lone_world
from file_changes import killed_before_change
from saved_checkpoints import LISTED, Trained, contents, save

from trainer.checkpoint import folder as files
from trainer.checkpoint import sealing
from trainer.checkpoint.contents import tensors as checkpoint
from trainer.checkpoint.contents.memories import read_memories
from trainer.checkpoint.hashing import fingerprint
from trainer.engine.full_state import MOMENTS, Read
from trainer.errors import InputError
from trainer.training.background import Background


def test_what_was_saved_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert files.verify(path)["train"] == {"step": 7}
    draws = torch.Generator().manual_seed(7)
    expected = {name: torch.randn(30, 10, generator=draws) for name in ("a", "b.c")}
    weights = checkpoint.read_weights(path)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_nothing_in_a_checkpoint_is_ever_unpickled(tmp_path: Path) -> None:
    class Poison:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "poisoned"),)

    poison = pickle.dumps(Poison())
    for name in [*LISTED, "manifest.json"]:
        path = save(tmp_path / name, 1)
        (path / name).write_bytes(poison)
        if name.endswith("tensors") or name == "index.json":  # with a manifest that fits
            values = json.loads((path / "manifest.json").read_text())
            values["files"][name] = fingerprint(path / name)
            (path / "manifest.json").write_text(json.dumps(values))
        with pickles_watched() as seen, pytest.raises(InputError, match=name):
            read_whole(path)
        assert seen == []
    with pickles_watched() as seen:
        pickle.loads(poison)
    assert seen
    assert (tmp_path / "poisoned").exists()


def read_whole(path: Path) -> None:
    """Do all that a resuming run does with a checkpoint, to an engine that keeps nothing of it."""
    files.verify(path)
    checkpoint.read_weights(path)
    read_memories(path, [[0]], unread=[Trained(0).unread(1)])
    shapes = {"a": (30, 10), "b.c": (30, 10)}

    def write(read: Read, *, optimizer_step: int) -> None:
        for name in shapes:
            for key in ("weight", *MOMENTS):
                read(name, key, 0, torch.empty(300))

    full_state = SimpleNamespace(shapes=lambda: shapes, write=write)
    engine: Any = SimpleNamespace(full_state=full_state)
    checkpoint.load_engine(path, engine, optimizer_step=1)


_seen: list[str] | None = None


@contextlib.contextmanager
def pickles_watched() -> Iterator[list[str]]:
    """Yield a list of what any unpickler looks up; audit hooks stay, so this one is mostly deaf."""
    global _seen
    if not hasattr(pickles_watched, "hooked"):
        sys.addaudithook(lambda name, args: _note(name, args))
        pickles_watched.hooked = True  # type: ignore[attr-defined]
    _seen = seen = []
    try:
        yield seen
    finally:
        _seen = None


def _note(name: str, args: tuple[Any, ...]) -> None:
    if _seen is not None and name == "pickle.find_class":
        _seen.append(f"{args[0]}.{args[1]}")


def test_a_checkpoint_of_other_sizes_is_refused_with_all_that_differs(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    found = checkpoint.read_shapes(path)
    checkpoint.refuse_misfit(found, {"a": (30, 10), "b.c": (30, 10)}, where=path)
    with pytest.raises(InputError) as refusal:
        checkpoint.refuse_misfit(found, {"a": (30, 11), "d": (2,)}, where=path)
    for told in (
        "a is 30×10, the model's 30×11",
        "b.c is 30×10, the model's missing",
        "d is missing, the model's 2",
    ):
        assert told in str(refusal.value)


@pytest.mark.parametrize("largest_bytes", [0, 100, 700, 4000])
def test_a_disk_that_is_full_leaves_all_as_it_was(tmp_path: Path, largest_bytes: int) -> None:
    save(tmp_path, 1)
    before = contents(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, hard))
    try:
        with pytest.raises(OSError, match=r"step-00000002 was not written: rank 0: .*too large"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path) == before
    assert save(tmp_path, 2) == files.newest_whole(tmp_path).path


def test_a_folder_that_cannot_be_made_is_reported_as_a_failed_save(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with pytest.raises(OSError, match="step-00000001 was not written"):
        save(tmp_path / "checkpoints", 1)


def save_beside_steps(folder: Path, step: int) -> None:
    """Save as `save` does, by a thread."""
    background = Background(lone_world())
    background.start(Trained(step).saving(folder, lone_world()))
    background.wait()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("save_last", [save, save_beside_steps])
def test_a_kill_at_any_file_operation_leaves_a_whole_newest(
    tmp_path: Path, save_last: Callable[[Path, int], object]
) -> None:
    folder = tmp_path / "checkpoints"
    survived, newest = [], []
    for n in range(1, 200):
        shutil.rmtree(folder, ignore_errors=True)
        for step in (1, 2):
            save(folder, step)
        killed = killed_before_change(
            n, lambda: (save_last(folder, 3), sealing.prune(folder, keep_last=1))
        )
        found = files.newest_whole(folder)
        assert found.path is not None
        newest.append(found.state["train"]["step"])
        target = files.resolve(tmp_path, "last")
        survived.append(files.verify(target)["train"]["step"])
        if not killed:
            break
        save(folder, 4)
        assert [p.name for p in folder.iterdir() if p.name.startswith((".w", ".rep"))] == []
    assert n > 15
    assert newest == sorted(newest)
    assert survived == sorted(survived)
    assert set(newest) == set(survived) == {2, 3}
