"""The quick start's result is that of its own corpus, checkpoint and manner, and of no other."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import lone_world
from training import ROOT, write_text

from trainer.data.header import read_header
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import InputError
from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run
from trainer.track.run_files.results import file_result

Main = Callable[[Path], int]


@pytest.fixture
def main() -> Main:
    """Return the script's own `main`."""
    found: Main = runpy.run_path(str(ROOT / "launch" / "quickstart_result.py"))["main"]
    return found


@pytest.fixture
def run(trained: Path, corpus: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained run, of a corpus that has a test split, too."""
    made = read_header(corpus, "train").made
    splits = {name: tuple(map(Path, made[name])) for name in ("train", "valid")}
    test = write_text(tmp_path / "test.txt", "the bell", n_lines=60)
    prepare(PrepareOptions(out=tmp_path / "corpus", test=(test,), vocab=corpus, **splits))
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "corpus.json").write_text(json.dumps({"path": str(tmp_path / "corpus"), "hash": "0"}))
    return run


def test_it_compares_the_results_of_this_corpus_and_checkpoint_alone(
    run: Path, main: Main, capsys: pytest.CaptureFixture[str]
) -> None:
    without, with_memory = evaluate_run(EvalOptions(run_dir=run, no_memory=True), lone_world())
    capsys.readouterr()
    main(run)
    told = capsys.readouterr().out
    assert f"(step-00000006, {with_memory})" in told
    assert f"memory gains {without.loss - with_memory.loss:.3f} nats per token" in told
    others: list[dict[str, Any]] = [
        {"split_hash": "0" * 32, "corpus_hash": "0" * 32},
        {"rule": "as fairseq"},
        {"checkpoint": "step-00009999", "step": 9999},
        {"precision": "bf16"},
        {"checkpoint_hash": {"weights-00000.safetensors": "0" * 32}},
        {"split": "valid"},
        {"settings": without.settings.model_copy(update={"tgt_len": 3})},
    ]
    for other in others:
        for result in (without, with_memory):
            newer = {"loss": 99.0, "date": "2999-01-01T00:00:00+00:00"}
            file_result(run, result.model_copy(update=newer | other))
    main(run)
    assert capsys.readouterr().out == told


def test_a_result_that_is_not_there_is_asked_for(run: Path, main: Main) -> None:
    evaluate_run(EvalOptions(run_dir=run), lone_world())
    with pytest.raises(InputError, match=r"no result of step-.* on test of corpus \(.*mem_len 0"):
        main(run)
