"""The reference says of everything what it is, and its file is what the code gives."""

import re
from pathlib import Path

import pytest

import trainer
from trainer.commands.command_line import COMMANDS, parse_command
from trainer.commands.reference.page import chapters, page
from trainer.config.command_line.arguments import train_flags
from trainer.errors import Exit

FILE = Path(trainer.__file__).with_name("REFERENCE.md")
CHAPTERS = {chapter.title: chapter for chapter in chapters(COMMANDS)}


def first_cells(chapter: str, table: str) -> list[str]:
    """Return what the rows of a table are about, as it is typed."""
    (found,) = (t for t in CHAPTERS[chapter].tables if t.title == table)
    return [row[0].strip("`") for row in found.rows]


def test_the_file_in_the_tree_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parse_command(["reference"]).run()
    printed = capsys.readouterr().out
    assert printed == page(COMMANDS)
    assert FILE.read_text() == printed, "run: txl reference > trainer/REFERENCE.md"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_nothing_is_without_a_meaning(chapter: str) -> None:
    tables = CHAPTERS[chapter].tables
    rows = [(table.title, *row) for table in tables for row in table.rows]
    assert rows
    assert [row for row in rows if not re.search("[a-z]", row[-1])] == []
    assert [table.title for table in tables if len({len(row) for row in table.rows}) > 1] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_flags_of_its_help_and_no_other(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "train":
        told = set(train_flags())
    elif name == "lm-eval":  # whose options are those of another program
        told = set()
    else:
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit):
            parse_command([*name.split(), "--help"]).run()  # `config show` reads them then
        told = set(
            re.findall(r"^(?:│ |  )(?:-h, )?(--[a-z][\w.-]*)", capsys.readouterr().out, re.M)
        )
    listed = first_cells("Commands", f"txl {name}")
    if name in ("train", "config show", "plan", "check-model"):
        listed += [
            flag
            for table in CHAPTERS["Settings of a run"].tables
            for flag in first_cells("Settings of a run", table.title)
        ]
    assert {flag for flag in listed if flag.startswith("-")} == told - {"--help"}


def test_every_exit_code_is_listed() -> None:
    assert first_cells("Exit codes", "") == [str(code.value) for code in Exit]
