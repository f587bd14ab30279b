"""The rules of our own train alike at every ZeRO stage under DeepSpeed, and resume at any."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from plain_lamb import EPS, PaperLamb, parts_of
from plain_loop import plain_loop
from plain_muon import PlainMuon
from torch import nn
from training import Case, begun_from, checkpoint_hashes, events, losses, overflowing, run_cases

from trainer.checkpoint.contents.tensors import read_weights

STAGES = ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")
N_STEPS = 12
COMMON = [
    "--optim.min-lr",
    "1e-3",
    "--optim.warmup-steps",
    "3",
    "--optim.gradient-clipping",
    "0.05",
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
LAMB = ["--optim.type", "Lamb", "--optim.eps", str(EPS), "--optim.lr", "0.02"]
LAMB += ["--model.div-val", "1", "--model.init-std", "0.1"]
MUON = ["--optim.type", "Muon", "--optim.lr", "0.01"]
DECAY = ["--optim.weight-decay", "0.1"]


class Rule(NamedTuple):
    """A rule: its flags, its formulas on whole matrices, and how near a plain loop is to it."""

    flags: list[str]
    plain: Callable[[nn.Module], Any]
    rel: float
    """Of losses; the weights may be fifty times as far."""


def plain_muon(model: nn.Module) -> PlainMuon:
    """Return Muon's formulas for a Transformer-XL, told by its parameters' names."""
    layers = ("query", "key_value", "position", "out", "inner", "outer")
    cuts = {
        name: 1 + ("key_value" in name)
        for name, _ in model.named_parameters()
        if name.startswith("layers.") and name.endswith(tuple(f"{x}.weight" for x in layers))
    }
    assert len(cuts) == 12
    return PlainMuon(dict(model.named_parameters()), cuts, decay=0.1)


def plain_lamb(weight_decay: float) -> Callable[[nn.Module], PaperLamb]:
    """Return what makes LAMB's formulas."""
    return lambda model: PaperLamb(parts_of(model), weight_decay=weight_decay)


RULES = {
    "Lamb": Rule([*LAMB, *DECAY], plain_lamb(0.1), 2e-6),
    "Lamb without decay": Rule(LAMB, plain_lamb(0.0), 2e-6),
    "Muon": Rule([*MUON, *DECAY], plain_muon, 2e-5),
}
RESUMED = ("Lamb", "Muon")


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Return run directories by rule and name: each stage on two ranks, others begun at step 6."""
    folder = tmp_path_factory.mktemp("rules")
    files = {stage: overflowing(stage, folder) for stage in (*STAGES, "zero2_fp16")}

    def case(rule: str, name: str, stage: str, *more: str) -> Case:
        return Case(folder / f"{rule} {name}", files[stage], [*RULES[rule].flags, *COMMON, *more])

    dropout = ("--model.dropout", "0.2", "--train.max-steps", "16")
    exact = {
        (rule, name): case(rule, name, "zero2_fp16", *dropout)
        for rule in RESUMED
        for name in ("whole", "resumed")
    }
    whole = [exact[rule, "whole"] for rule in RESUMED]
    cases = {(rule, stage): case(rule, stage, stage) for rule in RESUMED for stage in STAGES}
    cases["Lamb without decay", "zero1_fp32"] = case("Lamb without decay", "zero1", "zero1_fp32")
    # First of their process, as the resumed ones: stage 3 leaves another `linear` behind.
    run_cases([*whole, *cases.values()], corpus=corpus, n_ranks=2)
    elsewhere = {
        (rule, f"{stage} elsewhere"): case(rule, f"{stage} elsewhere", stage)
        for rule in RESUMED
        for stage in STAGES
    }
    for rule in RESUMED:
        begun_from(exact[rule, "whole"].run_dir, 6, exact[rule, "resumed"].run_dir)
        for stage in STAGES:
            begun = elsewhere[rule, f"{stage} elsewhere"].run_dir
            begun_from(cases[rule, "zero3_fp32"].run_dir, 6, begun)
    run_cases([exact[rule, "resumed"] for rule in RESUMED], corpus=corpus, n_ranks=2)
    run_cases(list(elsewhere.values()), corpus=corpus, n_ranks=1)
    return {key: one.run_dir for key, one in (exact | cases | elsewhere).items()}


@pytest.mark.parametrize(
    ("rule", "stage"),
    [*itertools.product(RESUMED, STAGES), ("Lamb without decay", "zero1_fp32")],
)
def test_two_ranks_train_as_a_plain_loop_on_whole_matrices(
    runs: dict[tuple[str, str], Path], corpus: Path, rule: str, stage: str
) -> None:
    flags, plain_of, rel = RULES[rule]
    flags = [*flags, *COMMON]
    plain, weights = plain_loop(corpus, flags, n_steps=N_STEPS, optimizer_of=plain_of)
    ends = list(itertools.accumulate(weight.numel() for weight in weights.values()))
    assert min(abs(end - ends[-1] // 2) for end in ends) > 100  # stages 1 and 2 cut a parameter
    run = runs[rule, stage]
    assert list(losses(run).values()) == pytest.approx(plain.loss, rel=rel)
    for key, weight in read_weights(run / "checkpoints" / f"step-{N_STEPS:08d}").items():
        torch.testing.assert_close(weight, weights[key], rtol=50 * rel, atol=rel / 2)


@pytest.mark.parametrize("rule", RESUMED)
def test_a_resume_past_overflows_is_bit_by_bit(
    runs: dict[tuple[str, str], Path], rule: str
) -> None:
    whole_run, resumed = runs[rule, "whole"], runs[rule, "resumed"]
    last = max(losses(whole_run))
    assert losses(resumed) == {step: x for step, x in losses(whole_run).items() if step > 6}
    assert checkpoint_hashes(resumed, last) == checkpoint_hashes(whole_run, last)
    skipped = [event["step"] for event in events(whole_run, "skip")]
    assert min(skipped) <= 6 < max(skipped)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("rule", RESUMED)
def test_another_stage_and_number_of_ranks_continues_the_same_curve(
    runs: dict[tuple[str, str], Path], rule: str, stage: str
) -> None:
    after = {step: x for step, x in losses(runs[rule, "zero3_fp32"]).items() if step > 6}
    assert losses(runs[rule, f"{stage} elsewhere"]) == pytest.approx(after, rel=2e-5)
