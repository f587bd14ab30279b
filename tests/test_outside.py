"""What comes from outside is read in bounds and shown on one harmless line."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.errors import InputError
from trainer.outside import parse_json, printable, read_json, text_argument


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_printed_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.splitlines() in ([], [shown])
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert shown.encode("utf-8").decode() == shown


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))))
def test_ordinary_text_is_printed_as_it_stands(text: str) -> None:
    assert printable(text, most=len(text) + 1) == text


def test_escapes_and_forged_lines_are_shown_escaped() -> None:
    assert printable("a\nerror: b\x1b[31m\u202e\ud800") == r"a\nerror: b\x1b[31m\u202e\ud800"


def test_of_a_long_text_both_ends_are_shown_and_what_is_left_out_is_told() -> None:
    shown = printable("a" * 50 + "m" * 1_000 + "z" * 50, most=100)
    assert shown == "a" * 50 + "… (1,000 characters) …" + "z" * 50


@pytest.mark.parametrize(
    "text", [b"", b"{", b"NaN", b'{"a": Infinity}', b"\xff", b"[" * 100_000, b"1" * 5_000]
)
def test_what_is_not_json_is_one_error_that_names_the_file(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"x\.json: "):
        read_json(path)


def test_a_file_that_is_too_long_or_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps("a" * 100))
    with pytest.raises(InputError, match="longer than 50 bytes"):
        read_json(path, most_bytes=50)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "none.json")
    assert read_json(path) == "a" * 100


def test_pairs_may_be_refused() -> None:
    def refuse(pairs: list[tuple[str, object]]) -> object:
        raise ValueError("no pairs here")

    with pytest.raises(InputError, match="there: not JSON: no pairs here"):
        parse_json('{"a": 1}', where="there", unique_keys=refuse)


def test_an_argument_that_the_locale_could_not_decode_is_read_as_utf_8() -> None:
    for text in ("plain", "naïve – 中"):
        assert text_argument(text, name="--prompt") == text
        typed = text.encode().decode("ascii", "surrogateescape")  # as in the C locale
        assert text_argument(typed, name="--prompt") == text
    with pytest.raises(InputError, match="--prompt is not UTF-8"):
        text_argument(os.fsdecode(b"caf\xe9"), name="--prompt")
