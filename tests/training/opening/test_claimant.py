"""One training has a run directory at a time, and none is kept out by one that is gone."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import lone_world
from claiming import ELSEWHERE, HERE, Clock, claim, contents, killed
from training import environment

from trainer.errors import InputError
from trainer.training.opening.claim import CLAIM, STALE_S
from trainer.training.opening.claimant import LOOK_S, Claimant, claimed


def test_a_second_start_is_refused_and_told_who_trains(run_dir: Path, claim_of) -> None:
    claim_of()
    before = contents(run_dir)
    with pytest.raises(InputError) as refused:
        claim(run_dir)
    said = str(refused.value)
    assert "\n" not in said
    assert f"{run_dir} is being trained by process {os.getpid()} on {HERE.host} since" in said
    assert contents(run_dir) == before


def test_a_claim_holds_by_whatever_path_the_directory_is_reached(run_dir: Path, claim_of) -> None:
    claim_of()
    link = run_dir.with_name("link")
    link.symlink_to(run_dir)
    for path in (link, run_dir / ".." / "run"):
        with pytest.raises(InputError, match="is being trained"):
            claim(path)


def test_who_was_killed_holds_nothing(run_dir: Path) -> None:
    killed(run_dir)
    assert len(contents(run_dir)) == 2
    assert claim(run_dir) < LOOK_S
    assert contents(run_dir) == set()


def test_a_number_that_another_process_has_now_is_not_believed(run_dir: Path, claim_of) -> None:
    claim_of()
    (file,) = (run_dir / CLAIM).iterdir()
    file.write_text(file.read_text().replace('"begun": ', '"begun": 1'))
    assert claim(run_dir) < LOOK_S


def test_on_another_machine_a_holder_that_gives_signs_of_life_lives(
    run_dir: Path, claim_of
) -> None:
    other = claim_of(ELSEWHERE)
    clock = Clock(other.renew)
    with pytest.raises(InputError, match=r"is being trained by process \d+ on node7"):
        claim(run_dir, clock.claimant())
    assert clock.now_s < 2 * LOOK_S


@pytest.mark.parametrize("written_s", [0.0, 1e9, 4e9], ids=["1970", "2001", "2096"])
def test_on_another_machine_a_holder_without_signs_is_gone_whatever_clocks_say(
    run_dir: Path, claim_of, written_s: float
) -> None:
    claim_of(ELSEWHERE)
    (file,) = (run_dir / CLAIM).iterdir()
    os.utime(file, (written_s, written_s))
    assert STALE_S <= claim(run_dir) < STALE_S + LOOK_S


def test_a_sign_of_life_counts_whichever_way_a_clock_was_set(run_dir: Path, claim_of) -> None:
    claim_of(ELSEWHERE)
    (file,) = (run_dir / CLAIM).iterdir()
    clock = Clock(lambda: os.utime(file, (1.0, 1.0)))
    with pytest.raises(InputError, match="is being trained"):
        claim(run_dir, clock.claimant())


@pytest.mark.parametrize("text", [b"", b"\0" * 99, b"[[["])
def test_a_claim_that_names_nobody_blocks_nobody_for_long(run_dir: Path, text: bytes) -> None:
    (run_dir / CLAIM).mkdir()
    file = run_dir / CLAIM / f"{'0' * 32}.json"
    file.write_bytes(text)
    assert STALE_S <= claim(run_dir) < STALE_S + LOOK_S
    file.parent.mkdir()
    file.write_bytes(text)
    clock = Clock(lambda: os.utime(file))
    with pytest.raises(InputError, match="by a process that it does not name"):
        claim(run_dir, clock.claimant())


def test_an_empty_claim_is_free(run_dir: Path) -> None:
    (run_dir / CLAIM).mkdir()
    assert claim(run_dir) < LOOK_S


def a_file(path: Path) -> None:
    path.write_text("mine")


def a_link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "theirs")


def a_folder_of_files(path: Path) -> None:
    path.mkdir()
    (path / "thesis.json").write_text("the only copy")


def a_folder_of_folders(path: Path) -> None:
    (path / f"{'0' * 32}.json").mkdir(parents=True)


@pytest.mark.parametrize("make", [a_file, a_link, a_folder_of_files, a_folder_of_folders])
def test_what_is_no_claim_is_left_alone(run_dir: Path, make: Callable[[Path], None]) -> None:
    theirs = run_dir.parent / "theirs"
    theirs.mkdir()
    (theirs / f"{'0' * 32}.json").write_text("the only copy")
    make(run_dir / CLAIM)
    before = contents(run_dir.parent)
    with pytest.raises(InputError, match=r"is no claim.*: remove it"):
        claim(run_dir)
    assert contents(run_dir.parent) == before


def test_who_is_slow_to_take_over_does_not_remove_the_claim_that_came_after(run_dir: Path) -> None:
    killed(run_dir)
    first = Clock().claimant()

    class Slow(Claimant):
        def _is_gone(self, file: Path) -> bool:
            is_gone = super()._is_gone(file)
            if first.claim is None:
                assert first.attempt(run_dir)
            return is_gone

    clock = Clock()
    with pytest.raises(InputError, match=f"by process {os.getpid()}"):
        claim(run_dir, Slow(clock=clock, pause=clock.pause))
    assert first.claim is not None
    assert first.claim.renew() is None
    first.release()


def test_what_was_made_for_a_run_that_does_not_begin_is_removed(tmp_path: Path) -> None:
    with claimed(
        [tmp_path / "a" / "b"], must_be_new=False, world=lone_world(), on_lost=pytest.fail
    ) as run_dir:
        assert run_dir.is_dir()
    assert list(tmp_path.iterdir()) == []
    with claimed([run_dir], must_be_new=False, world=lone_world(), on_lost=pytest.fail):
        (run_dir.parent / "other").touch()
    assert contents(tmp_path) == {"a", "a/other"}


def test_of_two_starts_without_a_name_each_has_a_directory_of_its_own(tmp_path: Path) -> None:
    names = [tmp_path / "x", tmp_path / "x-2", tmp_path / "x-3"]
    names[0].mkdir()
    with (
        claimed(names, must_be_new=True, world=lone_world(), on_lost=pytest.fail) as first,
        claimed(names, must_be_new=True, world=lone_world(), on_lost=pytest.fail) as second,
    ):
        assert [first, second] == names[1:]
        with (
            pytest.raises(InputError, match="no name is free"),
            claimed(names, must_be_new=True, world=lone_world(), on_lost=pytest.fail),
        ):
            pass


def test_where_none_can_be_made_it_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path / "file", "is a file: give another"),
        (tmp_path / "file" / "run", "cannot be made|is a file"),
        (Path("/proc/run"), "cannot be made"),
        (Path("/proc/self"), "cannot be claimed"),
    ):
        with (
            pytest.raises(InputError, match=f"--run-dir {path}.*({said})"),
            claimed([path], must_be_new=False, world=lone_world(), on_lost=pytest.fail),
        ):
            pass


#: Claims the directory again and again, marks it as its own meanwhile, and is killed at any moment.
CONTENDER = """
import os, sys, time
from pathlib import Path
from trainer.training.opening.claimant import Claimant
from trainer.errors import InputError
run_dir, mark = Path(sys.argv[1]), Path(sys.argv[2])
while True:
    claimant = Claimant(pause=lambda seconds: time.sleep(0.001))
    try:
        if not claimant.attempt(run_dir):
            continue
    except InputError:
        continue
    mine = mark / str(os.getpid())
    mine.touch()
    others = [int(path.name) for path in mark.iterdir() if path != mine]
    if [pid for pid in others if os.path.exists(f"/proc/{pid}/exe")]:
        (mark.parent / "two at once").touch()
    (mark.parent / "held").open("a").write(".")
    mine.unlink()
    claimant.release()
"""


def test_of_many_that_are_killed_at_any_moment_one_at_most_holds_the_directory(
    tmp_path: Path,
) -> None:
    run_dir, mark = tmp_path / "run", tmp_path / "mark"
    mark.mkdir()

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(run_dir), str(mark)], env=environment()
        )

    contenders = [start() for _ in range(3)]
    try:
        for number in range(12):
            held = n_held(tmp_path)
            while n_held(tmp_path) < held + 5:  # they go on after every death
                assert contenders[number % 3].poll() is None
                time.sleep(0.001)
            contenders[number % 3].kill()
            contenders[number % 3].wait()
            contenders[number % 3] = start()
    finally:
        for contender in contenders:
            contender.kill()
            contender.wait()
    assert not (tmp_path / "two at once").exists()
    assert claim(run_dir) < LOOK_S


def n_held(folder: Path) -> int:
    try:
        return (folder / "held").stat().st_size
    except FileNotFoundError:
        return 0
