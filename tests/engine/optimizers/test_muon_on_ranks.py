"""Muon under DeepSpeed trains alike at every ZeRO stage, and resumes at any."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plain_loop import plain_loop
from plain_muon import PlainMuon
from torch import nn
from training import Case, begun_from, checkpoint_hashes, events, losses, overflowing, run_cases

from trainer.checkpoint.contents.tensors import read_weights

STAGES = ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")
N_STEPS = 12
FLAGS = [
    "--optim.type",
    "Muon",
    "--optim.lr",
    "0.01",
    "--optim.min-lr",
    "1e-3",
    "--optim.warmup-steps",
    "3",
    "--optim.gradient-clipping",
    "0.05",
    "--optim.weight-decay",
    "0.1",
    "--model.dropout",
    "0",
    "--train.max-steps",
    str(N_STEPS),
    "--train.train-micro-batch-size-per-gpu",
    "2",
    "--checkpoint.interval-steps",
    "6",
    "--checkpoint.keep-last",
    "9",
]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a run's directory by name: each stage on two ranks, and those begun with step 6."""
    folder = tmp_path_factory.mktemp("muon")
    cases = {stage: Case(folder / stage, overflowing(stage, folder), FLAGS) for stage in STAGES}
    dropout = [*FLAGS, "--model.dropout", "0.2", "--train.max-steps", "16"]
    exact = {
        name: Case(folder / name, overflowing("zero2_fp16", folder), dropout)
        for name in ("whole", "resumed")
    }
    # First of its process, as the resumed one: stage 3 leaves another `linear` behind.
    run_cases([exact["whole"], *cases.values()], corpus=corpus, n_ranks=2)
    begun_from(exact["whole"].run_dir, 6, exact["resumed"].run_dir)
    elsewhere = {
        name: Case(folder / f"{name} elsewhere", case.ds_config, case.flags)
        for name, case in cases.items()
    }
    for case in elsewhere.values():
        begun_from(cases["zero3_fp32"].run_dir, 6, case.run_dir)
    run_cases([exact["resumed"]], corpus=corpus, n_ranks=2)
    run_cases(list(elsewhere.values()), corpus=corpus, n_ranks=1)
    return lambda name: folder / name


def plain_of(model: nn.Module) -> PlainMuon:
    """Return the formulas for a Transformer-XL, told by its parameters' names."""
    layers = ("query", "key_value", "position", "out", "inner", "outer")
    cuts = {
        name: 1 + ("key_value" in name)
        for name, _ in model.named_parameters()
        if name.startswith("layers.") and name.endswith(tuple(f"{x}.weight" for x in layers))
    }
    assert len(cuts) == 12
    return PlainMuon(dict(model.named_parameters()), cuts, decay=0.1)


@pytest.mark.parametrize("name", STAGES)
def test_two_ranks_train_as_a_plain_loop_on_whole_matrices(
    runs: Callable[[str], Path], corpus: Path, name: str
) -> None:
    plain, weights = plain_loop(corpus, FLAGS, n_steps=N_STEPS, optimizer_of=plain_of)
    ends = list(itertools.accumulate(weight.numel() for weight in weights.values()))
    assert min(abs(end - ends[-1] // 2) for end in ends) > 100  # stages 1 and 2 cut a parameter
    found = losses(runs(name))
    assert list(found.values()) == pytest.approx(plain.loss, rel=2e-5)
    for key, weight in read_weights(runs(name) / "checkpoints" / f"step-{N_STEPS:08d}").items():
        torch.testing.assert_close(weight, weights[key], rtol=1e-3, atol=1e-5)


def test_muon_resumes_bit_by_bit_past_overflows(runs: Callable[[str], Path]) -> None:
    whole_run, resumed = runs("whole"), runs("resumed")
    last = max(losses(whole_run))
    assert losses(resumed) == {step: x for step, x in losses(whole_run).items() if step > 6}
    assert checkpoint_hashes(resumed, last) == checkpoint_hashes(whole_run, last)
    skipped = [event["step"] for event in events(whole_run, "skip")]
    assert min(skipped) <= 6 < max(skipped)


@pytest.mark.parametrize("stage", STAGES)
def test_another_stage_and_number_of_ranks_continues_the_same_curve(
    runs: Callable[[str], Path], stage: str
) -> None:
    after = {step: x for step, x in losses(runs("zero3_fp32")).items() if step > 6}
    assert losses(runs(f"{stage} elsewhere")) == pytest.approx(after, rel=2e-5)
