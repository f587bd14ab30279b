"""A model card says what the model is and how it scores; a number stands under what it is of."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import lone_world, write_corpus
from saved_checkpoints import alter_state
from training import ROOT

from trainer import read_metrics
from trainer.data.corpus import open_corpus
from trainer.exchange.exporting import export
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.track.run_files.results import file_result


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run, to file results in."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def card_of(run: Path, *, out: str = "out") -> str:
    """Return the card of the run's last checkpoint."""
    export(run, out=run.parent / out, which="last", form="txl")
    return (run.parent / out / "README.md").read_text()


def test_it_says_what_it_read_how_it_was_trained_and_how_to_load_it(
    run: Path, corpus: Path, tmp_path: Path
) -> None:
    card = card_of(run)
    opened = open_corpus(corpus)
    assert f"Corpus {corpus.name} ({opened.hash[:12]}): words" in card
    assert f"| train | {opened.splits['train'].n_tokens:,} |" in card
    assert "| optim.lr | 0.01 |" in card
    assert "How it was trained is not known" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("some text", "import re")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) > 0


def test_its_best_validation_is_that_of_the_run(run: Path) -> None:
    losses = {r["step"]: r["valid/loss"] for r in read_metrics(run, kind="valid")}
    step = min(losses, key=lambda step: losses[step])
    ppl = f"{math.exp(losses[step]):.2f}"
    assert f"{losses[step]:.4f} nats per token (ppl {ppl}), at step {step}" in card_of(run)


def test_results_are_of_this_checkpoint_alone_and_stand_under_what_they_are_of(
    run: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = EvalOptions(run_dir=run, split="valid", checkpoint="last", mem_len="0,20")
    theirs = EvalOptions(run_dir=run, split="valid", checkpoint="last", as_fairseq=True)
    scored = evaluate_run(asked, lone_world()) + evaluate_run(theirs, lone_world())
    elsewhere = {"corpus": "other|one", "corpus_hash": "0" * 32, "split_hash": "1" * 32}
    file_result(run, scored[0].model_copy(update=elsewhere | {"loss": 1.125}))
    for change in (
        {"checkpoint": "step-00000001"},
        {"checkpoint_hash": {"weights-00000.safetensors": "0" * 32}},
    ):
        file_result(run, scored[0].model_copy(update=change | {"loss": 7.654321}))
    (run / "evals" / "torn.json").write_text('{"loss": 2')
    card = card_of(run)
    home, other = card.split("## Results")[1].split("\n## ")[0].split("###")[1:]
    assert home.startswith(f" valid of {corpus.name} ({open_corpus(corpus).hash[:12]})\n")
    assert other.startswith(
        r" valid of other\|one (000000000000), not the corpus it was trained on"
    )
    for result in scored:
        row = f"| {result.rule} | {result.loss:.6f} | {result.ppl:.3f} |"
        assert home.count(row) == 1
    assert "| 1.125000 |" in other
    assert "7.654321" not in card
    assert "torn.json is no result of txl eval" in caplog.text


def test_another_corpus_in_the_place_of_its_own_is_not_taken_for_it(run: Path) -> None:
    other = write_corpus(run.parent / "corpus", vocabulary_size=9, train=[[1, 2, 3]])
    named = json.loads((run / "corpus.json").read_text())
    (run / "corpus.json").write_text(json.dumps(named | {"path": str(other.path)}))
    card = card_of(run)
    assert f"Corpus corpus ({named['hash'][:12]})" in card
    assert "What stands in its place now is another." in card
    assert "| train | 3 |" not in card
    shutil.rmtree(other.path)
    assert "It is not at hand any more." in card_of(run, out="again")
    (run / "corpus.json").write_text("[" * 100_000)
    assert "Unknown: the run names no corpus." in card_of(run, out="broken")


def test_no_export_holds_a_path_of_this_machine(run: Path, tmp_path: Path) -> None:
    """A finetuned run has a parent somewhere, which no card and no configuration tells."""
    parent = tmp_path / "home" / "first" / "checkpoints" / "step-00000001"
    alter_state(run, '"parent": null', f'"parent": "{parent}"')
    evaluate_run(EvalOptions(run_dir=run, split="valid", checkpoint="last"), lone_world())
    card_of(run)
    export(tmp_path / "out", out=tmp_path / "again", which="best", form="txl")
    for folder in ("out", "again"):
        for name in ("README.md", "config.json"):
            text = (tmp_path / folder / name).read_text()
            assert "first/step-00000001" in text
            assert str(tmp_path) not in text
            assert "/home" not in text
