"""A run says what its numbers are of wherever they stand: log, records, status, card, report."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from reported_runs import read
from training import events

from trainer import read_metrics
from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import open_corpus
from trainer.report.table import report
from trainer.track.measure import Measure
from trainer.track.run_files.results import valid_measure
from trainer.track.run_files.status import read_status
from trainer.training.opening.identity import precision_change


@pytest.fixture(scope="module")
def of(corpus: Path) -> Measure:
    """Return what the trained run's validations are of."""
    lengths = ScoringConfig(tgt_len=12, mem_len=20, batch_size=2)
    measure = valid_measure(open_corpus(corpus), lengths, precision="fp32")
    assert measure is not None
    return measure


def test_the_log_begins_with_what_is_read_and_what_validations_are_of(
    trained: Path, corpus: Path, of: Measure
) -> None:
    log = (trained / "logs" / "rank-00000.log").read_text()
    n_tokens = open_corpus(corpus).splits["train"].n_tokens
    text = f"{corpus.name} ({open_corpus(corpus).hash[:12]})"
    assert f"trains on train of {text}: {n_tokens:,} tokens; validates on {of}\n" in log
    assert f"valid of {text}: every token, tgt_len 12, mem_len 20, clamp_len -, " in str(of)
    assert ", fp32, ZeRO-0, 1 rank\n" in log


def test_every_validation_record_says_what_it_is_of(trained: Path, of: Measure) -> None:
    records = read_metrics(trained, kind="valid")
    assert len(records) == 2
    assert [Measure.model_validate(record["of"]) for record in records] == [of, of]


def test_the_first_event_names_corpus_and_precision(trained: Path, corpus: Path) -> None:
    (start,) = events(trained, "start")
    said = (start["corpus_name"], start["corpus_hash"], start["precision"])
    assert said == (corpus.name, open_corpus(corpus).hash, "fp32")


def test_the_result_in_the_status_says_what_it_is_of(
    trained: Path, corpus: Path, of: Measure
) -> None:
    status = read_status(trained)
    assert status is not None
    assert status.result is not None
    assert status.best_of == of
    assert (status.result["corpus"], status.result["precision"]) == (corpus.name, "fp32")
    assert status.result["corpus_hash"] == open_corpus(corpus).hash


def test_a_checkpoint_keeps_what_its_best_is_of(trained: Path, of: Measure) -> None:
    state = json.loads((trained / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert Measure.model_validate(state["train"]["best_of"]) == of


def test_a_report_says_what_the_best_is_of(trained: Path, of: Measure) -> None:
    assert f"  best valid loss: {of}" in report(read([trained])).text.splitlines()


def test_tensorboard_has_it_as_a_text_once(trained: Path, of: Measure) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulators.EventAccumulator(str(trained / "logs" / "tensorboard"))
    board.Reload()
    (text,) = board.Tensors("valid/of/text_summary")
    assert text.tensor_proto.string_val == [str(of).encode()]


def test_another_precision_is_a_change_that_the_record_names() -> None:
    plan: Any = SimpleNamespace(resolved=SimpleNamespace(precision="bf16_autocast"))
    (change,) = precision_change({"precision": "bf16"}, plan)
    assert change.to_json() == {"field": "precision", "before": "bf16", "after": "bf16_autocast"}
    assert precision_change({"precision": "bf16_autocast"}, plan) == []
    assert precision_change({}, plan) == [], "older checkpoints do not say"
