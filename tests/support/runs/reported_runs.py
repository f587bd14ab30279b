"""Run directories for the tests of reports, made without training."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.report.summary import ReadRun, read_run_or_reason
from trainer.track.record.metrics import MetricsWriter
from trainer.track.run_files.status import RunState, Status, write_status

NOW = 1_800_000_000.0

CORPUS = {"corpus": "wt103", "corpus_hash": "01" * 16}
LENGTHS = {
    "tgt_len": 64,
    "mem_len": 640,
    "clamp_len": 400,
    "same_length": True,
    "warm": "exact",
}
OF = {
    **CORPUS,
    "split": "valid",
    "split_hash": "02" * 16,
    "precision": "bf16",
    "rule": "every token",
    "settings": LENGTHS,
}
RESULT = {
    **OF,
    "version": 2,
    "split": "test",
    "checkpoint": "step-00000040",
    "step": 40,
    "loss": 2.25,
    "ppl": 9.4877,
    "ppl_word": 9.4877,
    "bpc": 1.2,
    "n_tokens": 245_569,
    "tokens_per_s": 1000.0,
}


def read(folders: Sequence[Path], *, now: float = NOW) -> list[ReadRun]:
    """Return what a report reads of folders."""
    return [read_run_or_reason(folder, now=now) for folder in folders]


def write_valid(writer: MetricsWriter, step: int, loss: float, of: dict[str, Any] | None) -> None:
    """Write a validation record; one of an older run says nothing of what it is of."""
    values = {"valid/loss": loss} | ({} if of is None else {"of": of})
    writer.write("valid", step=step, update=step - 2, n_tokens=step, values=values)


def make_run(
    run_dir: Path, *, state: RunState = "running", heartbeat: float = NOW, host: str | None = None
) -> Path:
    """Make a run of two attempts, of 61 steps of which two were skipped."""
    run_dir.mkdir()
    first = MetricsWriter(run_dir, attempt=1)
    for step in range(1, 61):
        values = {"train/loss": 8.0 - step / 10, "throughput/tokens_per_s": 1000.0 + step}
        update = max(0, step - 2)
        first.write("train", step=step, update=update, n_tokens=step, values=values)
    for step, loss in ((20, 3.0), (40, 2.0), (60, 2.5)):
        write_valid(first, step, loss, OF)
    first.close()
    second = MetricsWriter(run_dir, attempt=2)
    second.write("event", step=60, update=58, n_tokens=60, values={"event": "resume"})
    second.write("train", step=61, update=59, n_tokens=61, values={"train/loss": None})
    second.close()
    status = Status(
        state=state,
        step=61,
        update=59,
        max_steps=1000,
        attempt=2,
        eta_s=90,
        heartbeat=heartbeat,
        result={"throughput/tokens_per_s": 1234.5},
    )
    write_status(run_dir, status if host is None else status.model_copy(update={"host": host}))
    (run_dir / "corpus.json").write_text(json.dumps({"path": "/a/b/wt103", "hash": "01" * 16}))
    (run_dir / "evals").mkdir()
    (run_dir / "evals" / "test.json").write_text(json.dumps(RESULT))
    return run_dir


def make_imported(run_dir: Path) -> Path:
    """Make what `txl import` leaves, as far as a report reads it, and one evaluation."""
    (run_dir / "evals").mkdir(parents=True)
    origin = {"layout": "kimiyoung", "path": "/home/a/LM-TFM/model.pt", "file": "model.pt"}
    (run_dir / "imported.json").write_text(json.dumps(origin | {"bytes": 3, "xxh3_128": "0"}))
    (run_dir / "evals" / "test.json").write_text(json.dumps(RESULT))
    return run_dir
