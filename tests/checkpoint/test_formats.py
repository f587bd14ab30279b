"""A run of every older format of checkpoints goes on as it would have then."""

import shutil
from pathlib import Path

import pytest
from training import Case, losses, run_cases

HERE = Path(__file__).parent
FLAGS = [
    "--model.d-model",
    "8",
    "--model.d-head",
    "4",
    "--model.d-inner",
    "16",
    "--model.norm",
    "pre",
    "--model.cutoffs",
    "--model.div-val",
    "1",
    "--train.train-batch-size",
    "4",
    "--train.train-micro-batch-size-per-gpu",
    "2",
    "--train.tgt-len",
    "6",
    "--train.mem-len",
    "8",
    "--train.max-steps",
    "12",
    "--model.dropout",
    "0.1",
    "--optim.gradient-clipping",
    "1",
]
#: What the run that made the fixture of format 1 logged after its checkpoint, undisturbed.
LOSSES = {
    7: 3.0787453651428223,
    8: 3.0712682406107583,
    9: 3.0701492627461753,
    10: 3.0796154340108237,
    11: 3.084717114766439,
    12: 3.0631814002990723,
}


@pytest.mark.parametrize("format_", ["format_1"])
def test_a_checkpoint_of_an_older_format_is_resumed(tmp_path: Path, format_: str) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(HERE / format_ / "step-00000006", run_dir / "checkpoints" / "step-00000006")
    case = Case(run_dir, "zero0_fp32", FLAGS, corpus=HERE / format_ / "corpus")
    run_cases([case], corpus=HERE / format_ / "corpus", n_ranks=1)
    assert losses(run_dir) == pytest.approx(LOSSES, rel=1e-5)
