"""Who reads a run in training reads a whole checkpoint of it, whatever is deleted meanwhile."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from ranks import told_by_ranks

from trainer.checkpoint import folder as files
from trainer.checkpoint.living import MOST_DELETED, reading
from trainer.checkpoint.pointers import point
from trainer.distributed import World
from trainer.errors import InputError
from trainer.inference import source


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a run that saved steps 2, 4 and 6, as it was when 4 was its newest."""
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    go_on(run_dir, 4)
    return run_dir


def go_on(run_dir: Path, step: int, *, delete: int | None = None) -> None:
    """Do what a training does when it has saved `step`."""
    folder = files.directory(run_dir)
    for pointer in ("latest", "best"):
        point(folder, pointer, files.name_of(step))
    if delete is not None:
        shutil.rmtree(folder / files.name_of(delete))


@pytest.mark.parametrize("which", ["last", "best"])
def test_of_a_checkpoint_that_is_deleted_meanwhile_the_newer_one_is_read(
    run: Path, which: str
) -> None:
    tried: list[str] = []

    def read(path: Path) -> dict[str, Any]:
        tried.append(path.name)
        if len(tried) == 1:
            go_on(run, 6, delete=4)
        return files.verify(path)

    assert reading(run, which, read)["train"]["step"] == 6
    assert tried == [files.name_of(4), files.name_of(6)]


def test_one_that_is_replaced_while_it_is_read_is_read_again(run: Path) -> None:
    tried: list[str] = []

    def read(path: Path) -> dict[str, Any]:
        found = files.verify(path)
        tried.append(path.name)
        if len(tried) == 1:  # as a run does that saves the same step again
            other = path.with_name("other")
            shutil.copytree(path, other)
            shutil.rmtree(path)
            other.rename(path)
        return found

    assert reading(run, "last", read)["train"]["step"] == 4
    assert len(tried) == 2


def test_a_step_that_is_deleted_while_it_is_read_is_one_line(run: Path) -> None:
    def read(path: Path) -> dict[str, Any]:
        go_on(run, 6, delete=4)
        return files.verify(path)

    with pytest.raises(InputError, match="step-00000004 was deleted or replaced while it was read"):
        reading(run, "4", read)


def test_a_run_that_deletes_faster_than_can_be_read_is_told_so(run: Path) -> None:
    tried: list[str] = []

    def read(path: Path) -> None:
        tried.append(path.name)
        step = 4 + len(tried)
        (files.directory(run) / files.name_of(step)).mkdir(exist_ok=True)
        go_on(run, step, delete=step - 1)

    with pytest.raises(InputError, match="faster than they can be read"):
        reading(run, "last", read)
    assert len(tried) == MOST_DELETED


def test_what_is_wrong_with_one_that_is_there_is_said_at_once(run: Path) -> None:
    weights = files.directory(run) / files.name_of(4) / "weights-00000.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    tried: list[Path] = []

    def read(path: Path) -> dict[str, Any]:
        tried.append(path)
        return files.verify(path)

    with pytest.raises(InputError, match="is corrupt"):
        reading(run, "last", read)
    assert len(tried) == 1


def test_nothing_of_a_checkpoint_is_read_once_it_is_open(run: Path) -> None:
    found = source.read_source(run, "last")
    go_on(run, 6, delete=4)
    whole = source.read_source(run, "last")
    assert found.path.name == files.name_of(4)
    assert set(found.weights) == set(whole.weights)
    assert all(weight.isfinite().all() for weight in found.weights.values())
    assert list(found.weights_hash) == ["weights-00000.safetensors"]
    assert found.weights_hash != whole.weights_hash


def _two_read(world: World, folder: Path) -> list[Any]:
    """Return what each rank reads; before rank 1 begins, what rank 0 has read is deleted."""
    read_source = source.read_source
    tried: list[str] = []

    def read(path: Path, which: str, **hashed: Any) -> source.Source:
        tried.append(which)
        if world.rank == 1 and len(tried) == 1:
            go_on(path, 6, delete=4)
        return read_source(path, which, **hashed)

    source.read_source = read
    found = source.read_together(folder / "run", "last", world)
    try:
        source.read_together(folder / "run", "4", world)
        told = ""
    except InputError as error:
        told = str(error)
    return [found.path.name, found.weights_hash, told]


def test_all_ranks_read_the_same_checkpoint(run: Path) -> None:
    first, second = told_by_ranks(_two_read, run.parent)
    assert first == second
    assert first[0] == files.name_of(6)
    assert "no checkpoint" in first[2]
