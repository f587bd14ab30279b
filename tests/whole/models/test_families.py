"""Every kind of model in the package trains, resumes and moves as Transformer-XL does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family_models import TOY, flags_of, toy
from saved_checkpoints import memory_by_stream
from training import Case, begun_from, checkpoint_hashes, losses, overflowing, run_cases

import trainer
from trainer.errors import InputError
from trainer.exchange.exporting import export

FLAGS = [
    "--train.max-steps",
    "12",
    "--train.train-micro-batch-size-per-gpu",
    "2",
    "--model.dropout",
    "0.1",
    "--checkpoint.interval-steps",
    "4",
    "--checkpoint.keep-last",
    "9",
    "--valid.interval-steps",
    "6",
    "--data.memory-reset",
    "document",
]
DEEPSPEED = (("zero0_bf16_autocast", 1), ("zero1_bf16", 2), ("zero3_bf16", 2))

Runs = dict[tuple[str, str], tuple[Path, Path]]


def case_of(kind: str, ds: str, folder: Path, name: str) -> Case:
    """Return one run of a kind with a DeepSpeed file."""
    flags = [*FLAGS, *flags_of(kind)]
    return Case(folder / f"{kind}-{ds}-{name}", overflowing(ds, folder), flags)


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return per kind and DeepSpeed file a run in one go, and one resumed from its step 8."""
    folder, found = tmp_path_factory.mktemp("families"), Runs()
    for n_ranks in (1, 2):
        files = [ds for ds, n in DEEPSPEED if n == n_ranks]
        whole = {(kind, ds): case_of(kind, ds, folder, "whole") for kind in TOY for ds in files}
        run_cases(list(whole.values()), corpus=corpus, n_ranks=n_ranks)
        resumed = {key: case_of(*key, folder, "resumed") for key in whole}
        for key, case in whole.items():
            found[key] = (case.run_dir, begun_from(case.run_dir, 8, resumed[key].run_dir))
        run_cases(list(resumed.values()), corpus=corpus, n_ranks=n_ranks)
    return found


@pytest.mark.parametrize("ds", [ds for ds, _ in DEEPSPEED])
@pytest.mark.parametrize("kind", TOY)
def test_resumed_it_is_the_same_run_bit_by_bit(runs: Runs, kind: str, ds: str) -> None:
    whole, resumed = runs[kind, ds]
    assert losses(resumed) == {step: loss for step, loss in losses(whole).items() if step > 8}
    assert checkpoint_hashes(resumed, 12) == checkpoint_hashes(whole, 12)
    assert losses(whole)[12] < losses(whole)[1] - 0.3


@pytest.fixture(scope="module")
def captured(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Return of each kind whose steps may be captured a run that captures them, and one without."""
    folder = tmp_path_factory.mktemp("captured")
    kinds = [kind for kind in TOY if getattr(toy(kind), "is_static", False)]
    assert kinds
    cases = {
        kind: [
            Case(
                folder / f"{kind}-{how}",
                "zero0_bf16_autocast",
                [*FLAGS, *flags_of(kind), "--train.cuda-graph", how, "--model.cutoffs"],
            )
            for how in ("on", "off")
        ]
        for kind in kinds
    }
    run_cases([case for pair in cases.values() for case in pair], corpus=corpus, n_ranks=1)
    return {kind: [case.run_dir for case in pair] for kind, pair in cases.items()}


def test_a_captured_run_is_the_run_bit_by_bit(captured: dict[str, list[Path]]) -> None:
    for on, off in captured.values():
        assert losses(on) == losses(off)
        assert checkpoint_hashes(on, 12) == checkpoint_hashes(off, 12)


@pytest.fixture(scope="module")
def moved(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Return each kind's run on one rank, one that goes on on two, and one that comes back."""
    folder = tmp_path_factory.mktemp("moved")
    found: dict[str, list[Path]] = {kind: [] for kind in TOY}
    for ds, n_ranks, step in (("zero1_fp32", 1, 0), ("zero2_fp32", 2, 4), ("zero0_fp32", 1, 8)):
        cases = []
        for kind, runs in found.items():
            run_dir = folder / f"{kind}-{ds}"
            if runs:
                begun_from(runs[-1], step, run_dir)
            runs.append(run_dir)
            cases.append(Case(run_dir, ds, [*FLAGS, *flags_of(kind), "--model.dropout", "0"]))
        run_cases(cases, corpus=corpus, n_ranks=n_ranks)
    return found


@pytest.mark.parametrize("kind", TOY)
def test_its_streams_move_from_one_rank_to_two_and_back(moved: Any, kind: str) -> None:
    one, two, back = moved[kind]
    undisturbed = losses(one)
    for run_dir in (two, back):
        told = losses(run_dir)
        assert told == pytest.approx({step: undisturbed[step] for step in told}, rel=1e-5)
    found, expected = (
        memory_by_stream(run_dir / "checkpoints" / "step-00000012") for run_dir in (back, one)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", TOY)
def test_it_is_scored_exported_and_goes_on_writing_without_trust(
    moved: Any, tmp_path: Path, kind: str
) -> None:
    run = moved[kind][0]
    by_batch = [
        trainer.evaluate(run, split="valid", batch_size=size, device="cpu")[0].loss
        for size in (1, 3)  # every row reads all of the text before it
    ]
    assert by_batch == pytest.approx([by_batch[0]] * 2, rel=1e-5)
    out = tmp_path / "exported"
    with pytest.raises(InputError, match=f"of model.kind {kind}, which .* with --as txl"):
        export(run, out=out, which="best", form="transformers")
    export(run, out=out, which="best", form="txl")
    assert f"of the kind {kind}: " in (out / "README.md").read_text()
    exported, trained = trainer.load(out), trainer.load(run)
    assert exported.nats("the miller") == trained.nats("the miller")
    text = trainer.generate(run, prompt="the miller", n_tokens=9, device="cpu")
    assert len(text.split()) > 4


def test_whole_segments_of_another_length_are_scored_with_a_warning(
    moved: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (plain,) = trainer.evaluate(moved["rmt"][0], split="valid", device="cpu")
    trained_len = plain.settings.tgt_len
    assert "depends on the length of segments" not in caplog.text
    trainer.evaluate(moved["rmt"][0], split="valid", tgt_len=trained_len + 1, device="cpu")
    assert f"trained with tgt_len {trained_len} and is scored with {trained_len + 1}" in caplog.text


def test_an_export_may_not_name_another_s_code(moved: Any, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    export(moved["lstm"][0], out=out, which="best", form="txl")
    values: dict[str, Any] = json.loads((out / "config.json").read_text())
    named = {"kind": "transformer-xl", "factory": "trainer.model.families.lstm:build"}
    values["experiment"]["model"] |= named
    (out / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"names a model\.factory"):
        trainer.load(out)
