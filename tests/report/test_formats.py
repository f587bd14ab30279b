"""Tables of results say the same in every format, and hold any name as a name."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from compared_runs import make_compared
from reported_runs import read
from txl_command import exit_code

from trainer.errors import Exit
from trainer.report.formats import MARK, Format, latex_text, table
from trainer.report.groups import Figure, Row, rows_of

HOSTILE = r"a_b & 50% $x$ #1 {c} ~ ^ \input{x} <i>|x| \x1b 中 é"
ROWS = [
    Row(
        name="base",
        of="test of wt103",
        figures={
            "ppl": Figure(mean=24.1, deviation=0.0812, n=3),
            "loss": Figure(mean=3.18, deviation=None, n=1),
        },
    ),
    Row(
        name="wt103-base",
        of="test",
        source="Dai et al. 2019",
        figures={"ppl": Figure(mean=24.0, deviation=None, n=0)},
    ),
    Row(name=HOSTILE, of="test", figures={}),
]


def cells(form: Format) -> list[list[str]]:
    """Return the cells of a table, however it is written."""
    text = table(ROWS, form=form)
    if form == "csv":
        return list(csv.reader(io.StringIO(text)))
    if form == "markdown":
        lines = [line for line in text.splitlines() if line.startswith("|")]
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    lines = [line for line in text.splitlines() if " & " in line]
    return [[cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in lines]


def test_mean_deviation_and_number_are_shown_and_published_rows_are_marked() -> None:
    markdown = cells("markdown")
    assert markdown[0] == ["run", "n", "of", "loss", "ppl", "ppl_word", "bpc"]
    assert markdown[2][:5] == ["base", "3", "test of wt103", "3.1800", "24.10 ± 0.08"]
    assert markdown[3][0] == f"wt103-base {MARK}"
    assert "published, not measured here (wt103-base: Dai et al. 2019)" in table(
        ROWS, form="markdown"
    )
    latex = cells("latex")
    assert latex[1][:5] == ["base", "3", "test of wt103", "3.1800", r"24.10 $\pm$ 0.08"]
    assert latex[2][0] == r"wt103-base $^\dagger$"
    heads, base, published, _ = cells("csv")
    assert dict(zip(heads, base, strict=True)) | {"ppl_mean": "24.1", "ppl_n": "3"} == dict(
        zip(heads, base, strict=True)
    )
    assert dict(zip(heads, published, strict=True))["published_by"] == "Dai et al. 2019"


def test_every_row_has_as_many_cells_as_the_head() -> None:
    for form in ("csv", "latex"):
        rows = cells(form)  # type: ignore[arg-type]
        assert {len(row) for row in rows if row[0] != latex_text(HOSTILE)} == {len(rows[0])}


def test_latex_sets_any_text_as_it_is() -> None:
    text = latex_text(HOSTILE)
    assert text == (
        r"a\_b \& 50\% \$x\$ \#1 \{c\} \textasciitilde{} \textasciicircum{} "
        r"\textbackslash{}input\{x\} \textless{}i\textgreater{}\textbar{}x\textbar{} "
        r"\textbackslash{}x1b [U+4E2D] é"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_table_compiles(tmp_path: Path) -> None:
    text = table(ROWS, form="latex")
    document = f"\\documentclass{{article}}\n\\begin{{document}}\n{text}\n\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 1000


def test_the_command_prints_a_table_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_compared(tmp_path / "a", ppl=23.5)
    for form in ("markdown", "latex", "csv"):
        assert exit_code(monkeypatch, "report", run, "--format", form) == Exit.DONE
        assert capsys.readouterr().out.strip() == table(rows_of(read([run])), form=form)  # type: ignore[arg-type]
    assert exit_code(monkeypatch, "report", run, "--format", "csv", "--json") == Exit.BAD_INPUT
    assert "--json and --format: give one" in capsys.readouterr().err
