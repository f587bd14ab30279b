"""A corpus opens only if it is whole and its own; `verify` finds the block that was changed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
from builders import rewrite_header

from trainer.data.corpus import open_corpus, token_dtype, verify_corpus
from trainer.data.header import BLOCK_BYTES, split_paths
from trainer.data.prepare.writer import SplitWriter, new_corpus_folder
from trainer.data.vocabulary.files import WordVocabulary, save_vocabulary
from trainer.errors import InputError

N_TOKENS = {"train": 5_000_000, "valid": 30}


def write(path: Path, *, n_words: int = 100, seed: int = 0, overwrite: bool = False) -> None:
    vocabulary = WordVocabulary(["<eos>", "<unk>", *map(str, range(n_words))])
    random = np.random.default_rng(seed)
    with new_corpus_folder(path, overwrite=overwrite) as folder:
        save_vocabulary(vocabulary, folder / "vocabulary.json")
        for name, n_tokens in N_TOKENS.items():
            writer = SplitWriter(folder, name, vocabulary)
            ids = random.integers(0, vocabulary.size, n_tokens, dtype=np.uint32)
            ids[0] = vocabulary.size - 1
            for piece in np.array_split(ids, 10):
                writer.add(piece[:0], n_words=0, n_characters=0, ends_document=False)
                writer.add(piece, n_words=len(piece), n_characters=9, ends_document=True)
                writer.add(piece[:0], n_words=0, n_characters=0, ends_document=True)
            writer.finish(splits=list(N_TOKENS), made={"by": "test"})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pristine") / "corpus"
    write(path)
    return path


@pytest.fixture
def corpus(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "corpus"))


def test_what_was_written_is_read_back(pristine: Path) -> None:
    corpus = open_corpus(pristine)
    verify_corpus(pristine)
    assert list(corpus.splits) == ["train", "valid"]
    files = {p.name for name in corpus.splits for p in split_paths(pristine, name)}
    assert {p.name for p in pristine.iterdir()} == {*files, "vocabulary.json"}
    random = np.random.default_rng(0)
    for name, n_tokens in N_TOKENS.items():
        ids = random.integers(0, corpus.vocabulary.size, n_tokens, dtype=np.uint32)
        ids[0] = corpus.vocabulary.size - 1
        split = corpus.splits[name]
        assert np.array_equal(split.tokens, ids)
        assert split.tokens.dtype == np.uint16
        assert split.document_starts.tolist() == list(range(0, n_tokens, n_tokens // 10))
        assert (split.n_tokens, split.n_words, split.n_characters) == (n_tokens, n_tokens, 90)
        assert split.header.n_unknown == np.count_nonzero(ids == 1)
        assert split.header.largest_id == ids[0]
        assert split.header.made == {"by": "test"}


def test_the_tokens_cannot_be_changed_through_the_corpus(pristine: Path) -> None:
    split = open_corpus(pristine).splits["train"]
    for array in (split.tokens, split.document_starts):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_ids_take_four_bytes_only_where_two_do_not_hold_them(tmp_path: Path) -> None:
    assert [token_dtype(size).itemsize for size in (27, 1 << 16, (1 << 16) + 1)] == [2, 2, 4]
    write(tmp_path / "large", n_words=1 << 16)
    split = open_corpus(tmp_path / "large").splits["valid"]
    assert split.tokens.dtype == np.uint32
    assert split.tokens[0] == (1 << 16) + 1


def test_the_hash_is_of_the_content_and_of_nothing_else(pristine: Path, tmp_path: Path) -> None:
    write(tmp_path / "same")
    write(tmp_path / "other", seed=1)
    write(tmp_path / "wider", n_words=101)
    same, other, wider = (open_corpus(tmp_path / name) for name in ("same", "other", "wider"))
    assert same.hash == open_corpus(pristine).hash
    assert len({same.hash, other.hash, wider.hash}) == 3
    assert same.splits["train"].hash != other.splits["train"].hash


def test_opening_does_not_read_the_ids(corpus: Path) -> None:
    """A sparse file of the same size, all holes, opens just as well."""
    before = open_corpus(corpus).hash
    for name in N_TOKENS:
        data = split_paths(corpus, name)[0]
        n_bytes = data.stat().st_size
        data.unlink()
        data.touch()
        os.truncate(data, n_bytes)
        assert data.stat().st_blocks == 0
    assert open_corpus(corpus).hash == before
    with pytest.raises(InputError, match="split train is corrupt in block 0, 1, 2 "):
        verify_corpus(corpus)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_flipped_byte_opens_and_verify_names_its_block(corpus: Path, block: int) -> None:
    data = corpus / "train.bin"
    content = bytearray(data.read_bytes())
    content[min((block + 1) * BLOCK_BYTES, len(content)) - 1] ^= 1
    data.write_bytes(content)
    open_corpus(corpus)
    with pytest.raises(InputError, match=rf"train.bin: split train is corrupt in block {block} "):
        verify_corpus(corpus)


def test_a_changed_document_start_is_found_by_verify(corpus: Path) -> None:
    path = corpus / "valid.docs.npy"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    open_corpus(corpus)
    with pytest.raises(InputError, match=r"valid.docs.npy: corrupt document starts"):
        verify_corpus(corpus)


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 2)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def overwrite(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None  # type: ignore[func-returns-value]


def header(**changes: object) -> Callable[[Path], None]:
    return lambda folder: rewrite_header(folder / "train.json", **changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate("train.bin"), r"train.bin: 9,999,998 bytes, the header says 10,000,000"),
        (remove("train.bin"), r"train.bin: 0 bytes, the header says 10,000,000"),
        (truncate("train.json"), r"train.json: .*a corrupt header"),
        (truncate("train.docs.npy"), r"train.docs.npy: corrupt document starts"),
        (remove("train.docs.npy"), r"train.docs.npy: corrupt document starts"),
        (overwrite("train.docs.npy", "PK"), r"train.docs.npy: corrupt document starts"),
        (remove("vocabulary.json"), r"vocabulary.json: no such vocabulary"),
        (overwrite("train.json", "{}"), r"train.json: not a corpus header: its magic"),
        (overwrite("train.json", "[1]"), r"train.json: not a corpus header: its magic"),
        (remove("valid.json"), r"corpus: split valid is missing"),
        (header(version=2), r"corpus version 2, this program reads 1"),
        (header(name="valid"), r"the header of split valid"),
        (header(largest_id=102), r"id 102 is not below vocabulary size 102"),
        (header(dtype="uint32", block_hashes=["0" * 32] * 5), "ids are uint32, but uint16 for"),
        (header(n_documents=9), r"train.docs.npy: not the starts of the 9 documents"),
    ],
)
def test_a_damaged_corpus_is_refused(
    corpus: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(corpus)
    with pytest.raises(InputError, match=message) as refusal:
        open_corpus(corpus)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"largest_id": 100}, "largest_id of split train is 101, but its header says 100"),
        ({"n_unknown": 0}, r"n_unknown of split train is [\d,]+, but its header says 0"),
    ],
)
def test_verify_counts_what_the_header_says(
    corpus: Path, changes: dict[str, int], message: str
) -> None:
    rewrite_header(corpus / "train.json", **changes)
    with pytest.raises(InputError, match=message):
        verify_corpus(corpus)


def test_verify_finds_documents_that_do_not_ascend(corpus: Path) -> None:
    starts = np.load(corpus / "valid.docs.npy")
    starts[1:3] = starts[2:0:-1]
    np.save(corpus / "valid.docs.npy", starts)
    documents_hash = xxhash.xxh3_128_hexdigest(starts.tobytes())
    rewrite_header(corpus / "valid.json", documents_hash=documents_hash)
    with pytest.raises(InputError, match=r"valid.docs.npy: corrupt document starts"):
        verify_corpus(corpus)


def test_the_vocabulary_of_another_corpus_is_refused(corpus: Path) -> None:
    save_vocabulary(WordVocabulary(["<eos>", *map(str, range(101))]), corpus / "vocabulary.json")
    with pytest.raises(InputError, match=r"vocabulary.json: not the vocabulary of split train"):
        open_corpus(corpus)


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no such corpus: name the folder that"):
        open_corpus(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="not a corpus: none of train, valid, test has a header"):
        open_corpus(tmp_path)


def test_an_existing_corpus_is_replaced_only_when_asked(corpus: Path) -> None:
    before = open_corpus(corpus).hash
    with pytest.raises(InputError, match="exists; choose another --out, or replace it with"):
        write(corpus, seed=1)
    assert open_corpus(corpus).hash == before
    write(corpus, seed=1, overwrite=True)
    assert open_corpus(corpus).hash != before
    verify_corpus(corpus)
    assert [p.name for p in corpus.parent.iterdir()] == ["corpus"]


@pytest.mark.parametrize("place", ["corpus", "corpus.tmp", "corpus.replaced"])
def test_what_is_not_a_corpus_is_never_removed(tmp_path: Path, place: str) -> None:
    precious = tmp_path / place / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("years")
    if place == "corpus":
        with pytest.raises(InputError, match="corpus: holds other things than a corpus"):
            write(tmp_path / "corpus", overwrite=True)
    else:
        write(tmp_path / "corpus")
    assert precious.read_text() == "years"
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", place}
    assert list(precious.parent.iterdir()) == [precious]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_the_earlier_corpus(
    corpus: Path, error: type[BaseException]
) -> None:
    def interrupted() -> None:
        with new_corpus_folder(corpus, overwrite=True) as folder:
            (folder / "train.bin").write_bytes(b"half")
            raise error

    before = open_corpus(corpus).hash
    with pytest.raises(error):
        interrupted()
    assert open_corpus(corpus).hash == before
    assert [p.name for p in corpus.parent.iterdir()] == ["corpus"]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    for seed in range(2):
        for left in (".writing-corpus", ".replaced-corpus", "corpus.tmp", "corpus.replaced"):
            (tmp_path / left).mkdir()
            (tmp_path / left / "train.bin").write_bytes(b"half")
        (tmp_path / ".writing-corpus" / "test.json").write_bytes(b"half")
        write(tmp_path / "corpus", seed=seed, overwrite=True)
        assert list(open_corpus(tmp_path / "corpus").splits) == ["train", "valid"]
        assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


def test_two_writers_of_one_corpus_do_not_meet(tmp_path: Path) -> None:
    with new_corpus_folder(tmp_path / "corpus") as folder:
        (folder / "train.bin").write_bytes(b"mine")
        with pytest.raises(InputError, match="another process is writing it"):
            write(tmp_path / "corpus")
        assert (folder / "train.bin").read_bytes() == b"mine"


def test_a_split_without_text_is_refused(tmp_path: Path) -> None:
    writer = SplitWriter(tmp_path, "valid", WordVocabulary(["<eos>"]))
    writer.add(np.zeros(0, np.uint32), n_words=0, n_characters=0, ends_document=True)
    with pytest.raises(InputError, match="split valid has no text"):
        writer.finish(splits=["valid"], made={})
    writer.close()
