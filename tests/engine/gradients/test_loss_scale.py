"""The loss scale at stage 0 is what ZeRO's is with a hysteresis of 1, and changes no update."""

import copy
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from builders import CPU, random_documents, write_corpus
from deepspeed.runtime.fp16 import loss_scaler as theirs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from training import Case, begun_from, ds_file_like, events, run_cases

from trainer import read_metrics
from trainer.config.deepspeed.keys import Fp16
from trainer.engine.full_state import Fragment
from trainer.engine.gradients.loss_scale import LossScale
from trainer.engine.gradients.whole import WholeGradients
from trainer.engine.optimizers.adam import Adam
from trainer.engine.optimizers.lamb import Lamb
from trainer.engine.optimizers.muon import Muon
from trainer.model.matrices import Matrices

WINDOW, POWER, LEAST = 3, 5, 4
SETTINGS = Fp16(initial_scale_power=POWER, loss_scale_window=WINDOW, min_loss_scale=LEAST)
VOCABULARY, TGT_LEN = 60, 12
KINDS = ("zero0_fp16_autocast", "zero1_fp16")

overflows = st.lists(st.booleans(), max_size=40)


def ours(settings: Fp16 = SETTINGS) -> LossScale:
    return LossScale(torch.amp.GradScaler("cpu"), settings, device=CPU)


def zero_s() -> Any:
    """Return ZeRO's scaler, which does not end the run at the least scale."""
    return theirs.DynamicLossScaler(
        init_scale=2.0**POWER,
        scale_window=WINDOW,
        min_scale=LEAST,
        delayed_shift=1,
        consecutive_hysteresis=False,
        raise_error_at_min_scale=False,
        dtype=torch.half,
    )


def found_inf(overflowed: bool) -> Tensor:
    return torch.tensor(float(overflowed))


@pytest.fixture(autouse=True)
def lone_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theirs, "dist", SimpleNamespace(get_rank=lambda: 1))


def both(found: list[bool], one: LossScale, other: Any) -> tuple[list[float], list[float]]:
    """Return the scales after each step."""
    scales: tuple[list[float], list[float]] = ([], [])
    for overflowed in found:
        one.search(found_inf(overflowed))
        other.update_scale(overflowed)
        scales[0].append(float(one.factor))
        scales[1].append(other.cur_scale)
    return scales


@given(found=overflows)
def test_it_goes_as_zero_s(found: list[bool]) -> None:
    mine, wanted = both(found, ours(), zero_s())
    assert mine == wanted


@given(before=overflows, after=overflows)
def test_it_goes_on_from_its_own_counters_and_from_zero_s_and_zero_s_from_its(
    before: list[bool], after: list[bool]
) -> None:
    scale, zero = ours(), zero_s()
    both(before, scale, zero)
    again, from_zero, to_zero = ours(), ours(), zero_s()
    again.set_to(scale.counters())
    assert again.counters() == scale.counters()
    assert again.value == float(scale.factor)
    from_zero.set_to({key: getattr(zero, key) for key in scale.counters()})
    vars(to_zero).update(scale.counters())
    mine, wanted = both(after, scale, zero)
    assert mine == wanted
    assert both(after, again, to_zero) == (wanted, wanted)
    assert both(after, from_zero, zero_s())[0] == wanted


def test_without_counters_it_stays_as_it_is() -> None:
    scale = ours()
    scale.search(found_inf(True))
    scale.set_to({})
    assert scale.value == 2.0 ** (POWER - 1)
    scale.set_to({"cur_scale": 1.0})  # a static one of ZeRO's, below the least
    assert scale.value == LEAST


def test_what_a_file_leaves_out_is_pytorch_s() -> None:
    plain = torch.amp.GradScaler("cpu")
    scale = ours(Fp16())
    assert scale.value == plain.state_dict()["scale"]
    for _ in range(plain.get_growth_interval() + 1):
        assert float(scale.factor) == scale.value
        scale.search(found_inf(False))
    assert float(scale.factor) == 2 * scale.value


OPTIMIZERS: dict[str, Any] = {
    "fused Adam": lambda ps: Adam(ps, lr=0.1, fused=True),
    "Adam": lambda ps: Adam(ps, lr=0.1, fused=False),
    "Lamb": lambda ps: _lamb(ps),
    "Muon": lambda ps: _muon(ps),
}


def _lamb(parameters: list[nn.Parameter]) -> Lamb:
    lamb = Lamb(parameters, lr=0.1, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0)
    fragments = {p: [Fragment(str(i), 0, p.numel())] for i, p in enumerate(parameters)}
    matrices = {str(i): str(i) for i in range(len(parameters))}
    lamb.cut(fragments, matrices=matrices, sum_over_ranks=None)
    return lamb


def _muon(parameters: list[nn.Parameter]) -> Muon:
    settings = {"lr": 0.1, "eps": 1e-8, "weight_decay": 0.0, "dtype": torch.float32}
    muon = Muon(parameters, betas=(0.9, 0.999), **settings)
    fragments = {p: [Fragment(str(i), 0, p.numel())] for i, p in enumerate(parameters)}
    matrices = {
        str(i): Matrices(1, *p.shape, max(p.shape))
        for i, p in enumerate(parameters)
        if p.dim() == 2
    }
    muon.cut(fragments, matrices=matrices, sum_over_ranks=None)
    return muon


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("clip", [0.0, 0.01, 100.0])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_scale_changes_no_update_and_no_norm_and_a_skipped_step_no_weight(
    kind: str, clip: float, late: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    found = []
    for scaled in (False, True):
        module = copy.deepcopy(model)
        optimizer = OPTIMIZERS[kind](list(module.parameters()))
        scaler = torch.amp.GradScaler("cpu")
        scale = LossScale(scaler, SETTINGS, device=CPU) if scaled else None
        gradients = WholeGradients(
            module, optimizer, clip=clip, averages=False, world_size=1, loss_scale=scale
        )
        if late:
            gradients.learn_late()
        told: list[Any] = []
        for x in (1.0, 2.0, math.nan, 3.0, 4.0, 5.0):
            loss = module(torch.full((2, 4), x)).square().mean()
            (loss if scale is None else scaler.scale(loss)).backward()
            gradients.update(optimizer.step)
            told.append(gradients.learned())
            told.append([p.detach().clone() for p in module.parameters()])
            optimizer.zero_grad()
        found.append(told)
        if scale is not None:
            assert scale.value == float(scale.factor) == 2.0 ** (POWER - 1)
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)
    assert math.isnan(found[0][4])
    torch.testing.assert_close(found[0][3], found[0][5], rtol=0, atol=0)


