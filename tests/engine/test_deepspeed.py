"""What DeepSpeed is asked to do is done: the rate, the clipping, the optimizer of plain torch."""

import itertools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import CPU, tiny_experiment
from deepspeed.accelerator import get_accelerator
from plain_loop import Records, plain_loop
from training import Case, checkpoint_hashes, ds_file_like, events, run_cases

from trainer import read_metrics
from trainer.checkpoint import folder as files
from trainer.config.deepspeed.file import load_ds_config, resolve
from trainer.engine import deepspeed
from trainer.engine.deepspeed import check_device
from trainer.engine.optimizers.schedules import cosine
from trainer.errors import InputError

LR, MIN_LR, WARMUP, MAX_STEPS = 3e-3, 1e-4, 3, 20
FLAGS = [
    "--train.max-steps",
    str(MAX_STEPS),
    "--optim.lr",
    str(LR),
    "--optim.min-lr",
    str(MIN_LR),
    "--optim.warmup-steps",
    str(WARMUP),
    "--model.dropout",
    "0",
    "--optim.gradient-clipping",
    "0.05",
    "--train.train-micro-batch-size-per-gpu",
    "4",
    "--checkpoint.interval-steps",
    "10",
    "--checkpoint.keep-last",
    "9",
]
STAGES = ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")
OVERFLOWING = ("zero0_fp16_autocast", "zero1_fp16", "zero2_fp16", "zero3_fp16")
OFFLOADS = ("zero2_bf16_offload", "zero3_bf16_offload")
SCHEDULERS: dict[str, dict[str, Any]] = {
    "WarmupLR": {"warmup_type": "linear"},
    "WarmupDecayLR": {"warmup_type": "linear"},
    "WarmupCosineLR": {"warmup_type": "linear"},
    "OneCycle": {"cycle_first_step_size": 5, "cycle_momentum": False},
}


