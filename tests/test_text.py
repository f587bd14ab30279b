"""Reading: every input gives its text whole, in pieces that cut no word, or one clear error."""

import gzip
import json
import lzma
import os
from pathlib import Path

import pytest

from trainer.data.splitting import by_document, by_position, parse_shares
from trainer.data.text import (
    PIECE_BYTES,
    Piece,
    count_words,
    find_files,
    read_pieces,
    text_file,
)
from trainer.errors import InputError

LONG = "".join(f"word{i} naïve\n" * (i % 2) + f" été{i} " for i in range(20_000))


def documents(path: Path, **options: object) -> list[str]:
    texts = [""]
    for piece in read_pieces(find_files(path, format="auto").files, **options):  # type: ignore[arg-type]
        texts[-1] += piece.text
        texts += [""] * piece.ends_document
    assert texts.pop() == ""
    return texts


@pytest.mark.parametrize(
    "text", ["", "a", "\n", "é", "no end", "line\n", "a\r\nb\rc\x85d\u2028e\n", LONG, "x" * 99_999]
)
def test_a_text_file_is_one_document_as_it_stands(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert documents(path) == [text]
    assert documents(path, as_bytes=True) == [text.encode().decode("latin-1")]


def test_pieces_are_small_and_cut_between_words(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(LONG.encode())
    pieces = list(read_pieces([text_file(path, format="auto")]))
    assert max(len(piece.text) for piece in pieces) < 2 * PIECE_BYTES
    assert [word for piece in pieces for word in piece.text.split()] == LONG.split()
    path.write_text("end")
    assert list(read_pieces([text_file(path, format="auto")])) == [Piece("end", True)]
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.text for piece in pieces)


def test_words_are_counted_as_words_and_line_ends(tmp_path: Path) -> None:
    assert count_words(Piece("a b\n\nc", ends_document=True)) == 6
    assert count_words(Piece("a b\n\nc", ends_document=False)) == 5
    assert count_words(Piece("a\n", ends_document=True)) == 2
    assert count_words(Piece("", ends_document=True)) == 0
    path = tmp_path / "a.txt"
    path.write_bytes(LONG.encode())
    counted = sum(map(count_words, read_pieces([text_file(path, format="auto")])))
    assert counted == len(LONG.split()) + LONG.count("\n") + 1


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)]
)
def test_compressed_inputs_read_as_what_they_hold(tmp_path: Path, suffix: str, compress) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress(LONG[:50_000].encode()) + compress(LONG[50_000:].encode()))
    assert documents(path) == [LONG]
    lines = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in (LONG, "", "b"))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(b"\n" + lines.encode()))
    assert documents(path) == [LONG, "", "b"]


def test_the_bytes_read_are_reported_once_each(tmp_path: Path) -> None:
    files = []
    for name in ("a.txt", "b.txt.xz", "c.jsonl.gz"):
        text = (json.dumps({"text": LONG}) + "\n").encode()
        path = tmp_path / name
        path.write_bytes({"t": bytes, "x": lzma.compress, "g": gzip.compress}[path.suffix[1]](text))
        files.append(text_file(path, format="auto"))
    read: list[int] = []
    list(read_pieces(files, on_read=read.append))
    assert sum(read) == sum(file.path.stat().st_size for file in files)


def test_a_folder_gives_its_texts_sorted_and_counts_the_rest(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/b/c.py", "d.TXT.GZ", "e.png", "f", "g.tar.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"x"))
    found = find_files(tmp_path, format="auto")
    names = [str(file.path.relative_to(tmp_path)) for file in found.files]
    assert names == ["a/b/c.py", "a/z.md", "b.txt", "d.TXT.GZ"]
    assert found.n_skipped == 3


def test_a_file_that_is_named_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    for name in ("enwik8", "wiki.train.raw"):
        (tmp_path / name).write_text("text")
        assert documents(tmp_path / name) == ["text"]


