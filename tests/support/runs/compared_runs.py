"""Pairs of runs for the tests of comparisons: alike but for what a test plants."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from reported_runs import OF, RESULT

from trainer.config.recipe import load_recipe
from trainer.track.record.metrics import MetricsWriter
from trainer.track.run_files.results import EvalResult, file_result
from trainer.track.run_files.status import Status, write_status
from trainer.track.run_files.token_files import FIELDS, exact_loss, file_tokens

N_TOKENS = 3000
#: The evaluation of a run, unless a test changes it.
COMPARED = {**RESULT, "step": 100, "checkpoint": "step-00000100"}


def make_compared(
    run_dir: Path,
    *,
    loss_at: Callable[[int], float] = lambda step: 8.0 - step / 20,
    nats: np.ndarray | None = None,
    result: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    seed: int = 1111,
    corpus_hash: str = "01" * 16,
    vocabulary_hash: str = "0a" * 16,
    ppl: float | None = None,
    every: int = 1,
) -> Path:
    """Make a finished run of 100 steps of a recipe, with an evaluation and its tokens."""
    run_dir.mkdir(parents=True)
    values = load_recipe("wt103-base").model_dump(mode="json")
    values["train"] |= train or {}
    values["optim"] |= optim or {}
    values["seed"] = seed
    (run_dir / "config.json").write_text(json.dumps(values))
    (run_dir / "corpus.json").write_text(json.dumps({"path": "/a/wt103", "hash": corpus_hash}))
    (run_dir / "vocabulary.json").write_text(json.dumps({"hash": vocabulary_hash}))
    (run_dir / "command.txt").write_text("launch/train.py wt103-base --data wt103\n")
    writer = MetricsWriter(run_dir, attempt=1)
    for step in range(1, 101):
        counters = {"step": step, "update": step, "n_tokens": 9000 * step}
        if step % every == 0:
            mean = float(np.mean([loss_at(step - i) for i in range(every)]))
            writer.write("train", values={"train/loss": mean}, **counters)
        if step % 10 == 0:
            valid = {"valid/loss": loss_at(step) + 0.1, "of": OF | {"corpus_hash": corpus_hash}}
            writer.write("valid", values=valid, **counters)
    writer.close()
    status = Status(state="done", step=100, update=100, max_steps=100, attempt=1)
    write_status(run_dir, status)
    add_result(run_dir, nats=nats, ppl=ppl, **(result or {}))
    return run_dir


def add_result(
    run_dir: Path, *, nats: np.ndarray | None, ppl: float | None = None, **changes: Any
) -> EvalResult:
    """File an evaluation of the run, with its tokens if there are nats."""
    values = {**COMPARED, **changes}
    if ppl is not None:
        values |= {"loss": float(np.log(ppl)), "ppl": ppl}
    if nats is None:
        filed = EvalResult.model_validate(values)
        file_result(run_dir, filed)
        return filed
    tokens = np.zeros(len(nats), FIELDS)
    tokens["position"] = np.arange(1, len(nats) + 1)
    tokens["token"] = np.arange(len(nats)) % 50
    tokens["train_count"] = 10 ** (tokens["token"] % 5)
    tokens["since_empty"] = tokens["position"]
    tokens["starts_document"] = tokens["position"] % 1000 == 0
    tokens["nats"] = nats
    loss = exact_loss(tokens)
    values |= {"loss": loss, "ppl": float(np.exp(loss)), "n_tokens": len(nats)}
    filed = EvalResult.model_validate(values)
    file_result(run_dir, filed)
    file_tokens(run_dir, filed, tokens)
    return filed
