"""A run's figures are the same to every digit, and its events the same words, wherever shown."""

import html
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from reported_runs import read
from txl_command import exit_code

from trainer import read_metrics
from trainer.errors import Exit
from trainer.report.page.document import page
from trainer.report.table import report, report_json
from trainer.report.watch.watching import take


def test_the_final_perplexity_is_the_same_everywhere(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = shutil.copytree(trained, tmp_path / "run")
    flags = ["--split", "valid", "--device", "cpu", "--mem-len", "20", "--batch-size", "2"]
    assert exit_code(monkeypatch, "eval", run, *flags, "--per-token") == Exit.DONE
    evaluated = capsys.readouterr().out
    assert exit_code(monkeypatch, "export", run, "--out", tmp_path / "out") == Exit.DONE
    *_, last = read_metrics(run, kind="valid")
    assert last["valid/best_loss"] == last["valid/loss"]
    ppl = f"{last['valid/ppl']:.2f}"
    (found,) = read([run])
    (console,) = run.glob("logs/rank-00000.log")
    assert re.findall(r"valid \| loss [\d.]+ \| ppl ([\d.]+)", console.read_text())[-1] == ppl
    assert f" {ppl} " in report([found]).text
    (values,) = json.loads(report_json([found]).text)
    assert values["best_ppl"] == last["valid/ppl"]
    assert f"reached {ppl} ppl" in found.summary.run + page([found])
    assert take(run, now=0).valid_ppl == last["valid/ppl"]
    (result,) = found.summary.evals
    assert result.ppl == pytest.approx(last["valid/ppl"], rel=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    for text in (evaluated, card, report([found]).text, page([found])):
        assert f"{result.ppl:.3f}" in text
        assert f"{result.loss:.6f}" in text


def test_an_event_is_the_same_sentence_everywhere(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (console,) = trained.glob("logs/rank-00000.log")
    on_page = html.unescape(page(read([trained])))
    watched = take(trained, now=0).events
    said = {name: sentence for _, name, sentence in watched}
    assert set(said) == {"start", "profile", "checkpoint", "stop"}
    assert [s for s in said.values() if s not in console.read_text()] == []
    assert [said[name] in on_page for name in said if name != "checkpoint"] == [True] * 3
