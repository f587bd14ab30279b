"""A rank that gets nowhere ends; how long that may take counts from the last thing it finished."""

import dataclasses
import os
import signal
import subprocess
import threading
from pathlib import Path

from trainer.errors import Exit
from trainer.progress import Progress
from trainer.track.processes import begun
from trainer.training.peers import lost, watchdog
from trainer.training.peers.board import Board, Note
from trainer.training.peers.lost import Peers
from trainer.training.peers.watchdog import NOTICE_S, START_S, Watchdog

LIMIT_S = 10.0


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Rank:
    """Rank 0 of two, with a watchdog without its thread; the other's note is the test's."""

    def __init__(self, run_dir: Path, **other: object) -> None:
        """Write the other's note, of another machine unless `other` says otherwise."""
        (run_dir / "ranks").mkdir(parents=True)
        far = {"host": "far", "boot": "another", "token": "one"}
        note = dataclasses.replace(Note.of_this_process(1, token="one"), **(far | other))
        self.other = Board(run_dir, note)
        self.other.write()
        own = Board(run_dir, Note.of_this_process(0, token="one"))
        self.progress, self.clock, self.log = Progress(), Clock(), run_dir / "logs" / "rank.log"
        self.peers = Peers(own, [own.note, note], beat_s=0.1)
        self.dog = Watchdog(
            self.progress,
            board=own,
            peers=self.peers,
            limit_s=LIMIT_S,
            beat_s=1.0,
            log_file=self.log,
            on_end=lambda found: None,
            clock=self.clock,
        )

    def seconds(self, n: float) -> lost.Lost | None:
        """Let time pass; return the first thing found."""
        for _ in range(round(2 * n)):
            self.clock.now += 0.5
            if found := self.dog.look():
                return found
        return None


def test_the_limit_counts_from_the_last_thing_finished(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    rank.progress.note_step(3)
    for _ in range(5):
        assert rank.seconds(LIMIT_S - 1) is None
        rank.progress.note("a pass of validation")
    found = rank.seconds(2 * LIMIT_S)
    assert found is not None
    assert found.code == Exit.HUNG
    assert "nothing got on for 10 s" in found.told
    assert "after a pass of validation: " in found.told
    assert "the stacks of all threads" in rank.log.read_text()


def test_a_rank_that_has_said_why_it_leaves_is_not_said_to_hang(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    rank.progress.note_step(1)
    rank.other.write(left="rank 1 ended with ValueError: no", code=1)
    found = rank.seconds(2 * LIMIT_S)
    assert found is not None
    assert (found.told, found.code) == ("rank 1 ended with ValueError: no", 1)


def test_before_the_first_step_imports_and_compilers_have_longer(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    assert rank.seconds(START_S - 1) is None
    rank.progress.note_step(1)
    assert rank.seconds(LIMIT_S - 1) is None
    assert rank.seconds(2) is not None


def test_the_time_in_which_the_whole_job_was_suspended_does_not_count(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    rank.progress.note_step(1)
    assert rank.seconds(1) is None
    rank.clock.now += 100 * LIMIT_S
    assert rank.dog.look() is None
    assert rank.seconds(LIMIT_S / 2) is None


def test_a_rank_of_another_machine_without_a_sign_of_life_is_named(tmp_path: Path) -> None:
    found = Rank(tmp_path).peers.find_hung()
    assert f"rank 1 (far, process {os.getpid()}) gives no sign of life" == found.told
    assert found.ranks == {1}


def test_of_ranks_that_all_live_the_one_that_has_finished_less_is_named(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    rank.progress.note("step 7")
    rank.dog._write(waits_in="loop.py:1 in wait")
    rank.other.write(n_beats=1, count=0, last="step 6", waits_in="read.py:2 in read")
    assert rank.peers.find_hung().told == (
        f"rank 1 (far, process {os.getpid()}) is at read.py:2 in read, after step 6"
    )
    rank.other.write(count=1)
    told = rank.peers.find_hung().told
    assert "loop.py:1 in wait, after step 7; rank 1" in told
    assert told.endswith("; all ranks wait")


def near(child: "subprocess.Popen[str]") -> dict[str, object]:
    """Return what a note says of a process of this machine."""
    here = Note.of_this_process(1, token="one")
    return {"pid": child.pid, "begun": begun(child.pid), "host": here.host, "boot": here.boot}


def test_a_rank_that_ended_is_named_with_its_signal_until_its_parent_has_noticed(
    tmp_path: Path, child: "subprocess.Popen[str]"
) -> None:
    rank = Rank(tmp_path, **near(child))
    assert rank.peers.look() is None
    child.send_signal(signal.SIGSEGV)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = rank.peers.find_lost()
    assert found is not None
    assert found.told.endswith(f"process {child.pid}) was ended by SIGSEGV")
    assert (found.code, found.ranks) == (Exit.LOST, {1})
    child.wait()
    again = rank.peers.find_lost()
    assert again is not None
    assert again.told.endswith(" is gone")


def test_what_a_rank_said_before_it_left_counts_more_than_that_it_is_gone(
    tmp_path: Path, child: "subprocess.Popen[str]"
) -> None:
    rank = Rank(tmp_path, **near(child))
    child.kill()
    child.wait()
    rank.other.write(left="rank 1 ended with ValueError: no", code=1)
    found = rank.peers.look()
    assert found is not None
    assert (found.told, found.code) == ("rank 1 ended with ValueError: no", 1)
    rank.other.write(left="")
    assert rank.peers.look() is None, "it has come to its end"


def test_a_rank_that_waits_where_no_error_comes_is_ended_when_another_is_gone(
    tmp_path: Path, child: "subprocess.Popen[str]"
) -> None:
    rank = Rank(tmp_path, **near(child))
    rank.progress.note_step(1)
    child.kill()
    child.wait()
    found = None
    for _ in range(int(NOTICE_S) + 2):
        rank.progress.note()
        found = found or rank.seconds(1)
    assert found is not None
    assert found.code == Exit.LOST


def test_notes_of_an_earlier_attempt_or_cut_short_are_no_notes(tmp_path: Path) -> None:
    rank = Rank(tmp_path)
    board = Board(tmp_path, Note.of_this_process(0, token="two"))
    assert board.read(1) is None
    path = tmp_path / "ranks" / "rank-00001.json"
    path.write_text(path.read_text()[:40])
    assert rank.dog.look() is None
    assert Board(tmp_path, Note.of_this_process(0, token="one")).read(1) is None


def test_the_place_of_a_thread_names_the_trainers_own_line() -> None:
    place = watchdog._place_of(threading.get_ident())
    assert "in _place_of" in place
