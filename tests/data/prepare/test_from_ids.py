"""Ids ready made become the corpus that text of the same ids would, or are refused by name."""

import json
import random
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from prepared import decoded, made
from txl_command import said_in

from trainer.data.corpus import Corpus, open_corpus, verify_corpus
from trainer.data.prepare.from_ids import prepare_ids
from trainer.data.prepare.from_text import PrepareOptions
from trainer.errors import InputError

NOTES = ["<end>", "C4", "E4", "G4", "rest"]
SONGS = [[1, 2, 3, 0], [4, 0], [3, 3, 1, 0], [0]]
FLAT = [*chain.from_iterable(SONGS)]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "notes.json"
    path.write_text(json.dumps(NOTES))
    return path


def from_ids(folder: Path, vocab: Path, ids: object, **options: object) -> Corpus:
    path = folder / "ids.npy"
    np.save(path, np.asarray(ids))
    return from_file(folder, vocab, path, **options)


def from_file(folder: Path, vocab: Path, path: Path, **options: object) -> Corpus:
    out = folder / "made"
    prepare_ids(PrepareOptions(out=out, ids=path, vocab=vocab, overwrite=True, **options))  # type: ignore[arg-type]
    verify_corpus(out)
    return open_corpus(out)


def songs_of(corpus: Corpus, name: str = "train") -> list[list[int]]:
    split = corpus.splits[name]
    return [part.tolist() for part in np.split(np.asarray(split.tokens), split.document_starts[1:])]


@pytest.mark.parametrize("tokenizer", ["words", "bytes", "characters", "bpe"])
def test_ids_of_a_corpus_of_text_give_its_hash(tmp_path: Path, tokenizer: str) -> None:
    text = tmp_path / "text.jsonl"
    texts = [f"the cat {i % 7} sat\non mat {i}" for i in range(300)]
    text.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    of_text = made(tmp_path, train=(text,), tokenizer=tokenizer)
    split = of_text.splits["train"]
    np.save(tmp_path / "starts.npy", split.document_starts)
    of_ids = from_ids(
        tmp_path,
        tmp_path / "corpus",
        split.tokens,
        document_starts=tmp_path / "starts.npy",
    )
    assert of_ids.hash == of_text.hash


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "i8", "u1", "<u4", ">i4"])
def test_every_whole_number_and_bare_ones_give_the_same_corpus(
    tmp_path: Path, vocab: Path, dtype: str
) -> None:
    plain = from_ids(tmp_path, vocab, FLAT, end_id=0)
    assert songs_of(plain) == SONGS
    assert from_ids(tmp_path, vocab, np.array(FLAT, dtype), end_id=0).hash == plain.hash
    bare = tmp_path / "ids.bin"
    bare.write_bytes(np.array(FLAT, "<u2").tobytes())
    assert from_file(tmp_path, vocab, bare, end_id=0).hash == plain.hash
    bare.write_bytes(np.array(FLAT, "<u4").tobytes())
    assert from_file(tmp_path, vocab, bare, end_id=0, ids_dtype="uint32").hash == plain.hash


def test_a_mapping_is_the_same_vocabulary_as_the_list(tmp_path: Path, vocab: Path) -> None:
    listed = from_ids(tmp_path, vocab, FLAT)
    vocab.write_text(json.dumps({name: i for i, name in reversed([*enumerate(NOTES)])}))
    assert from_ids(tmp_path, vocab, FLAT).hash == listed.hash


