"""A report says of every run, live or dead, what became of it."""

import json
import subprocess
import sys

import pytest

from trainer.errors import InputError
from trainer.metrics import MetricsWriter
from trainer.report import SILENT_S, report, sparkline, summarise
from trainer.status import Status, write_status

NOW = 1_800_000_000.0


def make_run(run_dir, *, state="running", heartbeat=NOW):
    run_dir.mkdir()
    first = MetricsWriter(run_dir, attempt=1)
    for step in range(1, 61):
        values = {"train/loss": 8.0 - step / 10, "throughput/tokens_per_s": 1000.0 + step}
        first.write("train", step=step, update=max(0, step - 2), n_tokens=step, values=values)
    for step, loss in ((20, 3.0), (40, 2.0), (60, 2.5)):
        values = {"valid/loss": loss, "valid/ppl": 10 * loss}
        first.write("valid", step=step, update=step - 2, n_tokens=step, values=values)
    first.close()
    second = MetricsWriter(run_dir, attempt=2)
    second.write("event", step=60, update=58, n_tokens=60, values={"event": "resume"})
    second.write("train", step=61, update=59, n_tokens=61, values={"train/loss": None})
    second.close()
    status = Status(
        state=state, step=61, update=59, max_steps=1000, attempt=2, eta_s=90, heartbeat=heartbeat
    )
    write_status(run_dir, status)
    (run_dir / "evals").mkdir()
    result = {"loss": 2.25, "ppl": 9.4877, "n_tokens": 245_569, "corpus": "somewhere"}
    (run_dir / "evals" / "test.json").write_text(json.dumps(result))


def test_the_numbers_of_a_run_are_those_of_its_records(tmp_path):
    make_run(tmp_path / "run")
    run = summarise(tmp_path / "run", now=NOW)
    assert (run.run, run.state) == ("run", "running, eta 1m30s")
    assert (run.step, run.max_steps, run.attempts, run.skipped_steps) == (61, 1000, 2, 2)
    assert (run.best_loss, run.best_ppl, run.best_step) == (2.0, 20.0, 40)
    assert (run.train_loss, run.tokens_per_s) == (2.0, 1030.5)
    assert run.evals == {"test": {"loss": 2.25, "ppl": 9.4877, "n_tokens": 245_569}}
    assert len(run.curve) == 48
    assert list(run.curve) == sorted(run.curve, reverse=True)


def test_the_table_has_a_row_per_run_and_the_details_below(tmp_path):
    make_run(tmp_path / "one", state="done")
    make_run(tmp_path / "two")
    lines = report([tmp_path / "one", tmp_path / "two"], now=NOW).splitlines()
    assert lines[0].split()[:3] == ["run", "state", "step"]
    assert lines[1].split() == (
        ["one", "done", "61/1,002", "2.0000", "2.0000", "20.00", "40", "1.03k", "2", "2"]
    )
    assert lines[2].startswith("two  running, eta 1m30s  61/1,002")
    assert "  test: loss 2.2500 | ppl 9.4877 | n_tokens 245,569" in lines
    assert sum("█" in line and "▁" in line for line in lines) == 2


def test_a_run_that_should_be_alive_but_says_nothing_is_called_silent(tmp_path):
    make_run(tmp_path / "run", heartbeat=NOW - SILENT_S - 7200)
    assert summarise(tmp_path / "run", now=NOW).state == "running, silent for 2h15m"


def test_json_holds_the_same_numbers(tmp_path):
    make_run(tmp_path / "run")
    (run,) = json.loads(report([tmp_path / "run"], as_json=True, now=NOW))
    assert (run["best_loss"], run["step"], run["evals"]["test"]["ppl"]) == (2.0, 61, 9.4877)


def test_a_run_that_has_only_started_or_only_records_is_reported_too(tmp_path):
    (tmp_path / "starting").mkdir()
    write_status(tmp_path / "starting", Status(state="starting", max_steps=10, attempt=1))
    (tmp_path / "records").mkdir()
    MetricsWriter(tmp_path / "records", attempt=1).close()
    lines = report([tmp_path / "starting", tmp_path / "records"]).splitlines()
    assert lines[1].split() == ["starting", "starting", "0/10", *"-----", "0", "1"]
    assert lines[2].split() == ["records", "unknown", "0", *"-----", "0", "0"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither status\.json nor metrics\.jsonl"):
        report([tmp_path])
    make_run(tmp_path / "run")
    (tmp_path / "run" / "evals" / "test.json").write_text('{"loss": 2')
    with pytest.raises(InputError, match=r"test\.json: not readable"):
        report([tmp_path / "run"])


def test_a_sparkline_spans_the_least_to_the_greatest():
    assert sparkline([0.0, 3.5, 7.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_a_plot_is_drawn_or_its_package_named(tmp_path):
    make_run(tmp_path / "run")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="pip install matplotlib"):
            report([tmp_path / "run"], plot=tmp_path / "loss.png")
        assert not (tmp_path / "loss.png").exists()
        return
    report([tmp_path / "run"], plot=tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_reporting_imports_neither_torch_nor_deepspeed_nor_wandb():
    code = "import trainer.report, trainer.status, trainer.console, trainer.tracking, sys;"
    code += "print([m for m in ('torch', 'deepspeed', 'wandb') if m in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"
