"""A report says of every folder what became of it, or why it cannot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reported_runs import make_imported, make_run, read, write_valid
from txl_command import exit_code

from trainer.errors import Exit
from trainer.report.table import report, report_json, sparkline
from trainer.track.record.metrics import MetricsWriter
from trainer.track.throughput import SCORING, TRAINING


def test_the_table_has_a_row_per_run_and_the_details_below(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "one", state="done"), make_run(tmp_path / "two")]
    text, n_shown = report(read(runs))
    lines = text.splitlines()
    assert n_shown == 2
    assert lines[0].endswith(f"tok/s: {TRAINING}")
    assert lines[2].split()[:4] == ["run", "state", "step", "corpus"]
    assert lines[3].split() == [
        "one",
        "done",
        "61/1,002",
        "wt103",
        "(010101010101)",
        "2.0000",
        "2.0000",
        "7.39",
        "40",
        "1.23k",
        "2",
        "2",
    ]
    assert lines[4].startswith("two  running, eta 1m30s  61/1,002")
    assert sum("█" in line and "▁" in line for line in lines) == 2


def test_every_number_stands_under_what_it_is_of(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "evals" / "other.json").write_text(
        (run / "evals" / "test.json").read_text().replace("01" * 16, "77" * 16)
    )
    lines = [line.strip() for line in report(read([run])).text.splitlines()]
    best = (
        "best valid loss: valid of wt103 (010101010101): every token, tgt_len 64, mem_len 640, "
        "clamp_len 400, same_length yes, warm exact, bf16"
    )
    assert best in lines
    assert f"evaluations; tokens/s: {SCORING}" in lines
    row = (
        "step-00000040 40 bf16 64 640 400 yes exact every token 2.250000 9.488 9.488 1.2000 "
        "245,569 1,000"
    )
    for text in ("test of wt103 (010101010101)", "test of wt103 (777777777777)"):
        place = lines.index(text)
        assert lines[place + 1].split()[:3] == ["checkpoint", "step", "precision"]
        assert " ".join(lines[place + 2].split()) == row


def test_a_best_whose_records_do_not_say_what_it_is_of_is_said_to_be(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, attempt=1)
    write_valid(writer, 20, 3.0, None)
    writer.close()
    text = report(read([tmp_path])).text
    assert "  best valid loss: its records do not say what it is of" in text.splitlines()


def test_json_holds_the_same_numbers_and_what_they_are_of(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "run"), tmp_path / "none"]
    run, none = json.loads(report_json(read(runs)).text)
    assert (run["best_loss"], run["step"], run["evals"][0]["ppl"]) == (2.0, 61, 9.4877)
    assert (run["best_of"]["corpus"], run["best_of"]["settings"]["mem_len"]) == ("wt103", 640)
    assert run["error"] is None
    assert (none["run"], none["error"], none["evals"]) == ("none", "no such folder", [])


def test_a_folder_that_cannot_be_shown_costs_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "closed").mkdir(mode=0o000)
    (tmp_path / "file").touch()
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "metrics.jsonl").write_text('{"schema": 2}\n')
    make_imported(tmp_path / "old")
    make_run(tmp_path / "run")
    folders = sorted(tmp_path.iterdir())
    text, n_shown = report(read(folders))
    assert n_shown == 2
    assert "imported from model.pt, a checkpoint of kimiyoung" in text
    table, refused = text.split("not shown: 4 folders\n")
    rows = {line.split()[0]: line for line in refused.splitlines()}
    assert list(rows) == ["closed:", "file:", "newer:", "notes:"]
    assert "not a run: neither status.json nor metrics.jsonl is there" in rows["notes:"]
    assert "has schema 2, newer than the 1 known here" in rows["newer:"]
    assert "not a folder" in rows["file:"]
    assert "\nrun " in table
    assert "\nold " in table


def test_the_exit_code_says_whether_any_run_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    run = make_run(tmp_path / "run")
    assert exit_code(monkeypatch, "report", run, tmp_path / "notes") == Exit.DONE
    assert capsys.readouterr().err == ""
    for flags in ([], ["--json"]):
        none = exit_code(monkeypatch, "report", tmp_path / "notes", tmp_path / "none", *flags)
        assert none == Exit.BAD_INPUT
        told = capsys.readouterr()
        assert told.err == "error: nothing to show: 2 folders, no run\n"
        assert "no such folder" in told.out


def test_runs_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    runs = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        runs.append(make_run(tmp_path / folder / "run"))
    lines = report(read([*runs, make_run(tmp_path / "other")])).text.splitlines()
    assert [line.split()[0] for line in lines[3:6]] == [str(runs[0]), str(runs[1]), "other"]


def test_nothing_from_outside_forges_a_line_or_reaches_the_terminal_raw(tmp_path: Path) -> None:
    name = "run\nerror: forged\x1b[31m"
    run = make_run(tmp_path / name)
    for file in ("evals/test.json", "corpus.json"):
        path = run / file
        path.write_text(path.read_text().replace("wt103", r"a\nerror: forged\u001b[31m"))
    writer = MetricsWriter(run, attempt=2)
    values = {"event": "stop", "reason": "a\nerror: forged\x1b[31m"}
    writer.write("event", step=61, update=59, n_tokens=61, values=values)
    writer.close()
    imported = make_imported(tmp_path / "old")
    origin = {"layout": "a\nerror: forged", "file": "\x1b[31m" + "x" * 4_000}
    (imported / "imported.json").write_text(json.dumps(origin))
    text = report(read([run, imported, tmp_path / "none\nerror: forged"])).text
    assert not any(line.lstrip().startswith("error:") for line in text.splitlines())
    assert all(line.isprintable() for line in text.split("\n"))
    assert max(map(len, text.splitlines())) < 1_000


def test_a_sparkline_spans_the_least_to_the_greatest() -> None:
    assert sparkline([0.0, 3.5, 7.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([-1.7e308, 0.0, 1.7e308]) == "▁▅█"


def test_reporting_imports_neither_torch_nor_deepspeed_nor_wandb() -> None:
    code = "import sys; from trainer.report import table;"
    code += "from trainer.track import console, tracker;"
    code += "from trainer.track.run_files import status;"
    code += "print([m for m in ('torch', 'deepspeed', 'wandb') if m in sys.modules])"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"
