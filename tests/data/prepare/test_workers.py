"""Several processes make the corpus of one, whatever the text, and end with the one they serve."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from child import Child
from prepared import made

from trainer.data.prepare.encoding import Encoded, encode
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.data.prepare.workers import count_words_in, encode_in
from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import Lost, WordVocabulary, save_vocabulary
from trainer.errors import InputError

SYMBOLS = ["a", "B", "cde", " ", "  ", "\n", "\r\n", "\r", "\t", "é"]


def totals(encoded: list[Encoded]) -> tuple[list[int], int, Lost]:
    lost = Lost()
    for its in encoded:
        lost = lost.plus(its.lost)
    ids = np.concatenate([its.ids for its in encoded]).tolist()
    return ids, sum(its.n_words for its in encoded), lost


def texts(folder: Path) -> Path:
    """Return odd texts, in one file of many parts and in short ones."""
    pick = random.Random(0)
    (folder / "texts").mkdir()
    for i, n in enumerate([40_000, 0, 1, 7, 3000]):
        text = "".join(pick.choices(SYMBOLS, k=n))
        (folder / "texts" / f"{i}.txt").write_bytes(text.encode())
    return folder / "texts"


@pytest.mark.parametrize("lowercase", [False, True])
def test_the_corpus_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowercase: bool
) -> None:
    monkeypatch.setattr("trainer.data.prepare.workers.PART_CHARACTERS", 5000)
    options = {"train": (texts(tmp_path),), "lowercase": lowercase, "max_size": 300}
    alone = made(tmp_path, **options)
    several = made(tmp_path, workers=2, overwrite=True, **options)
    assert several.hash == alone.hash
    assert several.splits["train"].header == alone.splits["train"].header


def test_every_piece_has_its_own_result_wherever_the_text_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process gets a part as soon as a word ends; pieces are cut anywhere."""
    monkeypatch.setattr("trainer.data.prepare.workers.PART_CHARACTERS", 1)
    pick = random.Random(1)
    pieces = [
        Piece("".join(pick.choices(SYMBOLS, k=pick.randrange(4))), pick.random() < 0.1)
        for _ in range(300)
    ] + [Piece("end", True)]
    counts = WordVocabulary.count(pieces)
    found = count_words_in(pieces, n_workers=2, lowercase=False)
    assert [*found.items()] == [*counts.items()]
    vocabulary = WordVocabulary.of_counts(counts, min_count=2)
    encoded = [*encode_in(pieces, vocabulary, n_workers=2)]
    alone = [*encode(pieces, vocabulary)]
    assert totals(encoded) == totals(alone)
    assert [its.ends_document for its in encoded] == [piece.ends_document for piece in pieces]
    assert [its.n_characters for its in encoded] == [len(piece.text) for piece in pieces]


def test_an_unknown_word_is_named_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b\na c\n")
    save_vocabulary(WordVocabulary(["<eos>", "a", "b"]), tmp_path / "vocabulary.json")
    with pytest.raises(InputError, match=r"text\.txt:2: word 'c' is not in the vocabulary"):
        made(tmp_path, train=(tmp_path / "text.txt",), vocab=tmp_path, workers=2)
    assert not (tmp_path / "corpus").exists()


def test_a_text_without_words_to_cut_between_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.data.prepare.workers.PART_CHARACTERS", 1 << 14)
    monkeypatch.setattr("trainer.data.prepare.workers.MOST_CHARACTERS", 1 << 16)
    (tmp_path / "text.txt").write_text("x" * (1 << 20))
    with pytest.raises(InputError, match="no word ends within 65,536 characters"):
        made(tmp_path, train=(tmp_path / "text.txt",), workers=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"workers": 2, "tokenizer": "bpe"}, "--workers: for words, .* is bpe; bpe uses all cores"),
    ],
)
def test_workers_that_are_none_or_not_for_words_are_refused(
    tmp_path: Path, options: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        prepare(PrepareOptions(out=tmp_path / "c", train=(tmp_path,), **options))  # type: ignore[arg-type]


WAITS_IN_A_WORKER = """
import sys
from pathlib import Path
from trainer.data.prepare import workers
from trainer.data.text.pieces import Piece

def pieces():
    for _ in range(4):
        yield Piece("a b ", True)
    print("started", flush=True)
    sys.stdin.read()

workers.PART_CHARACTERS = 1
if __name__ == "__main__":
    workers.count_words_in(pieces(), n_workers=2, lowercase=False)
"""


def test_workers_end_when_the_process_they_serve_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(WAITS_IN_A_WORKER)
    with Child([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 2
        os.kill(process.pid, signal.SIGKILL)
    assert not psutil.wait_procs(children, timeout=60)[1]


def test_a_worker_that_is_killed_is_one_clear_error(tmp_path: Path) -> None:
    def pieces() -> object:
        for _ in range(4):
            yield Piece("a b ", True)
        for child in psutil.Process().children(recursive=True):
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        for _ in range(9):
            yield Piece("a b ", True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.data.prepare.workers.PART_CHARACTERS", 1)
        with pytest.raises(InputError, match="one of the 2 processes of --workers was killed"):
            count_words_in(pieces(), n_workers=2, lowercase=False)  # type: ignore[arg-type]
