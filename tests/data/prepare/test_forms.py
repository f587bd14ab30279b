"""The same documents in the same order are the same corpus, whatever form they come in."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from prepared import made

TEXTS = [f"the cat {i % 7} sat\non naïve mat {i}\n" * (1 + i % 5) for i in range(200)]


def written_plain(folder: Path) -> Path:
    for i, text in enumerate(TEXTS):
        (folder / f"{i:03}.txt").write_text(text)
    return folder


def packed_lines(pack: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()

    def write(folder: Path) -> Path:
        (folder / "texts").write_bytes(pack(lines))
        return folder / "texts"

    return write


def packed_files(folder: Path) -> Path:
    for i, text in enumerate(TEXTS):
        (folder / f"{i:03}.txt.zst").write_bytes(zstandard.compress(text.encode()))
    return folder


FORMS: dict[str, Callable[[Path], Path]] = {
    "JSON lines": packed_lines(bytes),
    "gzip": packed_lines(gzip.compress),
    "bzip2": packed_lines(bz2.compress),
    "xz": packed_lines(lzma.compress),
    "zstd": packed_lines(zstandard.compress),
    "zstd of text": packed_files,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hash of the corpus of plain text, by tokenizer."""
    folder = tmp_path_factory.mktemp("plain")
    path = written_plain(folder)
    kinds = ("words", "bytes", "bpe")
    return {
        kind: made(tmp_path_factory.mktemp(kind), train=(path,), tokenizer=kind).hash
        for kind in kinds
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_hash_of_plain_text(
    tmp_path: Path, plain: dict[str, str], form: str
) -> None:
    (tmp_path / "texts").mkdir()
    path = FORMS[form](tmp_path / "texts")
    for kind, expected in plain.items():
        corpus = made(tmp_path, train=(path,), tokenizer=kind, overwrite=True)
        assert corpus.hash == expected, kind
