"""A holder keeps its claim until it gives it back, and learns it when it has lost it."""

import os
import shutil
import time
from pathlib import Path

import pytest
from claiming import ELSEWHERE, HERE, Clock, claim, contents

from trainer.errors import InputError
from trainer.training.opening.claim import CLAIM, DRAFT


def test_a_claim_leaves_no_trace(run_dir: Path) -> None:
    (run_dir / f"{DRAFT}left").mkdir()  # of a claimant that was killed
    claimant = Clock().claimant()
    assert claimant.attempt(run_dir)
    (name,) = contents(run_dir) - {CLAIM}
    assert name.startswith(f"{CLAIM}/")
    claimant.release()
    claimant.release()
    assert contents(run_dir) == set()


def test_a_holder_learns_that_it_was_taken_over(run_dir: Path, claim_of) -> None:
    other = claim_of(ELSEWHERE)
    assert other.renew() is None
    claimant = Clock().claimant()
    while not claimant.attempt(run_dir):
        pass
    assert f"was taken over by process {os.getpid()} on {HERE.host}" in (other.renew() or "")
    other.release()
    assert claimant.claim is not None
    assert claimant.claim.renew() is None
    claimant.release()


def test_a_claim_that_was_removed_is_made_again(run_dir: Path, claim_of) -> None:
    held = claim_of()
    for remove in (
        lambda: shutil.rmtree(run_dir / CLAIM),
        next((run_dir / CLAIM).iterdir()).unlink,
    ):
        remove()
        assert held.renew() is None
        with pytest.raises(InputError, match="is being trained"):
            claim(run_dir)


def test_a_directory_that_was_moved_is_lost_and_stays_claimed_where_it_is(
    run_dir: Path, claim_of
) -> None:
    held, moved = claim_of(), run_dir.with_name("moved")
    run_dir.rename(moved)
    with pytest.raises(InputError, match="is being trained"):
        claim(moved)
    assert held.renew() is None  # it may be back in a moment
    assert "was moved or deleted" in (held.renew() or "")
    run_dir.mkdir()
    assert "was moved or deleted" in (held.renew() or "")
    assert contents(run_dir) == set()


def test_the_thread_tells_of_a_loss(run_dir: Path, claim_of) -> None:
    told: list[str] = []
    claim_of(ELSEWHERE).keep(on_lost=told.append, beat_s=0.01)
    shutil.rmtree(run_dir)
    deadline_s = time.monotonic() + 300
    while not told:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert "was moved or deleted" in told[0]


def test_a_child_does_not_give_back_what_its_parent_holds(run_dir: Path, claim_of) -> None:
    held = claim_of()
    held._pid = os.getppid()  # as in a process that was forked
    held.release()
    assert held.renew() is None
    held._pid = os.getpid()
    held.release()
    assert contents(run_dir) == set()