SEARCH = {"initial_scale_power": 24, "loss_scale_window": 3, "hysteresis": 1}
RISE = {"initial_scale_power": 8, "loss_scale_window": 4, "hysteresis": 1}
SLOTS = ["--train.train-micro-batch-size-per-gpu", "4"]
N_STEPS, SAVED = 15, 6


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, ...]]:
    """Train runs of both kinds, and resume each as the other; return their directories.

    In ``search`` all segments are the same, and weights hardly change: whether gradients overflow
    at a scale does not hang by a rounding. With slots it might be a larger one here, where a
    step's gradients are added in fp32.
    """
    folder = tmp_path_factory.mktemp("scales")
    (pattern,) = random_documents(TGT_LEN, vocabulary_size=VOCABULARY)
    same = [np.tile(pattern, 8 * 60)]
    texts = {
        "search": write_corpus(folder / "same", vocabulary_size=VOCABULARY, train=same).path,
        "rise": corpus,
    }
    common = ["--train.tgt-len", str(TGT_LEN), "--train.max-steps", str(N_STEPS)]
    common += ["--model.dropout", "0"]
    still = ["--optim.lr", "1e-7", "--train.mem-len", "0"]
    still += ["--model.cutoffs", "20", "40"]
    hows = {"search": (SEARCH, still), "rise": (RISE, ["--optim.lr", "1e-3", *SLOTS])}
    saving = ["--checkpoint.interval-steps", str(SAVED), "--checkpoint.keep-last", "9"]
    cases = [
        Case(
            folder / f"{name} {kind}",
            ds_file_like(kind, folder / f"{name} {kind}.json", fp16=scale),
            [*common, *flags, *saving],
            corpus=texts[name],
        )
        for name, (scale, flags) in hows.items()
        for kind in KINDS
    ]
    run_cases(cases, corpus=corpus, n_ranks=1)
    resumed = [
        Case(
            begun_from(before.run_dir, SAVED, folder / f"{Path(then.ds_config).stem} resumed"),
            then.ds_config,
            then.flags,
        )
        for before, then in itertools.permutations(cases[2:])
    ]
    run_cases(resumed, corpus=corpus, n_ranks=1)
    search, rise, changed = (
        tuple(case.run_dir for case in some) for some in (cases[:2], cases[2:], resumed)
    )
    return {"search": search, "rise": rise, "rise, resumed as the other": changed}


@pytest.mark.parametrize("name", ["search", "rise"])
def test_a_run_is_as_at_stage_1_in_fp16(runs: dict[str, tuple[Path, ...]], name: str) -> None:
    mine, wanted = (read_metrics(run_dir, kind="train") for run_dir in runs[name])
    same = ("step", "update", "optim/loss_scale", "optim/skipped_steps", "optim/lr")
    assert [[r[key] for key in same] for r in mine] == [[r[key] for key in same] for r in wanted]
    for key, near in (("train/loss", 1e-3), ("optim/grad_norm", 1e-2)):
        for one, other in zip(mine, wanted, strict=True):
            assert one[key] == (None if other[key] is None else pytest.approx(other[key], rel=near))
    skips = [
        [(event["step"], event["loss_scale"]) for event in events(run_dir, "skip")]
        for run_dir in runs[name]
    ]
    assert skips[0] == skips[1]


def test_a_run_that_changes_its_kind_takes_its_scale_along_and_says_so(
    runs: dict[str, tuple[Path, ...]],
) -> None:
    wanted = [r["optim/loss_scale"] for r in read_metrics(runs["rise"][0], kind="train")]
    for run_dir, kind in zip(runs["rise, resumed as the other"], reversed(KINDS), strict=True):
        found = read_metrics(run_dir, kind="train")
        assert [r["optim/loss_scale"] for r in found] == wanted[SAVED:]
        (resumed,) = events(run_dir, "resume")
        (change,) = resumed["changes"]
        assert (change["field"], change["after"]) == ("precision", kind.partition("_")[2])


def test_the_runs_above_search_down_and_up_and_learn(runs: dict[str, tuple[Path, ...]]) -> None:
    search, rise = (read_metrics(runs[name][0], kind="train") for name in ("search", "rise"))
    scales = [r["optim/loss_scale"] for r in search]
    assert scales[0] == 2.0**23
    assert any(later > before for before, later in itertools.pairwise(scales))
    skipped = [event["step"] for event in events(runs["search"][0], "skip")]
    assert any(before + 1 < after for before, after in itertools.pairwise(skipped))
    assert [r["optim/loss_scale"] for r in rise] == [
        2.0 ** (8 + (step - 1) // 4) for step in range(1, N_STEPS + 1)
    ]
    assert rise[-1]["train/loss"] < rise[0]["train/loss"] - 0.1
