"""The README's LSTM is a model like ours: it trains, stops, resumes, is scored and writes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from builders import CPU, segment_of
from readme_model import write_readme_model
from training import ROOT, Case, begun_from, checkpoint_hashes, environment, losses

from trainer.config.recipe import load_recipe
from trainer.errors import Exit
from trainer.report.settings import read_settings, recipe_differences

V = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the README's code lies as `lstm.py`."""
    return write_readme_model(tmp_path_factory.mktemp("lstm")).parent


@pytest.fixture(scope="module")
def lstm(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lstm", folder / "lstm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(lstm: ModuleType) -> Any:
    torch.manual_seed(0)
    return lstm.LSTM(lstm.Options(width=8), V).double()


def unread(model: Any, n_streams: int) -> tuple[torch.Tensor, ...]:
    memory: tuple[torch.Tensor, ...] = model.empty_memory(
        n_streams, mem_len=6, dtype=torch.float64, device=CPU
    )
    return memory


def test_a_row_remembers_what_it_really_read(lstm: ModuleType) -> None:
    model = built(lstm)
    tokens_BT = torch.randint(V, (3, 6))
    memory = model(segment_of(tokens_BT.flip(0)), unread(model, 3)).memory
    after = model(segment_of(tokens_BT, lengths=[6, 0, 2]), memory).memory
    assert all(torch.equal(new[1], old[1]) for new, old in zip(after, memory, strict=True))
    alone = tuple(part[2:] for part in memory)
    expected = model(segment_of(tokens_BT[2:, :2]), alone).memory
    torch.testing.assert_close(tuple(part[2:] for part in after), expected)
    assert not any(part.requires_grad for part in after)


def test_its_nats_are_those_of_its_predictions_however_the_text_is_cut(lstm: ModuleType) -> None:
    model = built(lstm)
    tokens_BT = torch.randint(V, (2, 9))
    whole = segment_of(tokens_BT)
    output = model(whole, unread(model, 2))
    assert output.loss_sum.dtype == torch.float32
    torch.testing.assert_close(output.loss_sum, output.nll_BT.sum())
    memory, parts = unread(model, 2), []
    for begin, end in [(0, 4), (4, 5), (5, 9)]:
        log_probs_BTV, memory = model.predict(segment_of(tokens_BT[:, begin:end]), memory)
        parts.append(log_probs_BTV)
    nll_BT = -torch.cat(parts, dim=1).gather(2, whole.targets_BT[..., None])[..., 0]
    torch.testing.assert_close(nll_BT, output.nll_BT)


def trainer(folder: Path, *argv: object, ends: Exit = Exit.DONE) -> subprocess.CompletedProcess:
    """Return a function that runs a command of `txl` that can import what lies in `folder`."""
    path = os.pathsep.join([str(ROOT), str(folder)])
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, argv)],
        env=environment(PYTHONPATH=path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ends, done.stderr
    return done


@pytest.fixture(scope="module", params=["zero0_fp32", "zero0_bf16_autocast"])
def runs(
    request: pytest.FixtureRequest,
    folder: Path,
    corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """Return a run in one go, and one that goes on from its checkpoint at step 5."""
    where = tmp_path_factory.mktemp("runs")
    recipe = where / "bare.json"
    values = load_recipe("quickstart").model_dump(mode="json")
    recipe.write_text(json.dumps(values | {"model": {"factory": "lstm:build"}}))
    flags = [
        "--model.options.width",
        "32",
        "--train.max-steps",
        "12",
        "--valid.interval-steps",
        "6",
        "--train.train-micro-batch-size-per-gpu",
        "4",
        "--sample.interval-steps",
        "6",
        "--checkpoint.interval-steps",
        "5",
        "--checkpoint.keep-last",
        "9",
    ]
    whole = Case(where / "whole", request.param, flags, recipe=str(recipe))
    trainer(folder, "train", *without_sizes(whole.argv(corpus)))
    resumed = replace(whole, run_dir=begun_from(whole.run_dir, 5, where / "resumed"))
    trainer(folder, "train", *without_sizes(resumed.argv(corpus)))
    return whole.run_dir, resumed.run_dir


def without_sizes(argv: list[str]) -> list[str]:
    """Return a command without the sizes of Transformer-XL."""
    is_size = False
    kept = []
    for word in argv:
        if word.startswith("--"):
            is_size = re.match(r"--model\.(?!options)", word) is not None
        if not is_size:
            kept.append(word)
    return kept


def test_resumed_it_is_the_same_run_bit_by_bit(runs: tuple[Path, Path]) -> None:
    whole, resumed = runs
    assert list(losses(whole)) == list(range(1, 13))
    assert losses(resumed) == {step: losses(whole)[step] for step in range(6, 13)}
    assert losses(whole)[12] < losses(whole)[1] - 0.3
    assert checkpoint_hashes(resumed, 12) == checkpoint_hashes(whole, 12)


def test_a_run_with_another_option_is_another_run(
    runs: tuple[Path, Path], folder: Path, corpus: Path
) -> None:
    whole, _ = runs
    options = json.loads((whole / "config.json").read_text())["model"]["options"]
    assert options == {"width": 32, "depth": 2}
    settings = ["--data", corpus, "--run-dir", whole, "--model.options.depth", "3"]
    other = ["train", whole / "config.json", *settings, "--model.options.width", "256"]
    refused = trainer(folder, *other, ends=Exit.BAD_INPUT).stderr
    assert "model.options.width 32, not 256" in refused
    assert "model.options.depth 2, not 3" in refused
    other += ["--allow-change", "model.options.depth"]
    refused = trainer(folder, *other, ends=Exit.BAD_INPUT).stderr
    assert "--allow-change model.options.depth: a resumed run cannot change it" in refused
    differences = {row.path: row for row in recipe_differences(whole, read_settings(whole)).rows}
    assert differences["model.options.width"].after == "32"


def test_txl_scores_it_and_lets_it_write(runs: tuple[Path, Path], folder: Path) -> None:
    run, _ = runs
    scored = ["eval", run, "--split", "valid", "--device", "cpu", "--precision", "fp32"]
    assert "only with --trust-code" in trainer(folder, *scored, ends=Exit.BAD_INPUT).stderr
    scored.append("--trust-code")
    by_batch = []
    for batch_size in (1, 3):  # every row reads all of the text before it
        trainer(folder, *scored, "--batch-size", batch_size)
        (result,) = (json.loads(path.read_text()) for path in (run / "evals").glob("*.json"))
        by_batch.append(result["loss"])
    assert by_batch == pytest.approx([by_batch[0]] * 2, rel=1e-6)
    assert result["settings"]["batch_size"] == 3
    refused = trainer(folder, *scored, "--as-fairseq", ends=Exit.BAD_INPUT)
    assert "--as-fairseq is for Transformer-XL" in refused.stderr
    said = ["generate", run, "--prompt", "the miller", "--n-tokens", 12, "--device", "cpu"]
    assert "only with --trust-code" in trainer(folder, *said, ends=Exit.BAD_INPUT).stderr
    said.append("--trust-code")
    text = trainer(folder, *said).stdout
    assert text.startswith("the miller ")
    assert len(text.split()) > 6
