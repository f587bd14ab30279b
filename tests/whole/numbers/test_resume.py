"""A resumed run is the run: bit by bit on as many ranks, and as it was on any other number."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from child import Child
from saved_checkpoints import memory_by_stream
from training import (
    KINDS,
    ROOT,
    Case,
    begun_from,
    checkpoint_hashes,
    environment,
    events,
    losses,
    overflowing,
    run_cases,
)
from wandb_reader import read_offline

from trainer import read_metrics
from trainer.checkpoint.contents.tensors import read_weights

SLOTS = ["--train.train-micro-batch-size-per-gpu", "2", "--train.max-steps", "40"]
SAVING = [
    "--checkpoint.interval-steps",
    "20",
    "--checkpoint.keep-last",
    "9",
    "--model.dropout",
    "0.2",
    "--model.token-tables",
    "1",
    "--model.pair-rows",
    "200",
    "--optim.lr",
    "3e-3",
]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def pairs(request, corpus, tmp_path_factory):
    """Return per kind a run of 40 steps in one go, and one resumed from its step 20."""
    folder = tmp_path_factory.mktemp("runs")
    whole, resumed = {}, {}
    for kind in KINDS:
        file = overflowing(kind, folder)
        wandb = ["--tracking.wandb", "offline"] if kind == "zero1_bf16" else []
        whole[kind] = Case(folder / f"{kind}-whole", file, SLOTS + SAVING + wandb)
        resumed[kind] = Case(folder / f"{kind}-resumed", file, SLOTS + SAVING + wandb)
    run_cases(list(whole.values()), corpus=corpus, n_ranks=request.param)
    for kind in KINDS:
        begun_from(whole[kind].run_dir, 20, resumed[kind].run_dir)
    run_cases(list(resumed.values()), corpus=corpus, n_ranks=request.param)
    return {kind: (whole[kind].run_dir, resumed[kind].run_dir) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_run_bit_by_bit(pairs, kind):
    whole, resumed = pairs[kind]
    after = {step: loss for step, loss in losses(whole).items() if step > 20}
    assert losses(resumed) == after
    hashes = checkpoint_hashes(whole, 40)
    assert checkpoint_hashes(resumed, 40) == hashes
    assert {name.partition("-")[0] for name in hashes} == {"weights", "optimizer", "memory"}
    states = [
        json.loads((run / "checkpoints" / "step-00000040" / "state.json").read_text())
        for run in (whole, resumed)
    ]
    assert states[0]["engine"] == states[1]["engine"]


@pytest.mark.parametrize("kind", ["zero0_fp16_autocast", "zero1_fp16", "zero2_fp16", "zero3_fp16"])
def test_the_loss_scale_overflowed_before_and_after_the_resume(pairs, kind):
    whole, resumed = pairs[kind]
    skipped = [event["step"] for event in events(whole, "skip")]
    assert min(skipped) <= 20 < max(skipped)
    assert [event["step"] for event in events(resumed, "skip")] == [s for s in skipped if s > 20]


@pytest.fixture(scope="module")
def elsewhere(corpus, tmp_path_factory):
    """Return a run on one rank at stage 1, taken up on two at stage 3; and the undisturbed one."""
    folder = tmp_path_factory.mktemp("elastic")
    exact = [*SLOTS, "--checkpoint.interval-steps", "20", "--model.dropout", "0"]
    one = Case(folder / "one", "zero1_fp32", exact)
    run_cases([one], corpus=corpus, n_ranks=1)
    others = [
        Case(folder / kind, overflowing(kind, folder), exact)
        for kind in ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")
    ]
    for other in others:
        begun_from(one.run_dir, 20, other.run_dir)
    run_cases(others, corpus=corpus, n_ranks=2)
    return one.run_dir, [other.run_dir for other in others]


def test_another_number_of_ranks_and_stage_continues_the_same_curve(elsewhere):
    one, others = elsewhere
    after = {step: loss for step, loss in losses(one).items() if step > 20}
    for other in others:
        assert losses(other) == pytest.approx(after, rel=1e-5)


def test_each_stream_keeps_its_own_memory_on_another_number_of_ranks(elsewhere):
    one, others = elsewhere
    expected = memory_by_stream(one / "checkpoints" / "step-00000040")
    for other in others:
        path = other / "checkpoints" / "step-00000040"
        torch.testing.assert_close(memory_by_stream(path), expected, rtol=1e-3, atol=1e-4)
        weights = read_weights(one / "checkpoints" / "step-00000040")
        for name, weight in read_weights(path).items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-4)


def test_a_killed_run_has_every_step_once_after_its_resumption(corpus, tmp_path):
    flags = ["--checkpoint.interval-steps", "20", "--tracking.wandb", "offline"]
    case = Case(tmp_path / "run", "zero1_bf16", [*flags, "--train.max-steps", "60"])
    command = [sys.executable, str(ROOT / "launch" / "train.py"), *case.argv(corpus)]
    with Child(command, env=environment(), stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "step 53/60" in line:
                run.send_signal(signal.SIGKILL)
    # The one of step 40 may not have been whole yet; it waited for the one before.
    assert 20 in [event["step"] for event in events(case.run_dir, "checkpoint")]
    assert 53 in losses(case.run_dir)
    before = losses(case.run_dir)
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=1000
    )
    assert done.returncode == 0, done.stderr
    found = losses(case.run_dir)
    assert list(found) == list(range(1, 61))
    assert {step: found[step] for step in before} == before
    assert {record["attempt"] for record in read_metrics(case.run_dir, kind="train")} == {1, 2}
    ids, _, rows = read_offline(case.run_dir)
    assert len(set(ids)) == 1
    steps = [row["train/step"] for row in rows if "train/loss" in row]
    assert set(range(41, 61)) <= set(steps)
    assert max(steps) == 60
