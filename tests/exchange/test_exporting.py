"""`txl export`: the model elsewhere gives the numbers it gave here."""

import json
import os
import subprocess
import venv
from importlib import metadata
from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch
from builders import CPU, tiny_model
from made_text import made_text
from packaging.requirements import Requirement
from saved_checkpoints import contents, flip_a_bit
from training import ROOT, VALID, Case, make_corpus, run_cases

import trainer
from trainer import read_metrics
from trainer.data.corpus import open_corpus
from trainer.errors import InputError
from trainer.exchange.exporting import export
from trainer.exchange.importing import import_checkpoint
from trainer.exchange.model_card import PACKAGES
from trainer.inference.loading import open_trained

STAGES = ("zero1_fp32", "zero2_fp32", "zero3_fp32")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs of two ranks at every ZeRO stage that shares the weights or their state."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--train.max-steps", "4", "--valid.interval-steps", "4"]
    cases = [Case(folder / stage, stage, flags) for stage in STAGES]
    run_cases(cases, corpus=corpus, n_ranks=2)
    return {stage: folder / stage for stage in STAGES}


@pytest.fixture(scope="module")
def text() -> str:
    """Return the corpus's valid split."""
    title, n_lines = VALID
    return made_text(title, n_lines=n_lines)


@pytest.mark.parametrize("stage", STAGES)
def test_an_export_scores_as_the_run_did(
    runs: dict[str, Path], stage: str, text: str, tmp_path: Path
) -> None:
    run = runs[stage]
    export(run, out=tmp_path / "out", which="best", form="txl")
    (record,) = read_metrics(run, kind="valid")
    for path in (tmp_path / "out", run):
        nats = trainer.load(path).nats(text)
        assert len(nats) == open_corpus_of(run).splits["valid"].n_tokens - 1
        assert sum(nats) / len(nats) == pytest.approx(record["valid/loss"], rel=1e-6)


def open_corpus_of(run: Path) -> Any:
    return open_corpus(Path(json.loads((run / "corpus.json").read_text())["path"]))


def test_no_deepspeed_and_no_wandb_are_needed_to_load_it(
    runs: dict[str, Path], text: str, tmp_path: Path
) -> None:
    export(runs["zero3_fp32"], out=tmp_path / "out", which="best", form="txl")
    python = environment_of(PACKAGES, tmp_path / "env")
    (tmp_path / "text").write_text(text)
    code = (
        "import importlib.util, trainer\n"
        "assert not any(map(importlib.util.find_spec, ('deepspeed', 'wandb', 'tyro', 'rich')))\n"
        "model = trainer.load('out')\n"
        "print(sum(model.nats(open('text').read())))\n"
        "print(model.generate('import', n_tokens=5, temperature=0))\n"
    )
    done = subprocess.run(
        [python, "-c", code],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    here = trainer.load(tmp_path / "out")
    told = done.stdout.split("\n", 1)
    assert float(told[0]) == pytest.approx(sum(here.nats(text)), rel=1e-6)
    assert told[1] == here.generate("import", n_tokens=5, temperature=0) + "\n"


def environment_of(packages: tuple[str, ...], folder: Path) -> Path:
    """Return the Python of an environment that holds these packages, what they need, and ours."""
    venv.create(folder, symlinks=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    wanted, seen = [Requirement(package) for package in packages], set[str]()
    while wanted:
        requirement = wanted.pop()
        name = requirement.name.lower()
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        found = metadata.distribution(name)
        wanted += map(Requirement, found.requires or [])
        tops = {path.parts[0] for path in found.files or [] if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            source = Path(str(found.locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    (site / "trainer").symlink_to(ROOT / "trainer")
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    "changes",
    [
        {"cutoffs": (5, 9)},
        {"cutoffs": (5, 9), "div_val": 2, "norm": "pre", "position_biases": "per_layer"},
        {"cutoffs": (5, 9), "div_val": 2, "tie_embedding": False, "tie_projections": "none"},
        {"d_embed": 6, "tie_projections": "all", "cutoffs": (5, 9)},
    ],
)
def test_what_is_exported_for_hugging_face_comes_back_unchanged(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    symbols = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, 20))]
    own_biases = changes.get("position_biases") == "per_layer"
    write = foreign_files.write_huggingface if own_biases else foreign_files.write_kimiyoung
    theirs = write(tmp_path / "theirs", tiny_model(20, **changes), symbols)
    first = import_checkpoint(theirs, out=tmp_path / "first").run_dir
    export(first, out=tmp_path / "exported", which="best", form="huggingface")
    again = import_checkpoint(tmp_path / "exported", out=tmp_path / "again").run_dir
    one, other = (
        open_trained(run, which="best", precision=None, device=CPU) for run in (first, again)
    )
    assert one.experiment.model == other.experiment.model
    assert one.vocabulary.hash == other.vocabulary.hash
    for (name, p), (_, q) in zip(
        one.module.named_parameters(), other.module.named_parameters(), strict=True
    ):
        assert torch.equal(p, q), name


def test_what_is_there_is_not_overwritten_and_nothing_half_written_stays(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(runs["zero1_fp32"], out=out, which="best", form="txl")
    before = contents(out)
    with pytest.raises(InputError, match="exists: give another"):
        export(runs["zero2_fp32"], out=out, which="best", form="txl")
    with pytest.raises(InputError, match="no checkpoint '7'; there are: step-00000004"):
        export(runs["zero2_fp32"], out=tmp_path / "other", which="7", form="txl")
    with pytest.raises(InputError, match=r"--out .*config\.json/other cannot be written: "):
        export(runs["zero2_fp32"], out=out / "config.json" / "other", which="best", form="txl")
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "vocabulary.json"])
def test_a_damaged_export_is_refused(runs: dict[str, Path], tmp_path: Path, file: str) -> None:
    out = tmp_path / "out"
    export(runs["zero1_fp32"], out=out, which="best", form="txl")
    path = out / file
    whole = path.read_bytes()
    if file == "model.safetensors":
        flip_a_bit(path)
        with pytest.raises(InputError, match="corrupt"):
            trainer.load(out)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        trainer.load(out)
    path.unlink()
    with pytest.raises(InputError):
        trainer.load(out)


def test_an_exported_model_cannot_name_code(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(runs["zero1_fp32"], out=out, which="best", form="txl")
    values = json.loads((out / "config.json").read_text())
    values["experiment"]["model"]["factory"] = "os:mkdir"
    (out / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"names a model\.factory"):
        trainer.load(out)


def test_the_origin_of_an_imported_model_stays_with_it(tmp_path: Path) -> None:
    symbols = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, 20))]
    theirs = foreign_files.write_nvidia(tmp_path / "theirs", tiny_model(20), symbols)
    first = import_checkpoint(theirs, out=tmp_path / "run").run_dir
    for source, name in ((first, "once"), (tmp_path / "once", "twice")):
        export(source, out=tmp_path / name, which="best", form="txl")
        card = (tmp_path / name / "README.md").read_text()
        assert "Imported from checkpoint_best.pt, a checkpoint of nvidia" in card
        assert "How it was trained is not known" in card
        assert "optim.lr" not in card
        assert str(tmp_path) not in card
    with pytest.raises(InputError, match="leave --checkpoint out"):
        export(tmp_path / "once", out=tmp_path / "x", which="7", form="txl")
