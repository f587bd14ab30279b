"""At stage 3 a model that each rank builds only its parts of trains as one that is built whole."""

from pathlib import Path
from typing import Any

import pytest
from training import Case, checkpoint_hashes, losses, overflowing, run_cases

from trainer import read_metrics

FLAGS = [
    "--train.max-steps",
    "4",
    "--checkpoint.interval-steps",
    "2",
    "--checkpoint.keep-last",
    "9",
    "--model.dropout",
    "0.1",
]
WHOLE = ["--model.factory", "whole_model:build"]

#: DeepSpeed files, each with a model; `training.TINY` has tied tables in clusters of three widths.
MODELS: dict[str, tuple[str, list[str]]] = {
    "as it is": ("zero3_fp32", []),
    "bf16": ("zero3_bf16", []),
    "fp16": ("zero3_fp16", []),
    "untied": ("zero3_fp32", ["--model.tie-embedding", "False", "--model.div-val", "1"]),
    "projections tied": ("zero3_fp32", ["--model.tie-projections", "all"]),
    "full softmax, own biases": (
        "zero3_bf16",
        ["--model.cutoffs", "--model.div-val", "1", "--model.position-biases", "per_layer"],
    ),
    "LAMB": ("zero3_fp32", ["--optim.type", "Lamb"]),
    "Muon": ("zero3_fp32", ["--optim.type", "Muon"]),
}


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return directories of runs on two ranks: of each model built in parts, and built whole."""
    folder = tmp_path_factory.mktemp("in parts")
    cases = {
        (name, how): Case(
            folder / f"{name}, {how}", overflowing(kind, folder), [*FLAGS, *model, *more]
        )
        for name, (kind, model) in MODELS.items()
        for how, more in (("in parts", []), ("whole", WHOLE))
    }
    run_cases(list(cases.values()), corpus=corpus, n_ranks=2)
    return {key: case.run_dir for key, case in cases.items()}


@pytest.mark.parametrize("name", MODELS)
def test_losses_norms_and_weights_are_those_of_a_whole_model(runs: Any, name: str) -> None:
    parts, whole = runs[name, "in parts"], runs[name, "whole"]
    assert losses(parts) == losses(whole)
    assert norms(parts) == norms(whole)
    assert checkpoint_hashes(parts, 4) == checkpoint_hashes(whole, 4)


def norms(run_dir: Path) -> list[float]:
    return [row["optim/grad_norm"] for row in read_metrics(run_dir, kind="train")]