def test_documents_by_end_and_by_position_are_the_same_across_blocks(
    tmp_path: Path, vocab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pick = random.Random(0)
    songs = [[*pick.choices(range(1, 5), k=pick.randrange(0, 9)), 0] for _ in range(200)]
    ids = [*chain.from_iterable(songs)]
    starts = np.cumsum([0, *map(len, songs)])[:-1]
    np.save(tmp_path / "starts.npy", starts)
    for n in (3, 64, 1 << 16):
        monkeypatch.setattr("trainer.data.prepare.ids_file.BLOCK_IDS", n)
        by_end = from_ids(tmp_path, vocab, ids, end_id=0)
        assert songs_of(by_end) == songs
        by_start = from_ids(tmp_path, vocab, ids, document_starts=tmp_path / "starts.npy")
        assert songs_of(by_start) == songs


def test_shares_are_whole_documents_or_cut_at_the_very_id(tmp_path: Path, vocab: Path) -> None:
    songs = [[1 + i % 4] * 9 + [0] for i in range(400)]
    corpus = from_ids(tmp_path, vocab, [*chain.from_iterable(songs)], end_id=0, split="80,10,10")
    dealt = [song for name in corpus.splits for song in songs_of(corpus, name)]
    assert sorted(dealt) == sorted(songs)
    assert abs(corpus.splits["test"].n_tokens - 400) <= 20
    ids = [i % 5 for i in range(1000)]
    corpus = from_ids(tmp_path, vocab, ids, split="90,5,5")
    assert [split.n_tokens for split in corpus.splits.values()] == [900, 50, 50]
    assert [*chain.from_iterable(songs_of(corpus, name)[0] for name in corpus.splits)] == ids
    with pytest.raises(InputError, match="1 document cannot hold shares of 90/5/5"):
        from_ids(tmp_path, vocab, ids, split="90,5,5", split_by="document")


def test_valid_and_test_are_ids_of_the_same_vocabulary(tmp_path: Path, vocab: Path) -> None:
    np.save(tmp_path / "valid.npy", np.array([1, 1, 0, 2]))
    corpus = from_ids(tmp_path, vocab, FLAT, end_id=0, valid=(tmp_path / "valid.npy",))
    assert songs_of(corpus, "valid") == [[1, 1, 0], [2]]
    assert decoded(corpus, "valid") == "C4 C4 <end> E4"
    assert set(corpus.splits["valid"].absent) == {"ppl_word", "bpc"}


def saved(folder: Path, array: np.ndarray, *, fortran: bool = False) -> bytes:
    path = folder / "saved.npy"
    with path.open("wb") as file:
        if fortran:
            header = {"descr": "<i8", "fortran_order": True, "shape": array.shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.write(array.tobytes())
        else:
            np.save(file, array, allow_pickle=array.dtype.hasobject)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("beyond", r"id 5 at position 3 is not one of the vocabulary's 0 to 4"),
        ("below", r"id -1 at position 1 is not one of"),
        ("fractions", "holds float64, not whole numbers"),
        ("truths", "holds bool, not whole numbers"),
        ("objects", "holds Python objects, which are never read"),
        ("fortran", "in Fortran's order"),
        ("table", r"has 2 axes \(2, 2\), not one"),
        ("nothing", "empty: it has no ids"),
        ("empty", "empty: it has no ids"),
        ("short", "cut short: 151 bytes, its header says 152"),
        ("long", "too long: 153 bytes"),
        ("header", r"a corrupt \.npy"),
        ("foreign", "not a NumPy file"),
    ],
)
def test_ids_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, vocab: Path, name: str, says: str
) -> None:
    good = saved(tmp_path, np.array([0, 1, 2]))
    content = {
        "beyond": saved(tmp_path, np.array([0, 1, 2, 5])),
        "below": saved(tmp_path, np.array([0, -1])),
        "fractions": saved(tmp_path, np.array([0.0, 1.0])),
        "truths": saved(tmp_path, np.array([True])),
        "objects": saved(tmp_path, np.array([0, None])),
        "fortran": saved(tmp_path, np.array([0, 1]), fortran=True),
        "table": saved(tmp_path, np.array([[0, 1], [2, 3]])),
        "nothing": saved(tmp_path, np.array([], int)),
        "empty": b"",
        "short": good[:-1],
        "long": good + b"x",
        "header": good[:20],
        "foreign": b"0 1 2 3",
    }[name]
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad\.npy: {says}"):
        from_file(tmp_path, vocab, path)
    assert not (tmp_path / "made").exists()


