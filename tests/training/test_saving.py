"""Saving goes on beside the steps: what is saved, what is said of it, what a fault does to it."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import lone_world
from ranks import told_by_ranks
from saved_checkpoints import Trained, contents, save
from training import ROOT, Case, checkpoint_hashes, environment, events, losses, run_cases

from trainer.checkpoint import pointers
from trainer.checkpoint.folder import STATE, directory, verify
from trainer.checkpoint.pointers import name_of
from trainer.checkpoint.saved_state import read_state
from trainer.checkpoint.sealing import draft_of
from trainer.checkpoint.state import TrainState
from trainer.distributed import World
from trainer.errors import Exit
from trainer.track.run_files.status import read_status
from trainer.training import saving
from trainer.training.background import Background

TRAIN = str(ROOT / "launch" / "train.py")
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc_per_node",
    "2",
    "--rdzv_backend",
    "c10d",
    "--rdzv_endpoint",
    "localhost:0",
]


@pytest.mark.parametrize("uncopied", [False, True])
@pytest.mark.parametrize("n_works_before", [0, 1, 2])
def test_a_checkpoint_is_of_the_step_at_which_saving_it_began(
    tmp_path: Path, n_works_before: int, uncopied: bool
) -> None:
    at_once = save(tmp_path / "at once", 7)
    trained = Trained(7, uncopied=uncopied)
    for number, work in enumerate(trained.saving(tmp_path / "beside steps", lone_world())):
        if number >= n_works_before:
            trained.train_on()
        work()
    assert contents(tmp_path / "beside steps") == contents(at_once.parent)


def in_the_background(world: World, folder: Path) -> dict[str, Any]:
    """Save on two ranks; then the disk of rank 1 is full; then it is not any more."""
    background, told = Background(world), []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for step, largest_bytes in ((1, soft), (2, 500), (3, soft)):
        trained = Trained(step)
        limit = largest_bytes if world.rank == 1 else soft
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        background.start(trained.saving(folder / "checkpoints", world))
        trained.train_on()
        try:
            background.wait()
        except OSError as error:
            told.append(str(error))
    background.close()
    return {"told": told}


def test_what_one_rank_cannot_write_is_told_on_all_and_costs_one_checkpoint(
    tmp_path: Path,
) -> None:
    first, second = told_by_ranks(in_the_background, tmp_path)
    assert first == second
    (told,) = first["told"]
    assert told.startswith("checkpoint step-00000002 was not written: rank 1: ")
    assert "too large" in told
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {
        name_of(1),
        name_of(3),
        "latest",
    }
    for step in (1, 3):
        assert verify(folder / name_of(step))["train"] == {"step": step}


def test_a_job_of_which_one_rank_cannot_save_trains_to_its_end(
    corpus: Path, tmp_path: Path
) -> None:
    case = Case(
        tmp_path / "run",
        "zero1_bf16",
        [
            "--model.factory",
            "full_disk_model:build",
            "--train.max-steps",
            "20",
            "--checkpoint.interval-steps",
            "8",
        ],
    )
    done = subprocess.run(
        [*TORCHRUN, TRAIN, *case.argv(corpus)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=1000,
    )
    assert done.returncode == 1, done.stderr
    assert list(losses(case.run_dir)) == list(range(1, 21))
    failed = events(case.run_dir, "checkpoint_failed")
    assert [event["step"] for event in failed] == [8, 16, 20]
    for rank in (0, 1):
        said = (case.run_dir / "logs" / f"rank-{rank:05d}.log").read_text()
        assert "rank 1: " in failed[0]["error"]
        assert f"error: {failed[0]['error']}; training goes on, and tries again" in said
        assert failed[1]["error"] not in said  # told at growing intervals
    status = read_status(case.run_dir)
    assert status is not None
    assert status.state == "failed"
    assert "step-00000020 was not written: rank 1: " in str(status.reason)
    assert list(directory(case.run_dir).iterdir()) == []


def test_a_job_that_cannot_save_at_its_end_is_still_requeued(corpus: Path, tmp_path: Path) -> None:
    flags = ["--model.factory", "full_disk_model:build", "--checkpoint.interval-steps", "0"]
    asked = ("SIGTERM", 0, 5)
    case = Case(tmp_path / "run", "zero1_bf16", flags, asked=asked, ends=Exit.REQUEUE)
    run_cases([case], corpus=corpus, n_ranks=2)
    status = case.left["status"]
    assert (status["state"], status["exit_code"]) == ("requeue", Exit.REQUEUE)
    assert status["reason"].startswith("SIGTERM, but checkpoint step-0000000")
    assert "rank 1: " in status["reason"]
    assert status["reason"].endswith("; there is no checkpoint")
    assert case.left["checkpoints"] == []


@pytest.mark.parametrize(("rank", "kept"), [(0, 7.5), (1, 0.0)])
def test_nats_since_the_last_record_are_all_with_rank_0_once_a_save_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, kept: float
) -> None:
    """File and run agree, so that any number of ranks goes on with the same loss."""
    saved: dict[str, Any] = {}

    def save_nothing(folder: Path, **values: Any) -> Iterator[Callable[[], None]]:
        saved.update(values)
        return iter(())

    monkeypatch.setattr(saving, "sum_floats", lambda values, world: [values[0] + 5.25])
    monkeypatch.setattr(saving.tensors, "save", save_nothing)
    run: Any = SimpleNamespace(
        world=lone_world(rank=rank, world_size=2),
        run_dir=tmp_path,
        streams=SimpleNamespace(stream_ids=lambda slot: np.arange(2)),
        engine=SimpleNamespace(slots=1, scalars=dict),
        watch=SimpleNamespace(under_way=list),
        identity={},
        window_extra=lambda state: {"size": float(state.window_extra["size"]) + 5.25},
    )
    state = TrainState(step=4, memories=[()])
    state.window_loss_sum.fill_(2.25)
    state.window_extra["size"] = state.window_loss_sum.clone()
    next(saving._save(run, state))
    assert state.window_loss_sum.item() == kept
    assert saved["state"]["train"]["window_loss_sum"] == kept
    assert state.window_extra["size"].item() == kept
    assert saved["state"]["train"]["window_extra"] == {"size": kept}


def test_the_best_is_pointed_at_once_it_is_there_whatever_the_pointer_was(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(run_dir=tmp_path, world=lone_world())
    folder = directory(tmp_path)
    save(folder, 1)
    saving.mark_best(run, 2)
    assert pointers.pointed(folder, "best") is None
    save(folder, 2)
    (folder / "best").write_bytes(b"\xff\xfe")
    for step in (2, 1, 2):
        saving.mark_best(run, step)
        assert pointers.pointed(folder, "best") == name_of(step)


def test_the_end_waits_for_the_save_under_way_and_then_saves(corpus: Path, tmp_path: Path) -> None:
    flags = ["--train.max-steps", "20", "--checkpoint.interval-steps", "19"]
    case = Case(tmp_path / "run", flags=flags)
    run_cases([case], corpus=corpus, n_ranks=2)
    assert [event["step"] for event in events(case.run_dir, "checkpoint")] == [19, 20]
    for step in (19, 20):
        verify(directory(case.run_dir) / name_of(step))


def test_the_last_checkpoint_knows_of_the_last_validation(corpus: Path, tmp_path: Path) -> None:
    """A run whose last step is due for saving, too, validates before it saves."""
    flags = ["--train.max-steps", "20", "--checkpoint.interval-steps", "10"]
    case = Case(tmp_path / "run", flags=[*flags, "--valid.interval-steps", "15"])
    run_cases([case], corpus=corpus, n_ranks=1)
    saved = read_state(directory(case.run_dir) / name_of(20) / STATE)["train"]
    assert saved["validated_step"] == 20


def train(case: Case, corpus: Path, **variables: str) -> int:
    """Exit code of the training command under these variables."""
    command = [sys.executable, TRAIN, *case.argv(corpus)]
    done = subprocess.run(command, env=environment(**variables), check=False, timeout=1000)
    return done.returncode


def test_a_kill_while_a_thread_writes_leaves_the_checkpoint_before(
    corpus: Path, tmp_path: Path
) -> None:
    flags = [
        "--model.factory",
        "killed_model:build",
        "--train.max-steps",
        "30",
        "--checkpoint.interval-steps",
        "10",
        "--checkpoint.keep-last",
        "9",
    ]
    killed, undisturbed = (Case(tmp_path / name, flags=flags) for name in ("killed", "undisturbed"))
    assert train(killed, corpus, KILLED_IN="20") == -signal.SIGKILL
    folder = directory(killed.run_dir)
    found = {path.name for path in folder.iterdir()}
    assert found == {name_of(10), draft_of(folder, 20).name, "latest"}
    assert train(killed, corpus) == train(undisturbed, corpus) == Exit.DONE
    (event,) = events(killed.run_dir, "resume")
    assert (event["step"], event["skipped"]) == (10, [])
    assert losses(killed.run_dir) == losses(undisturbed.run_dir)
    for step in (10, 20, 30):
        hashes = [checkpoint_hashes(case.run_dir, step) for case in (killed, undisturbed)]
        assert hashes[0] == hashes[1]
    assert {path.name for path in folder.iterdir()} == {
        *map(name_of, (10, 20, 30)),
        "latest",
    }


def test_a_checkpoint_saved_beside_steps_is_that_of_a_run_which_stopped_there(
    corpus: Path, tmp_path: Path
) -> None:
    flags = [
        "--train.max-steps",
        "16",
        "--checkpoint.interval-steps",
        "8",
        "--checkpoint.keep-last",
        "9",
        "--valid.interval-steps",
        "8",
        "--valid.tgt-len",
        "4",
        "--valid.batch-size",
        "1",
        "--model.factory",
        "stopping_model:build",
    ]
    stopped = Case(tmp_path / "stopped", flags=flags, ends=Exit.REQUEUE)
    beside = Case(tmp_path / "beside", flags=flags)
    run_cases([stopped, beside], corpus=corpus, n_ranks=1)
    assert checkpoint_hashes(beside.run_dir, 8) == checkpoint_hashes(stopped.run_dir, 8)
    assert [event["step"] for event in events(stopped.run_dir, "checkpoint")] == [8]
