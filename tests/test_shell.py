"""Paths mean what a shell would make of them, and printed commands can be typed again."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainer
from trainer.checkpoint.folder import resolve
from trainer.commands import corpora, exchange, models, reports
from trainer.commands.command_line import parse_command
from trainer.config import strict
from trainer.config.command_line.arguments import parse_train
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import InputError
from trainer.shell import command, program, training, typed_path

COMMANDS: dict[str, Any] = {
    "prepare": corpora.Prepare,
    "eval": models.Eval,
    "generate": models.Generate,
    "import": exchange.Import,
    "export": exchange.Export,
    "watch": reports.Watch,
    "report": reports.Report,
    "compare": reports.Compare,
    "corpus verify": corpora.Verify,
    "corpus show": corpora.ShowCorpus,
}

#: What each of them needs to be parsed at all.
NEEDED = {
    "prepare": ["--out=o"],
    "eval": ["r"],
    "generate": ["r"],
    "import": ["c", "--out=o"],
    "export": ["r", "--out=o"],
    "watch": ["r"],
    "report": [],
    "compare": [],
    "corpus verify": [],
    "corpus show": [],
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def path_fields(part: type, *owners: str) -> Iterator[tuple[str, ...]]:
    """Yield where a command keeps paths: names of fields, those of a part after the part's own."""
    hints = get_type_hints(part, include_extras=False)
    for field in fields(part):
        kind = hints[field.name]
        if is_dataclass(kind) and isinstance(kind, type):
            yield from path_fields(kind, *owners, field.name)
        elif Path in {kind, *get_args(kind)}:
            yield (*owners, field.name)


OPTIONS = [(name, place) for name, part in COMMANDS.items() for place in path_fields(part)]


def test_every_command_that_takes_paths_is_asked() -> None:
    assert {name for name, _ in OPTIONS} == set(COMMANDS)
    assert len(OPTIONS) >= 16


@pytest.mark.parametrize(
    ("name", "place"), OPTIONS, ids=[f"{name} {place[-1]}" for name, place in OPTIONS]
)
def test_a_home_is_meant_in_every_path_of_every_command(
    name: str, place: tuple[str, ...], home: Path
) -> None:
    flag = {"source": "from"}.get(place[-1], place[-1]).replace("_", "-")
    positional = {"run_dir", "checkpoint", "runs", "corpus"}
    needed = list(NEEDED[name])
    if place[-1] in positional:
        needed[:1] = []
        needed.insert(0, "~/x y")
    else:
        needed = [word for word in needed if not word.startswith(f"--{flag}=")]
        needed.append(f"--{flag}=~/x y")
    parsed = parse_command([*name.split(), *needed])
    for field in place:
        parsed = getattr(parsed, field)
    assert parsed in (home / "x y", (home / "x y",))


@pytest.mark.parametrize("flag", ["--data", "--run-dir", "--init-from", "--resume-from"])
def test_a_home_is_meant_in_every_path_of_the_training_command(flag: str, home: Path) -> None:
    needed = ["quickstart", "--data=~/c", "--run-dir=~/r"]
    given = parse_train([*needed, f"{flag}=~/x"])
    assert getattr(given, flag.strip("-").replace("-", "_")) == home / "x"


def test_a_home_is_meant_where_a_name_or_a_path_is_taken(home: Path) -> None:
    home.mkdir()
    recipe = {"experiment.json": "{}", "deepspeed.json": '{"zero_optimization": {"stage": 1}}'}
    for name, text in recipe.items():
        (home / name).write_text(text)
        found = strict.read_named(f"~/{name}", Path(), kind="file")
        assert found == text.encode()
    (home / "step-00000040").mkdir()
    assert resolve(home, "~/step-00000040") == home / "step-00000040"
    for read in (trainer.load, trainer.read_metrics):
        with pytest.raises(InputError, match=str(home)):
            read("~/step-00000040")


@pytest.mark.parametrize("text", ["-", "x/~/y", "./~", "~nobody-of-this-name/x", "", "/~"])
def test_what_is_no_home_stays(text: str) -> None:
    assert typed_path(text) == Path(text)


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


ODD_WORDS = st.sampled_from(
    [
        "my runs",
        "~/x",
        "it's",
        "a\nb",
        "$HOME",
        "\x1b[31m",
        "*",
        "",
        "\udcff",
        "-n",
        "ä ö",
        "\u202e",
    ]
)


@given(words=st.lists(WORDS | ODD_WORDS, min_size=1, max_size=9))
def test_a_shell_reads_the_words_that_were_printed(words: list[str]) -> None:
    printed = command(*words)
    assert printed.isprintable()
    script = f"printf '%s\\0' {printed}".encode()
    read = subprocess.run(["bash", "-s"], input=script, capture_output=True, check=True).stdout
    assert read == b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)


def test_the_next_command_of_a_preparation_can_be_typed(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a b c\n" * 9)
    out = tmp_path / "my corpora" / "it's mine"
    told = prepare(PrepareOptions(out=out, train=(text,))).lines()[-1]
    next_command = told.removeprefix("next: ")
    words = subprocess.check_output(["bash", "-c", f"printf '%s\\n' {next_command}"], text=True)
    lines = words.splitlines()
    assert lines[lines.index("--data") + 1] == str(out)


def test_a_printed_program_is_the_one_that_the_readers_shell_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Path(sys.executable).parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(ours))
    assert program("txl") == "txl"
    other = tmp_path / "bin" / "txl"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    for path in (str(tmp_path), f"{other.parent}:{ours}"):  # none, and another one first
        monkeypatch.setenv("PATH", path)
        assert program("txl") == str(ours / "txl")
    monkeypatch.chdir(ours.parent)
    assert program("txl") == f"{ours.name}/txl"
    assert program("no-such-program") == "no-such-program"


def test_a_printed_training_command_begins_training_from_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(trainer.__file__).parents[1]
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.chdir(root)
    assert training("quickstart") == "deepspeed launch/train.py quickstart"
    monkeypatch.chdir(tmp_path)
    assert training("quickstart") == f"deepspeed {root}/launch/train.py quickstart"
    monkeypatch.setattr("trainer.shell.__file__", str(tmp_path / "site/trainer/shell.py"))
    assert training("quickstart") == "txl train quickstart"  # where no checkout is
