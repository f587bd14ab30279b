"""A run begins with weights that another program has saved, on any ranks and at any stage."""

from pathlib import Path
from typing import Any

import pytest
from family_models import flags_of
from safetensors.torch import save_file
from training import Case, run_cases
from translating_model import PREFIX

from trainer import read_metrics
from trainer.checkpoint.contents.tensors import read_weights
from trainer.errors import Exit

SHORT = [
    "--train.max-steps",
    "1",
    "--optim.warmup-steps",
    "0",
    "--valid.interval-steps",
    "1",
    "--optim.lr",
    "1e-6",
]
TRAINED = ["--train.max-steps", "6", "--valid.interval-steps", "6"]
OPTIONS = flags_of("lstm")[2:]
FACTORY = ["--model.factory", "translating_model:build", *OPTIONS]


def valid_loss(run_dir: Path, step: int) -> float:
    """Return the loss of the validation at a step."""
    records = {record["step"]: record for record in read_metrics(run_dir, kind="valid")}
    loss: Any = records[step]["valid/loss"]
    return float(loss)


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a trained run, and runs that begin with files of its weights."""
    folder = tmp_path_factory.mktemp("foreign")
    trained = Case(folder / "trained", flags=[*TRAINED, *flags_of("lstm")])
    run_cases([trained], corpus=corpus, n_ranks=1)
    weights = read_weights(trained.run_dir / "checkpoints" / "step-00000006")
    own, foreign = folder / "own.safetensors", folder / "foreign.safetensors"
    save_file(weights, own)
    save_file({PREFIX + name: tensor for name, tensor in weights.items()}, foreign)
    begun = {
        "own names": ("zero0_fp32", 1, [*flags_of("lstm"), "--init-from", str(own)]),
        "translated": ("zero0_fp32", 1, [*FACTORY, "--init-from", str(foreign)]),
        "two ranks": ("zero3_fp32", 2, [*FACTORY, "--init-from", str(foreign)]),
    }
    for n_ranks in (1, 2):
        cases = [
            Case(folder / name, ds, [*SHORT, *flags])
            for name, (ds, n, flags) in begun.items()
            if n == n_ranks
        ]
        run_cases(cases, corpus=corpus, n_ranks=n_ranks)
    return {"trained": trained.run_dir, **{name: folder / name for name in begun}}


@pytest.mark.parametrize("name", ["own names", "translated", "two ranks"])
def test_it_begins_where_the_weights_were(runs: dict[str, Path], name: str) -> None:
    before = valid_loss(runs["trained"], 6)
    assert valid_loss(runs[name], 0) == pytest.approx(before, rel=1e-5)


def test_a_file_of_another_model_is_refused(corpus: Path, tmp_path: Path, runs: Any) -> None:
    path = runs["trained"].parent / "foreign.safetensors"
    flags = [*SHORT, *flags_of("gla"), "--init-from", str(path)]
    case = Case(tmp_path / "run", flags=flags, ends=Exit.BAD_INPUT)
    (told,) = run_cases([case], corpus=corpus, n_ranks=1)
    assert "does not fit the model" in told
    assert not (tmp_path / "run" / "config.json").exists()
