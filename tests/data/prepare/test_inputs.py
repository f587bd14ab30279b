"""One text becomes several splits: by document where they hold the shares, by position else."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from trainer.data.prepare.inputs import (
    Inputs,
    SplitBy,
    divided,
    find_inputs,
    refuse_missed_shares,
    shares_line,
)
from trainer.data.text.source import Reading
from trainer.errors import InputError


def inputs_of(folder: Path, *texts: str) -> Inputs:
    """Return the texts as files of a folder, train's alone."""
    path = folder / "texts"
    path.mkdir()
    for i, text in enumerate(texts):
        (path / f"{i:03}.txt").write_text(text)
    return find_inputs({"train": [path]}, Reading(), stdin=None, scratch=folder / "scratch")


def texts_of(inputs: Inputs) -> dict[str, list[str]]:
    """Return the documents of every split."""
    texts: dict[str, list[str]] = {name: [""] for name in inputs.splits}
    for name, piece in inputs.read("reading"):
        texts[name][-1] += piece.text
        texts[name] += [""] * piece.ends_document
    assert all(documents.pop() == "" for documents in texts.values())
    return texts


def book(n_characters: int, letter: str = "x") -> str:
    return (letter * 9 + "\n") * (n_characters // 10)


def came_of(inputs: Inputs) -> str:
    counts = {name: sum(map(len, texts)) for name, texts in texts_of(inputs).items()}
    refuse_missed_shares(inputs, counts)
    return shares_line(inputs, counts)


def test_documents_that_hold_the_shares_stay_whole(tmp_path: Path) -> None:
    books = [book(1000 + 10 * (i % 9)) for i in range(900)]
    inputs = divided(inputs_of(tmp_path, *books), "98,1,1", by="auto", whole_lines=True)
    texts = texts_of(inputs)
    assert sorted(text for of_split in texts.values() for text in of_split) == sorted(books)
    assert inputs.notes == ()
    assert came_of(inputs) == "asked 98/1/1, came 98/1/1 (by characters)"


def test_documents_that_cannot_hold_the_shares_are_cut_in_order_and_it_is_said(
    tmp_path: Path,
) -> None:
    """Twelve books of one length, which as whole documents give 83/8/8 or no valid at all."""
    books = [book(10_000, "abcdefghijkl"[i]) for i in range(12)]
    inputs = divided(inputs_of(tmp_path, *books), "98,1,1", by="auto", whole_lines=True)
    assert "".join(text for of in texts_of(inputs).values() for text in of) == "".join(books)
    (note,) = inputs.notes
    assert note.startswith("12 documents cannot hold shares of 98/1/1 (the nearest is ")
    assert "the text was cut in order, at line ends" in note
    assert came_of(inputs) == "asked 98/1/1, came 98/1/1 (by characters)"


def test_documents_that_must_stay_whole_and_cannot_hold_the_shares_are_refused(
    tmp_path: Path,
) -> None:
    inputs = inputs_of(tmp_path, *[book(10_000)] * 12)
    with pytest.raises(InputError, match=r"--split 98,1,1: 12 documents .* --split-by position"):
        divided(inputs, "98,1,1", by="document", whole_lines=True)
    twelve = divided(inputs, "80,10,10", by="document", whole_lines=True)
    assert came_of(twelve) == "asked 80/10/10, came 83.3/8.3/8.3 (by characters)"


def test_one_document_far_longer_than_the_others_leaves_the_shares_as_they_are(
    tmp_path: Path,
) -> None:
    inputs = inputs_of(tmp_path, "a b\n", book(40_000), "c d\n")
    inputs = divided(inputs, "98,1,1", by="auto", whole_lines=True)
    assert came_of(inputs) == "asked 98/1/1, came 98/1/1 (by characters)"


@pytest.mark.parametrize("by", ["auto", "document", "position"])
def test_fewer_documents_than_splits_are_cut_unless_they_must_stay_whole(
    tmp_path: Path, by: SplitBy
) -> None:
    inputs = inputs_of(tmp_path, book(10_000))
    if by == "document":
        with pytest.raises(InputError, match=r"1 document cannot fill 3 splits"):
            divided(inputs, "8,1,1", by=by, whole_lines=True)
        return
    inputs = divided(inputs, "8,1,1", by=by, whole_lines=True)
    assert {name: len("".join(t)) for name, t in texts_of(inputs).items()} == {
        "train": 8000,
        "valid": 1000,
        "test": 1000,
    }
    (note,) = inputs.notes
    assert note.startswith("1 document cannot" if by == "auto" else "the text was cut in order")


def test_cutting_in_order_can_be_asked_for(tmp_path: Path) -> None:
    books = [book(1000, "ab"[i % 2]) for i in range(300)]
    inputs = divided(inputs_of(tmp_path, *books), "90,10", by="position", whole_lines=True)
    assert "".join(texts_of(inputs)["train"]) == "".join(books[:270])


def test_a_text_too_short_for_its_shares_is_refused_with_what_came(tmp_path: Path) -> None:
    inputs = divided(inputs_of(tmp_path, "one two\n"), "98,1,1", by="auto", whole_lines=True)
    with pytest.raises(InputError, match=r"asked 98/1/1, came .*: the text is too short"):
        came_of(inputs)


def test_what_is_left_out_is_told_once_however_often_the_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"text {i}\n"}) for i in range(100)]
    lines[50:50] = ['{"text": null}', "{"]
    path.write_text("\n".join(lines))
    inputs = find_inputs(
        {"train": [path]}, Reading(), on_bad_line="skip", stdin=None, scratch=tmp_path / "scratch"
    )
    inputs = divided(inputs, "90,10", by="auto", whole_lines=True)
    for _ in range(3):
        assert sum(map(len, texts_of(inputs).values())) == 100
    (told,) = inputs.remarks
    assert told.startswith(f"left out: 2 lines ({path}:51: the field 'text' is null")


def test_files_that_are_read_twice_are_told(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.txt").symlink_to("c.txt")
    paths = {"train": [tmp_path, tmp_path / "b.txt"], "valid": [tmp_path / "link.txt"]}
    inputs = find_inputs(paths, Reading(), stdin=None, scratch=tmp_path / "scratch")
    assert texts_of(inputs)["train"] == ["a.txt", "b.txt", "c.txt", "b.txt"]
    assert inputs.remarks[-2:] == (
        f"read twice: 1 file ({tmp_path}/b.txt)",
        f"read for valid as for train: 1 file ({tmp_path}/link.txt)",
    )


@pytest.mark.parametrize("kind", ["text", "lines", "zip"])
def test_stdin_is_what_its_bytes_say(tmp_path: Path, kind: str) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", "one\n")
    given = {"text": b"one\n", "lines": b'{"text": "one\\n"}\n', "zip": packed.getvalue()}[kind]
    inputs = find_inputs(
        {"train": [Path("-")]}, Reading(), stdin=io.BytesIO(given), scratch=tmp_path / "scratch"
    )
    assert texts_of(inputs) == {"train": ["one\n"]}
    with pytest.raises(InputError, match="stdin can be read once"):
        find_inputs({"train": [Path("-")] * 2}, Reading(), stdin=None, scratch=tmp_path / "scratch")