def records(run_dir: Path) -> Records:
    rows = read_metrics(run_dir, kind="train")
    assert [row["step"] for row in rows] == list(range(rows[0]["step"], rows[-1]["step"] + 1))
    keys = ("train/loss", "optim/grad_norm", "optim/lr", "update")
    return Records(*([row[key] for row in rows] for key in keys))


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return directories of runs of 20 steps by name, in two slots; `resumed` began at step 10."""
    folder = tmp_path_factory.mktemp("engine")
    kinds = {stage: stage for stage in STAGES}
    for type_, params in SCHEDULERS.items():
        block = {"type": type_, "params": params}
        kinds[type_] = ds_file_like("zero1_fp32", folder / f"{type_}.json", scheduler=block)
    kinds["AdamW"] = "zero0_fp32"
    scale = {"initial_scale_power": 30, "loss_scale_window": 3, "hysteresis": 1}
    for kind in OVERFLOWING:
        kinds[kind] = ds_file_like(kind, folder / f"{kind}.json", fp16=scale)
    adamw = ["--optim.type", "AdamW", "--optim.weight-decay", "0.5"]
    cases = {
        name: Case(folder / name, file, [*FLAGS, *(adamw if name == "AdamW" else [])])
        for name, file in kinds.items()
    }
    run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    faster = ["--optim.lr", str(2 * LR), "--allow-change", "optim.lr"]
    for name in SCHEDULERS:
        cases[f"{name} resumed"] = begun_at_10(cases[name], "resumed")
        cases[f"{name} faster"] = begun_at_10(cases[name], "faster", *faster)
    later = [case for case in cases.values() if " " in case.run_dir.name]
    run_cases(later, corpus=corpus, n_ranks=1)
    return {name: case.run_dir for name, case in cases.items()}


def begun_at_10(case: Case, name: str, *flags: str) -> Case:
    """Return the case in a directory that knows nothing but its checkpoint of step 10."""
    run_dir = case.run_dir.with_name(f"{case.run_dir.name} {name}")
    shutil.copytree(
        files.directory(case.run_dir) / files.name_of(10),
        files.directory(run_dir) / files.name_of(10),
    )
    shutil.copy(case.run_dir / "config.json", run_dir)
    return Case(run_dir, case.ds_config, [*case.flags, *flags])


@pytest.mark.parametrize(
    ("kind", "fp16", "bf16", "instead"),
    [
        ("zero0_fp16_autocast", False, True, "zero0_bf16_autocast"),
        ("zero0_fp16_autocast", False, False, "zero0_fp32"),
        ("zero1_fp16", False, True, "zero1_bf16"),
        ("zero1_bf16", True, False, "zero0_fp16_autocast"),
        ("zero3_bf16", False, False, "zero0_fp32"),
        ("zero0_fp16_autocast", True, False, None),
        ("zero0_bf16_autocast", False, False, None),  # is emulated
        ("zero1_fp16", True, True, None),
    ],
)
def test_a_precision_that_the_device_has_not_names_the_file_to_use(
    monkeypatch: pytest.MonkeyPatch, kind: str, fp16: bool, bf16: bool, instead: str | None
) -> None:
    has = SimpleNamespace(
        device_name=lambda: "cpu", is_fp16_supported=lambda: fp16, is_bf16_supported=lambda: bf16
    )
    monkeypatch.setattr(deepspeed, "get_accelerator", lambda: has)
    resolved = resolve(load_ds_config(kind), tiny_experiment(), world_size=1, where=kind)
    if instead is None:
        check_device(resolved, CPU)
        return
    with pytest.raises(InputError, match=f"on this cpu: use --deepspeed-config {instead}$"):
        check_device(resolved, CPU)


def plain_adam(corpus: Path, *, decoupled: bool, weight_decay: float) -> Records:
    """Return ten steps of the plain loop."""
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    found, _ = plain_loop(
        corpus,
        FLAGS,
        n_steps=10,
        optimizer_of=lambda model: kind(model.parameters(), weight_decay=weight_decay),
    )
    return found


@pytest.mark.parametrize("name", [*STAGES, "AdamW"])
def test_a_plain_torch_loop_has_the_same_losses_norms_and_rates(
    runs: dict[str, Path], corpus: Path, name: str
) -> None:
    is_adamw = name == "AdamW"
    plain = plain_adam(corpus, decoupled=is_adamw, weight_decay=0.5 if is_adamw else 0.0)
    found = records(runs[name])
    # The engine adds up two slots where the loop has one batch: the last bits differ.
    assert found.loss[:10] == pytest.approx(plain.loss, rel=2e-6)
    assert found.grad_norm[:10] == pytest.approx(plain.grad_norm, rel=1e-4)
    assert found.lr[:10] == pytest.approx(plain.lr, rel=1e-12)
    assert min(plain.grad_norm) > 0.05


def test_weight_decay_matters_to_the_loop_above(corpus: Path) -> None:
    with_decay, without = (
        plain_adam(corpus, decoupled=True, weight_decay=decay).loss for decay in (0.5, 0.0)
    )
    assert with_decay[-1] != pytest.approx(without[-1], rel=1e-4)


@pytest.mark.parametrize("kind", OVERFLOWING)
def test_the_cosine_counts_updates_and_not_the_steps_that_overflowed(
    runs: dict[str, Path], kind: str
) -> None:
    found = records(runs[kind])
    skipped = [event["step"] for event in events(runs[kind], "skip")]
    assert min(skipped) == 1
    assert any(before + 1 < after for before, after in itertools.pairwise(skipped))
    for step, (lr, update) in enumerate(zip(found.lr, found.update, strict=True), start=1):
        used = update + 1 if step in skipped else update
        assert lr == pytest.approx(
            cosine(used, lr=LR, min_lr=MIN_LR, warmup_steps=WARMUP, max_steps=MAX_STEPS), rel=1e-12
        )
    assert found.update[-1] == MAX_STEPS
    assert len(found.update) == MAX_STEPS + len(skipped)


def deepspeed_s_rates(name: str, *, lr: float) -> Iterator[float]:
    """Yield DeepSpeed's formulas, in which the rate of the second update is that of iteration 0."""
    for iteration in range(-1, MAX_STEPS - 1):
        left = (MAX_STEPS - iteration) / (MAX_STEPS - WARMUP)
        wave = (1 + math.cos(math.pi * (iteration - WARMUP + 1) / (MAX_STEPS - WARMUP))) / 2
        rise = max(0.0, 1 - abs((iteration + 1) / 5 - 1))
        frac = {"WarmupLR": 1.0, "WarmupDecayLR": left, "WarmupCosineLR": wave}.get(name, rise)
        if iteration < WARMUP and name != "OneCycle":
            frac = max(0, iteration) / WARMUP
        is_first_cosine = iteration < 0 and name == "WarmupCosineLR"
        yield 0.0 if is_first_cosine else MIN_LR + (lr - MIN_LR) * frac


