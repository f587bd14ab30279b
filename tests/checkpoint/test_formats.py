"""A run of every format of checkpoints goes on as it would have then."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training import Case, losses, run_cases

from trainer.checkpoint.contents.tensors import read_weights
from trainer.checkpoint.folder import newest_whole
from trainer.checkpoint.saved_state import FORMAT

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
#: What a run of two ranks logged after its checkpoint, undisturbed, under formats 2 and 3 alike.
OF_TWO = {
    7: 3.0771621068318686,
    8: 3.074260711669922,
    9: 3.071633497873942,
    10: 3.082709312438965,
    11: 3.0873700777689614,
    12: 3.0638813972473145,
}
#: Per format, ranks of the run that made the fixture, and what it logged after its checkpoint,
#: undisturbed.
LOSSES = {
    "format_1": (
        1,
        {
            7: 3.0787453651428223,
            8: 3.0712682406107583,
            9: 3.0701492627461753,
            10: 3.0796154340108237,
            11: 3.084717114766439,
            12: 3.0631814002990723,
        },
    ),
    "format_2": (2, OF_TWO),
    "format_3": (2, OF_TWO),
}
OLDER = ("format_1", "format_2")


@pytest.mark.parametrize("kind", ["zero0_fp32", "zero3_fp32"])
@pytest.mark.parametrize("format_", LOSSES)
def test_a_checkpoint_of_every_format_is_resumed(tmp_path: Path, format_: str, kind: str) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(HERE / format_ / "step-00000006", run_dir / "checkpoints" / "step-00000006")
    corpus, (n_ranks, expected) = HERE / "format_1" / "corpus", LOSSES[format_]
    run_cases([Case(run_dir, kind, FLAGS)], corpus=corpus, n_ranks=n_ranks)
    assert losses(run_dir) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("format_", OLDER)
def test_weights_of_an_older_format_are_those_of_its_files(format_: str) -> None:
    path = HERE / format_ / "step-00000006"
    expected = {
        name: weight
        for file in path.glob("weights-*.safetensors")
        for name, weight in load_file(file).items()
    }
    found = read_weights(path)
    assert {name: weight.shape for name, weight in found.items()} == {
        name: weight.shape for name, weight in expected.items()
    }
    assert [name for name, weight in found.items() if not torch.equal(weight, expected[name])] == []


@pytest.mark.parametrize("format_", LOSSES)
def test_the_fixture_of_a_format_is_of_that_format(format_: str) -> None:
    manifest = HERE / format_ / "step-00000006" / "manifest.json"
    assert json.loads(manifest.read_text())["format"] == int(format_.removeprefix("format_"))
    assert f"format_{FORMAT}" in LOSSES


def test_a_run_of_a_newer_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step-00000006"
    shutil.copytree(HERE / f"format_{FORMAT}" / path.name, path)
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": FORMAT + 1}))
    found = newest_whole(tmp_path / "checkpoints")
    assert found.path is None
    assert found.skipped == [
        f"{manifest} has format {FORMAT + 1}, newer than the {FORMAT} known here: "
        "update txl-trainer"
    ]


def test_a_resumed_run_writes_the_newest_format(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(HERE / "format_2" / "step-00000006", run_dir / "checkpoints" / "step-00000006")
    corpus = HERE / "format_1" / "corpus"
    case = Case(run_dir, "zero2_fp32", [*FLAGS, "--checkpoint.keep-last", "9"])
    run_cases([case], corpus=corpus, n_ranks=1)
    formats = {
        path.parent.name: json.loads(path.read_text())["format"]
        for path in (run_dir / "checkpoints").glob("step-*/manifest.json")
    }
    assert formats == {"step-00000006": 2, "step-00000012": 3}