@pytest.mark.parametrize("n_before", [0, 10, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 5])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3(", b"\xe2\x82"])
def test_text_that_is_not_utf8_is_refused_with_file_and_offset(
    tmp_path: Path, n_before: int, bad: bytes
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * n_before + bad)
    with pytest.raises(InputError, match=f"a.txt: not UTF-8 at byte {n_before} "):
        documents(path)
    assert documents(path, as_bytes=True) == ["x" * n_before + bad.decode("latin-1")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "a.jsonl:2: not JSON"),
        (b'{"text": "\xff"}', "a.jsonl:2: not UTF-8"),
        (b'{"text": "\\ud800"}', "a.jsonl:2: not UTF-8"),
        (b'{"body": "a", "id": 3}', r"a.jsonl:2: no text under 'text' \(found body, id\)"),
        (b'{"text": 3}', "a.jsonl:2: no text under 'text'"),
        (b'"text"', r"a.jsonl:2: no text under 'text' \(found str\)"),
    ],
)
def test_a_line_without_text_is_refused_with_its_number(
    tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n' + line + b"\n")
    with pytest.raises(InputError, match=message):
        documents(path)


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "fine"}')
    assert documents(path, text_field="body") == ["fine"]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("xz", lzma.compress)])
def test_damaged_compressed_files_are_refused_by_name(
    tmp_path: Path, suffix: str, compress
) -> None:  # type: ignore[no-untyped-def]
    whole = compress(LONG.encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for damaged in (whole[: len(whole) // 2], b"plain text", bytes(flipped)):
        path = tmp_path / f"a.txt.{suffix}"
        path.write_bytes(damaged)
        # A flipped bit may show as text that is no UTF-8 before the checksum is reached.
        with pytest.raises(InputError, match=rf"a.txt.{suffix}: (cannot be read|not UTF-8)"):
            documents(path)


def test_what_cannot_be_read_twice_or_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such file or folder"):
        find_files(tmp_path / "none", format="auto")
    with pytest.raises(InputError, match="none of its 0 files is a text"):
        find_files(tmp_path, format="auto")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe it to --train -"):
        find_files(tmp_path / "pipe", format="auto")


def one_piece_each(texts: list[str]) -> list[Piece]:
    return [Piece(text, ends_document=True) for text in texts]


def test_documents_go_whole_to_the_split_furthest_behind() -> None:
    shares = parse_shares("8,1,1")
    texts = [f"{i:010}" for i in range(1000)]
    routed = list(by_document(one_piece_each(texts), shares))
    assert [piece.text for _, piece in routed] == texts
    counts = {name: sum(got == name for got, _ in routed) for name in shares}
    assert counts == {"train": 800, "valid": 100, "test": 100}
    assert [name for name, _ in routed[:3]] == ["train", "valid", "test"]


def test_a_document_in_pieces_is_not_torn_apart() -> None:
    pieces = [Piece(f"{i}", ends_document=i % 7 == 6) for i in range(700)]
    routed = list(by_document(pieces, parse_shares("1,1")))
    for start in range(0, 700, 7):
        assert len({name for name, _ in routed[start : start + 7]}) == 1


@pytest.mark.parametrize("piece_len", [1, 3, 7, 100, 1000])
def test_a_text_cut_by_position_is_cut_at_the_very_character(piece_len: int) -> None:
    text = "".join(chr(33 + i % 90) for i in range(1000))
    starts = range(0, 1000, piece_len)
    pieces = [Piece(text[i : i + piece_len], i + piece_len >= 1000) for i in starts]
    routed = by_position(pieces, parse_shares("90,5,5"), n_characters=1000, whole_lines=False)
    texts = {"train": "", "valid": "", "test": ""}
    ends: list[str] = []
    for name, piece in routed:
        texts[name] += piece.text
        ends += [name] * piece.ends_document
    assert texts == {"train": text[:900], "valid": text[900:950], "test": text[950:]}
    assert ends == ["train", "valid", "test"]


@pytest.mark.parametrize("piece_len", [1, 4, 9, 10, 11, 1000])
def test_a_text_cut_by_position_can_be_cut_at_line_ends(piece_len: int) -> None:
    text = "".join(f"line {i:04}\n" for i in range(100))
    starts = range(0, 1000, piece_len)
    pieces = [Piece(text[i : i + piece_len], i + piece_len >= 1000) for i in starts]
    texts = {"train": "", "valid": "", "test": ""}
    shares = parse_shares("90.5,4.5,5")
    for name, piece in by_position(pieces, shares, n_characters=1000, whole_lines=True):
        texts[name] += piece.text
    assert texts == {"train": text[:910], "valid": text[910:950], "test": text[950:]}


@pytest.mark.parametrize("split", ["", "98", "98,1,1,1", "98,0,2", "a,b", "1,-1", "nan,1", "inf,1"])
def test_what_are_no_shares_is_refused(split: str) -> None:
    with pytest.raises(InputError, match=r"--split .*98,1,1"):
        parse_shares(split)
