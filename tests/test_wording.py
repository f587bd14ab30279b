"""Nothing that a terminal obeys reaches it from outside: not in errors, logs or messages."""

import io
import logging
from pathlib import Path

import pytest
from builders import write_corpus

from trainer.commands.command_line import parse_command
from trainer.commands.corpora import ShowCorpus
from trainer.data.prepare.progress import progress
from trainer.errors import InputError
from trainer.wording import (
    LineFormatter,
    human_count,
    human_seconds,
    printable_lines,
    shortened,
)

EVIL = "a\x1b[31m\x9b2J\u202e\nerror: forged"
ESCAPED = r"a\x1b[31m\x9b2J\u202e\nerror: forged"


def test_an_error_quotes_what_it_quotes_escaped() -> None:
    assert str(InputError(f"{EVIL} is no file")) == f"{ESCAPED} is no file"
    assert str(InputError("one", EVIL)) == f"one\n{ESCAPED}"
    assert len(str(InputError("a" * 10**6))) < 30_000


def test_a_record_of_the_log_is_one_line() -> None:
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(LineFormatter("[0] %(message)s"))
    logger = logging.Logger("evil")
    logger.addHandler(handler)
    logger.warning("%s: passed over", EVIL)
    logger.warning(EVIL)
    assert said.getvalue() == f"[0] {ESCAPED}: passed over\n[0] {ESCAPED}\n"


def test_lines_of_text_stay_lines() -> None:
    assert printable_lines("a\tb\nc\x1b\r\x85") == "a\tb\nc\\x1b\\r\\x85"


@pytest.mark.parametrize("value", [EVIL, {EVIL: [EVIL]}, [[[[[[[[EVIL]]]]]]]], 10**60, b"\x1b"])
def test_a_value_is_shown_short_and_escaped(value: object) -> None:
    assert shortened(value).isprintable()
    assert len(shortened(value)) < 300


@pytest.mark.parametrize(
    "argv",
    [
        ["eval", "x", f"--{EVIL}"],
        [EVIL],
        ["generate", "x", "--n-tokens", EVIL],
        ["eval", "x", "--split", EVIL],
        ["corpus", EVIL],
        ["config", "show", "x", EVIL],
    ],
)
def test_a_mistyped_word_is_quoted_escaped(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, InputError)) as ended:
        parse_command(argv).run()
    said = capsys.readouterr().err + str(ended.value)
    assert said.replace("\n", "").isprintable()
    assert not any(line.startswith("error: forged") for line in said.splitlines())


def test_names_of_folders_are_printed_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / EVIL, vocabulary_size=9, train=[range(9)])
    ShowCorpus(tmp_path / EVIL).run()
    said = capsys.readouterr().out
    assert ESCAPED in said
    assert said.replace("\n", "").isprintable()


def test_a_label_of_a_bar_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(f"[bold]{EVIL}[/nothing]", n_bytes=10) as advance:
        advance(10)
    assert f"[bold]{ESCAPED}[/nothing]" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0"),
        (950, "950"),
        (999.6, "1k"),
        (5300, "5.3k"),
        (412_345, "412k"),
        (999_600, "1M"),
        (1_740_000, "1.74M"),
        (2.5e9, "2.5G"),
        (7e15, "7e+03T"),
    ],
)
def test_counts_have_three_digits_and_a_unit(count: float, said: str) -> None:
    assert human_count(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (45.4, "45s"),
        (59.6, "1m00s"),
        (750, "12m30s"),
        (11_520, "3h12m"),
        (3600 * 24 * 2 + 3600 * 4 + 59, "2d04h"),
    ],
)
def test_durations_have_two_units(seconds: float, said: str) -> None:
    assert human_seconds(seconds) == said