def test_bare_numbers_cut_short_are_refused(tmp_path: Path, vocab: Path) -> None:
    (tmp_path / "ids.bin").write_bytes(b"\0\0\0")
    with pytest.raises(InputError, match="3 bytes are no whole number of uint16: it is cut short"):
        from_file(tmp_path, vocab, tmp_path / "ids.bin")


@pytest.mark.parametrize(
    ("positions", "says"),
    [
        ([1, 2], "the first document starts at 1, not 0"),
        ([0, 3, 3], "the document that starts at 3 does not start after"),
        ([0, 99], "a document starts at 99, but there are 11 ids"),
    ],
)
def test_positions_that_are_none_are_refused(
    tmp_path: Path, vocab: Path, positions: list[int], says: str
) -> None:
    np.save(tmp_path / "starts.npy", np.array(positions))
    with pytest.raises(InputError, match=rf"starts\.npy: {says}"):
        from_ids(tmp_path, vocab, FLAT, document_starts=tmp_path / "starts.npy")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (["a", "a"], "the symbol 'a' is there twice"),
        ([60, 61], "entry 0 of the list is no text"),
        ([], "a symbol is empty, or there is none"),
        ({"a": 0, "b": 2}, "no symbol has id 1"),
        ({"a": 0, "b": 0}, "two symbols have the same id"),
        ({"a": "0"}, "'a' has no whole number as id"),
        (7, "neither a list of symbols nor an object"),
    ],
)
def test_vocabularies_that_are_none_are_refused(
    tmp_path: Path, vocab: Path, content: object, says: str
) -> None:
    vocab.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"notes\.json: not a vocabulary: {says}"):
        from_ids(tmp_path, vocab, [0])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--lowercase",), "--lowercase: for text, which --ids takes the place of"),
        (("--end-id", "5"), "the end of a document, 5, is no id of 5"),
        (("--end-id", "0", "--document-starts", "x.npy"), "give one"),
        (("--split", "8,1,1", "--valid", "x.npy"), "give it without --valid or --test"),
    ],
)
def test_options_that_do_not_go_with_ids_end_with_one_line(
    tmp_path: Path,
    vocab: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: tuple[str, ...],
    says: str,
) -> None:
    np.save(tmp_path / "ids.npy", np.array(FLAT))
    given = ("--ids", tmp_path / "ids.npy", "--vocab", vocab, "--out", tmp_path / "c", *flags)
    ended = said_in("utf-8", monkeypatch, "prepare", *given)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_options_of_ids_are_refused_without_ids(tmp_path: Path, vocab: Path) -> None:
    with pytest.raises(InputError, match="--end-id: for ids ready made"):
        made(tmp_path, train=(vocab,), end_id=0)


PEAK_MEMORY = """
import sys
from itertools import chain
from pathlib import Path
from trainer.data.prepare.from_text import PrepareOptions
from trainer.data.prepare.from_ids import prepare_ids
_, out, ids, vocab = map(Path, sys.argv)
prepare_ids(PrepareOptions(out=out, ids=ids, vocab=vocab, end_id=0))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def test_memory_does_not_grow_with_the_ids(tmp_path: Path, vocab: Path) -> None:
    ids = np.random.default_rng(0).integers(1, 5, 1 << 22, np.uint16)
    ids[::5000] = 0
    peaks = []
    for n_times in (1, 4):
        path = tmp_path / f"{n_times}.npy"
        np.save(path, np.tile(ids, n_times))
        command = [sys.executable, "-c", PEAK_MEMORY, tmp_path / f"c{n_times}", path, vocab]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(1024 * int(ran.stdout))
    assert peaks[1] - peaks[0] <= 0.25 * 3 * ids.nbytes
