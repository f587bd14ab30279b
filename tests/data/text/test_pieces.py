"""Reading: every input gives its text whole, in pieces that cut no word, or one clear error."""

import bz2
import gzip
import itertools
import json
import lzma
from pathlib import Path

import pytest
from documents import documents

from trainer.data.text.finding import text_file
from trainer.data.text.pieces import PIECE_BYTES, Piece, count_words, read_pieces
from trainer.errors import InputError

PACKERS = {"a.txt": bytes, "b.gz": gzip.compress, "c": lzma.compress, "d.json": bz2.compress}
LONG = "".join(f"word{i} naïve\n" * (i % 2) + f" été{i} " for i in range(20_000))


@pytest.mark.parametrize(
    "text", ["", "a", "\n", "é", "no end", "line\n", "a\r\nb\rc\x85d\u2028e\n", LONG, "x" * 99_999]
)
def test_a_text_file_is_one_document_as_it_stands(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert documents(path) == [text]
    assert documents(path, as_bytes=True) == [text.encode().decode("latin-1")]


def test_a_line_end_of_two_characters_is_never_cut_in_two(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for n_before in (PIECE_BYTES - 2, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES - 1):
        for text in ("x" * n_before + "\r\n" * PIECE_BYTES, "\t" * n_before + "\r\ny" * 99_999):
            path.write_bytes(text.encode())
            pieces = list(read_pieces([text_file(path)]))
            assert len(pieces) > 1
            assert "".join(piece.text for piece in pieces) == text
            cut = [(a.text[-1], b.text[0]) for a, b in itertools.pairwise(pieces)]
            assert ("\r", "\n") not in cut
            n_lines = text.count("\n") + (not text.endswith("\n"))
            n_words = len(text.split())
            assert sum(map(count_words, pieces)) == n_words + n_lines


def test_pieces_are_small_and_cut_between_words(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(LONG.encode())
    pieces = list(read_pieces([text_file(path)]))
    assert max(len(piece.text) for piece in pieces) < 2 * PIECE_BYTES
    assert [word for piece in pieces for word in piece.text.split()] == LONG.split()
    path.write_text("end")
    assert list(read_pieces([text_file(path)])) == [Piece("end", True)]
    assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert all(piece.text for piece in pieces)


def test_words_are_counted_as_words_and_line_ends(tmp_path: Path) -> None:
    assert count_words(Piece("a b\n\nc", ends_document=True)) == 6
    assert count_words(Piece("a b\n\nc", ends_document=False)) == 5
    assert count_words(Piece("a\n", ends_document=True)) == 2
    assert count_words(Piece("", ends_document=True)) == 0
    assert count_words(Piece("a\rb\r\nc\n\rd", ends_document=True)) == 4 + 5
    assert count_words(Piece("a\r", ends_document=True)) == 2
    path = tmp_path / "a.txt"
    path.write_bytes(LONG.encode())
    counted = sum(map(count_words, read_pieces([text_file(path)])))
    assert counted == len(LONG.split()) + LONG.count("\n") + 1


@pytest.mark.parametrize("name", PACKERS)
def test_packed_inputs_read_as_what_they_hold_whatever_their_name(
    tmp_path: Path, name: str
) -> None:
    pack = PACKERS[name]
    path = tmp_path / name
    path.write_bytes(pack(LONG[:50_000].encode()) + pack(LONG[50_000:].encode()))
    assert documents(path) == [LONG]
    assert documents(path, as_bytes=True) == [LONG.encode().decode("latin-1")]
    lines = "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in (LONG, "", "b"))
    path.write_bytes(pack(b"\n" + lines.encode()))
    assert documents(path) == [LONG, "", "b"]


def test_the_bytes_read_are_reported_once_each(tmp_path: Path) -> None:
    files = []
    for name in ("a.txt", "b.txt.xz", "c.jsonl.gz"):
        text = (json.dumps({"text": LONG}) + "\n").encode()
        path = tmp_path / name
        path.write_bytes({"t": bytes, "x": lzma.compress, "g": gzip.compress}[path.suffix[1]](text))
        files.append(text_file(path))
    read: list[int] = []
    list(read_pieces(files, on_read=read.append))
    assert sum(read) == sum(file.path.stat().st_size for file in files)


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


@pytest.mark.parametrize("n_before", [0, PIECE_BYTES - 1, 5 * PIECE_BYTES])
def test_a_nul_is_refused_with_its_place_unless_bytes_are_asked_for(
    tmp_path: Path, n_before: int
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * n_before + b"a\x00b")
    with pytest.raises(InputError, match=f"NUL at byte {n_before + 1}|binary data"):
        documents(path)
    for how in ({"as_bytes": True}, {"format": "raw"}):
        assert documents(path, **how) == ["x" * n_before + "a\x00b"]


def test_a_byte_order_mark_is_no_text_unless_bytes_are_asked_for(tmp_path: Path) -> None:
    marked = b"\xef\xbb\xbfone\n"
    path = tmp_path / "a.txt"
    for pack in (bytes, gzip.compress):
        path.write_bytes(pack(marked))
        assert documents(path) == documents(path, as_bytes=True) == ["one\n"]
    path.write_bytes(marked)
    assert documents(path, format="raw") == ["\ufeffone\n"]
    path.write_bytes(marked[:3])
    assert documents(path) == [""]
    path.write_bytes(marked + b"\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 7 "):
        documents(path)
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n')  # two joined
    assert documents(path) == ["one", "two"]