@pytest.mark.parametrize("name", SCHEDULERS)
def test_deepspeed_s_schedulers_train_and_resume(runs: dict[str, Path], name: str) -> None:
    found, resumed = records(runs[name]), records(runs[f"{name} resumed"])
    assert found.lr == pytest.approx(list(deepspeed_s_rates(name, lr=LR)))
    assert resumed.lr == found.lr[10:]
    assert resumed.loss == found.loss[10:]
    assert checkpoint_hashes(runs[f"{name} resumed"], 20) == checkpoint_hashes(runs[name], 20)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_changed_rate_acts_at_once_under_deepspeed_s_schedulers(
    runs: dict[str, Path], name: str
) -> None:
    found = records(runs[f"{name} faster"])
    assert found.lr == pytest.approx(list(deepspeed_s_rates(name, lr=2 * LR))[10:])


@pytest.fixture(scope="module")
def offloaded(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return directories of runs with the optimizer on the CPU, resumed ones, and one without."""
    for tool in ("g++", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"DeepSpeedCPUAdam is compiled with {tool}, which is not installed")
    folder = tmp_path_factory.mktemp("offload")
    cases = {name: Case(folder / name, name, FLAGS) for name in (*OFFLOADS, "zero2_bf16")}
    run_cases(list(cases.values()), corpus=corpus, n_ranks=2)
    for name in OFFLOADS:
        cases[f"{name} resumed"] = begun_at_10(cases[name], "resumed")
    later = [case for name, case in cases.items() if " " in name]
    run_cases(later, corpus=corpus, n_ranks=2)
    return {name: case.run_dir for name, case in cases.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLOADS)
def test_offloaded_optimizers_train_and_resume_bit_by_bit(
    offloaded: dict[str, Path], name: str
) -> None:
    found, resumed = records(offloaded[name]), records(offloaded[f"{name} resumed"])
    assert found.loss == pytest.approx(records(offloaded["zero2_bf16"]).loss, rel=1e-2)
    assert resumed.loss == found.loss[10:]
    hashes = checkpoint_hashes(offloaded[name], 20)
    assert checkpoint_hashes(offloaded[f"{name} resumed"], 20) == hashes
    assert {file.partition("-")[0] for file in hashes} == {"weights", "optimizer", "memory"}


def test_a_process_keeps_to_one_kind_of_device() -> None:
    chosen = get_accelerator().device_name()
    other = torch.device("cpu" if chosen == "cuda" else "cuda")
    resolved = resolve(
        load_ds_config("zero0_fp32"), tiny_experiment(), world_size=1, where="zero0_fp32"
    )
    check_device(resolved, torch.device(chosen))
    with pytest.raises(InputError, match=f"computes on {chosen} in this process.*restart its"):
        check_device(resolved, other)
