"""A rank that is stopped, killed or fails is named by the others, which end with a code for it."""

import json
import os
import signal
from pathlib import Path

import pytest
from pairs import Pair
from ranks import told_by_ranks
from training import Case

from trainer.distributed import World, gather_objects
from trainer.errors import Exit, InputError
from trainer.meeting import LAST_S
from trainer.track.run_files.status import read_status
from trainer.training.peers.board import NOTES, Board, Note
from trainer.training.peers.company import refuse_unshared

#: Seconds after which a rank gives up: a step takes a hundredth, and on a busy machine a tenth.
LIMIT_S = 6
FLAGS = [
    "--train.max-steps",
    "100000",
    "--checkpoint.interval-steps",
    "2",
    "--limits.distributed-timeout-s",
    str(LIMIT_S),
]


@pytest.fixture(scope="module")
def disturbed(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Pair, int, Path]]:
    """Return two runs of two ranks, the second killed or stopped: the pair, a code, the folder."""
    folder = tmp_path_factory.mktemp("company")
    found = {}
    for number in (signal.SIGKILL, signal.SIGSTOP):
        model = ["--model.factory", "waiting_model:build"] if number == signal.SIGKILL else []
        case = Case(folder / number.name, ds_config="zero1_fp32", flags=[*FLAGS, *model])
        with Pair(case.argv(corpus)) as pair:
            pair.wait_for("step 4/")
            pair.ranks[1].send_signal(number)
            (code,) = pair.ended(0)
        found[number.name] = (pair, code, case.run_dir)
    return found


def test_a_killed_rank_is_named_in_one_line_and_the_run_is_to_be_requeued(
    disturbed: dict[str, tuple[Pair, int, Path]],
) -> None:
    pair, code, run_dir = disturbed["SIGKILL"]
    assert code == Exit.LOST, pair.said[0]
    (line,) = pair.errors()
    assert "Traceback" not in pair.said[0]
    who = f"rank 1 ({os.uname().nodename}, process {pair.ranks[1].pid})"
    assert line.startswith(f"error: {who} was ended by SIGKILL")
    status = read_status(run_dir)
    assert status is not None
    assert (status.state, status.exit_code) == ("requeue", Exit.LOST)
    assert f"error: {status.reason}" == line


def test_every_group_waits_little_longer_than_the_limit_those_that_deepspeed_made_too(
    disturbed: dict[str, tuple[Pair, int, Path]],
) -> None:
    pair, _, _ = disturbed["SIGKILL"]
    (line,) = [line for line in pair.said[0].splitlines() if "groups wait for" in line]
    n_groups, _, waits = line.partition(" groups wait for ")
    assert int(n_groups) > 2, "that of all ranks, that of the control plane, and DeepSpeed's"
    assert waits == f"[{LIMIT_S + LAST_S}] s"


def test_a_stopped_rank_is_named_by_the_watchdog_with_the_stacks_of_the_rank_that_waits(
    disturbed: dict[str, tuple[Pair, int, Path]],
) -> None:
    pair, code, run_dir = disturbed["SIGSTOP"]
    assert code == Exit.HUNG, pair.said[0]
    (line,) = pair.errors()
    who = f"rank 1 ({os.uname().nodename}, process {pair.ranks[1].pid})"
    assert f"nothing got on for {LIMIT_S} s (limits.distributed_timeout_s), after " in line
    assert f": {who} is stopped, as by SIGSTOP; all stacks are in {run_dir}/logs" in line
    status = read_status(run_dir)
    assert status is not None
    assert (status.state, status.exit_code) == ("requeue", Exit.HUNG)
    log = (run_dir / "logs" / "rank-00000.log").read_text()
    assert "the stacks of all threads" in log
    assert "trainer/training/loop.py" in log


def test_a_rank_that_fails_says_why_and_the_others_name_it_and_its_error(
    corpus: Path, tmp_path: Path
) -> None:
    flags = [*FLAGS, "--model.factory", "failing_model:build"]
    case = Case(tmp_path / "run", ds_config="zero1_fp32", flags=flags)
    with Pair(case.argv(corpus), of_second={"FAILS_AT": "4"}) as pair:
        assert pair.ended() == [1, 1], pair.said
    (line,) = pair.errors()
    who = f"rank 1 ({os.uname().nodename}, process {pair.ranks[1].pid})"
    assert line == f"error: {who} ended with ValueError: planted"
    assert line in pair.said[0]
    assert "Traceback" not in pair.said[0]
    assert "ValueError: planted" in pair.said[1]
    status = read_status(case.run_dir)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", None)
    assert f"error: {status.reason}" == line


def notes_of(world: World, folder: Path) -> dict[str, object]:
    """Return what ranks say of a folder that they share, and of one that they do not."""
    told = []
    for name in ("shared", "own"):
        run_dir = folder / (name if name == "shared" else f"own {world.rank}")
        run_dir.mkdir(exist_ok=True)
        board = Board(run_dir, Note.of_this_process(world.rank, token=name))
        notes = gather_objects(board.note, world)
        try:
            refuse_unshared(board, notes, run_dir, world)
            told.append("")
        except InputError as error:
            told.append(str(error))
    return {"told": told, "left": sorted(os.listdir(folder / f"own {world.rank}"))}


def test_ranks_that_see_other_folders_are_refused_and_leave_nothing_there(tmp_path: Path) -> None:
    first, second = told_by_ranks(notes_of, tmp_path)
    (shared, own), (_, of_second) = first["told"], second["told"]
    assert shared == second["told"][0] == ""
    assert own.replace("own 0 is", "own 1 is") == of_second
    assert f"is not the same folder on all ranks: rank 1 ({os.uname().nodename}" in own
    assert f"does not see there what rank 0 ({os.uname().nodename}" in own
    assert (first["left"], second["left"]) == ([], [])
    notes = sorted(os.listdir(tmp_path / "shared" / NOTES))
    assert notes == ["rank-00000.json", "rank-00001.json"]
    assert json.loads((tmp_path / "shared" / NOTES / notes[1]).read_text())["rank"] == 1
