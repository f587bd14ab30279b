"""What ZeRO does with layers in several places, and with weights that are not trained."""

from pathlib import Path

import pytest
from builders import tiny_model
from odd_layers_model import build_shared
from training import Case, begun_from, checkpoint_hashes, losses, run_cases

from trainer.checkpoint.contents.tensors import read_weights
from trainer.engine.zero import layers_are_called_once
from trainer.errors import Exit


def test_layers_are_counted_by_their_places() -> None:
    model = tiny_model(20)
    assert layers_are_called_once(model)
    assert not layers_are_called_once(build_shared(model.config, 20))
    assert not layers_are_called_once(model.embedding)


def test_a_layer_in_several_places_trains_at_stage_3_as_at_stage_0(
    corpus: Path, tmp_path: Path
) -> None:
    shared = ["--train.max-steps", "4", "--model.factory", "odd_layers_model:build_shared"]
    cases = [Case(tmp_path / kind, kind, shared) for kind in ("zero0_fp32", "zero3_fp32")]
    run_cases(cases, corpus=corpus, n_ranks=1)
    one, other = (losses(case.run_dir) for case in cases)
    assert other == pytest.approx(one, rel=1e-5)


def test_weights_that_are_not_trained_are_refused_by_zero_and_saved_at_stage_0(
    corpus: Path, tmp_path: Path
) -> None:
    frozen = [
        "--train.max-steps",
        "4",
        "--checkpoint.interval-steps",
        "2",
        "--checkpoint.keep-last",
        "9",
        "--model.factory",
        "odd_layers_model:build_frozen",
    ]
    kept = Case(tmp_path / "kept", "zero0_fp32", frozen)
    refused = [
        Case(tmp_path / kind, kind, frozen, ends=Exit.BAD_INPUT)
        for kind in ("zero1_fp32", "zero2_fp32", "zero3_fp32")
    ]
    told = run_cases([kept, *refused], corpus=corpus, n_ranks=1)
    for stage, line in enumerate(told, start=1):
        assert f"ZeRO-{stage} cannot save weights that are not trained (layers.0." in line
    weights = read_weights(kept.run_dir / "checkpoints" / "step-00000004")
    assert "layers.0.attention.query.weight" in weights
    begun_from(kept.run_dir, 2, tmp_path / "resumed")
    resumed = Case(tmp_path / "resumed", "zero0_fp32", frozen)
    run_cases([resumed], corpus=corpus, n_ranks=1)
    assert checkpoint_hashes(resumed.run_dir, 4) == checkpoint_hashes(kept.run_dir, 4)
