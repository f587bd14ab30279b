"""JSON lines are known by what they hold, and a line without a text is told with its cause."""

import json
from pathlib import Path

import pytest
from documents import documents

from trainer.data.text import json_lines
from trainer.data.text.json_lines import BadLines, json_shape
from trainer.errors import InputError

LINE = '{"text": "a b", "id": 1}\n'
LONG = json.dumps({"text": "word " * 50_000}) + "\n"
LINES = (
    LINE,
    LINE.rstrip(),
    LINE * 3,
    "\n\n" + LINE,
    "\ufeff" + LINE,
    LONG,
    LONG * 2,
    LONG.rstrip(),
    '{"id": 1}\n{"id": 2}\n',
    '{"id": 1}\n',
    '{"text": "cut\n' + LINE,
    '{ "text" : "cut off',
    '{"a\\"b": 1, "text": "x"}\n',
    '{"text": "a"}\nno json\n',
    "{" + '"text":' + "[" * 99_999,
)
DOCUMENTS = (
    '[{"text": "a"}, {"text": "b"}]',
    '[\n  {\n    "text": "a"\n  }\n]\n',
    '["a", "b"]',
    '{\n  "text": "a"\n}\n',
    '{"version": 1,\n "data": [1, 2]}\n',
    '{"rows": [\n1, 2]}',
    "[" + LONG.rstrip() + "," + LONG + "]",
)
TEXTS = (
    "",
    "{",
    "{}",
    "{ said the brace",
    "{'a': 1}",
    '{"quoted" words} follow',
    '["Hello," she said]',
    "[1] A footnote",
    "[Illustration]",
    '{"a": 1} and so on\nmore text\n',
    "text\n" + LINE,
    '{"key": value\nplain text\n',
    "{\n  body: 1\n}",
    '"text": "a"',
)


@pytest.mark.parametrize(
    ("text", "shape"),
    [(t, "lines") for t in LINES]
    + [(t, "document") for t in DOCUMENTS]
    + [(t, None) for t in TEXTS],
)
def test_json_is_told_from_text_by_its_first_bytes(text: str, shape: str | None) -> None:
    assert json_shape(text.encode()[: 1 << 16], text_field="text") == shape


@pytest.mark.parametrize("name", ["train.json", "train", "train.txt", "c4.ndjson", "d.jsonl"])
def test_json_lines_are_read_under_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(LINE + '{"text": "c"}\r\n')
    assert documents(path) == ["a b", "c"]
    assert documents(path, format="text") == [path.read_bytes().decode()] or name.endswith("l")


@pytest.mark.parametrize("name", ["settings.py", "notes.md"])
def test_source_that_looks_like_json_is_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(LINE)
    assert documents(tmp_path / name) == [LINE]


def test_a_json_document_is_refused_with_the_way_to_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(DOCUMENTS[0])
    with pytest.raises(InputError, match=r"a.json: this is one JSON document.*jq -c '\.\[\]' "):
        documents(path)
    assert documents(path, format="text") == [DOCUMENTS[0]]


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "fine"}')
    assert documents(path, text_field="body") == ["fine"]


BAD = {
    b"{": r"not JSON at character 2 of the line",
    b'{"text": "a"} {"text": "b"}': r"not JSON at character 14 of the line \(Extra data\)",
    b'{"text": "\xff"}': "not UTF-8 at byte 10 of the line",
    b'{"text": "\xed\xa0\x80"}': "not UTF-8 at byte 10 of the line",
    b'{"text": "ab\\ud800"}': r"half a character \(the lone surrogate \\ud800\) at character 2",
    b'{"text": "a\\u0000b"}': "'text' has a NUL at character 1",
    b'{"text": "a"}\x00\x00': "NUL bytes, not JSON, from byte 13",
    b"\x00" * 99: "NUL bytes, not JSON, from byte 0",
    b'{"body": "a", "id": 3}': r"no field 'text' \(fields: body, id\); see --text-field",
    b'{"a\\u001b[2J": 1}': r"no field 'text' \(fields: a\\x1b\[2J\)",
    b"{}": r"no field 'text' \(fields: none\)",
    b'{"id": 3, "text": null}': "the field 'text' is null, not text",
    b'{"text": 3}': "the field 'text' is a number, not text",
    b'{"text": true}': "the field 'text' is true or false, not text",
    b'{"text": ["a"]}': "the field 'text' is an array, not text",
    b'{"text": {"a": "b"}}': "the field 'text' is an object, not text",
    b'"text"': "a string where an object",
    b"[]": "an array where an object",
    b"null": "null where an object",
    b"NaN": "a number where an object",
    b'{"text": "a", "meta": ' + b"[" * 99_999 + b"]" * 99_999 + b"}": "nested too deeply",
    b'{"text": "a", "n": ' + b"9" * 9999 + b"}": "JSON that cannot be read",
}


@pytest.mark.parametrize("bad", BAD)
def test_a_line_without_text_is_told_with_its_cause_or_left_out(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + bad + b'\n{"text": "two"}\n')
    with pytest.raises(InputError, match=f"^.*a.jsonl:2: .*{BAD[bad]}.*--on-bad-line skip$"):
        documents(path)
    skipping = BadLines("skip")
    assert documents(path, bad_lines=skipping) == ["one", "two"]
    (line,) = skipping.lines()
    assert line.startswith(f"left out: 1 line ({path}:2: ")


def test_a_name_cannot_draw_on_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nerror: b.jsonl"
    path.write_text("{}\n")
    with pytest.raises(InputError) as refusal:
        documents(path)
    assert "a\\x1b[2J\\nerror: b.jsonl:1: no field" in str(refusal.value)


def test_only_the_first_few_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(LINE + "{\n" * 9)
    skipping = BadLines("skip")
    assert documents(path, bad_lines=skipping) == ["a b"]
    (line,) = skipping.lines()
    assert line.startswith(f"left out: 9 lines ({path}:2: ")
    assert line.count("a.jsonl:") == 3
    assert line.endswith("; …)")
    skipping.begin_pass()
    assert skipping.lines() == []


def test_a_file_of_bad_lines_alone_is_refused_even_when_they_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "a"}\n' * 3)
    with pytest.raises(InputError, match=r"none of its lines has a text.*\(fields: content\)"):
        documents(path, bad_lines=BadLines("skip"))


def test_bytes_may_be_nul(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\u0000é"}')
    assert documents(path, as_bytes=True) == ["a\x00é".encode().decode("latin-1")]


def test_a_line_without_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "MAX_LINE_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_text(LINE + '{"text": "' + "x" * 99_999 + '"}\n' + LINE)
    with pytest.raises(InputError, match=r"a.jsonl:2: longer than 100 bytes"):
        documents(path)
    assert documents(path, bad_lines=BadLines("skip")) == ["a b", "a b"]
