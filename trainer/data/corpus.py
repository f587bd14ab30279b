"""A corpus: token ids of each split in a flat, memory-mapped file, checked when it is opened.

A folder holds `vocabulary.json` and, for each split, NAME.bin (the ids, little endian, uint16 or
uint32 by vocabulary size), NAME.docs.npy (where each document starts) and NAME.json, the
header (`trainer.data.header`).
"""

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.data.comparable import absent_figures, lost_characters
from trainer.data.guard import StoredIds, take
from trainer.data.header import BLOCK_BYTES, Header, read_header, split_paths
from trainer.data.text.splitting import SPLITS
from trainer.data.vocabulary.files import (
    VOCABULARY_FILE,
    Vocabulary,
    canonical_hash,
    load_vocabulary,
)
from trainer.errors import InputError
from trainer.outside import open_file, printable
from trainer.shell import command, program

# Errors of file systems that cannot map a file, or not for several processes.
_NO_MAPPING = {errno.ENODEV, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_Array = TypeVar("_Array")


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a corpus.

    Attributes:
        tokens: read-only map of the ids, uint16 or uint32, [n_tokens].
        document_starts: int64, ascending, the first is 0.
        n_words: words of the text, and one per line end unless no id stands for line ends.
        n_characters: characters of the text with its line ends; bytes for the bytes tokenizer.
        absent: figures that a loss on this split cannot give, with reasons: see
            `trainer.data.comparable`.
        hash: hash of vocabulary, ids and document starts.
        header: everything else that is known of the split.
        path: the file of the ids.
    """

    name: str
    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    document_starts: npt.NDArray[np.int64]
    n_tokens: int
    n_words: int
    n_characters: int
    absent: Mapping[str, str]
    hash: str
    header: Header
    path: Path

    def take(self, places: npt.NDArray[np.int64]) -> StoredIds:
        """Return the ids at some places; see `trainer.data.guard.take`."""
        return take(self.path, self.tokens, places, self.header)


@dataclass(frozen=True, eq=False)
class Corpus:
    """An open corpus; `hash` covers the vocabulary and every split."""

    path: Path
    vocabulary: Vocabulary
    splits: Mapping[str, Split]
    hash: str

    @property
    def name(self) -> str:
        """Return the name of the corpus's folder."""
        return self.path.resolve().name

    @property
    def split_hashes(self) -> dict[str, str]:
        """Return the hash of every split by name; no hash depends on the other splits."""
        return {name: split.hash for name, split in self.splits.items()}


def token_dtype(vocabulary_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """Return the narrowest type that holds the ids of a vocabulary."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def corpus_files() -> set[str]:
    """Return the names of all files that a corpus can hold."""
    folder = Path()
    return {VOCABULARY_FILE} | {p.name for name in SPLITS for p in split_paths(folder, name)}


def open_corpus(path: Path) -> Corpus:
    """Open and check a corpus without reading its ids: the time does not depend on their number.

    The checks cover magic, version and hash of each header, the size of its files, the largest id,
    and the vocabulary's hash. `verify_corpus` checks the ids themselves.

    Raises:
        InputError: a file is missing, foreign, truncated or does not match.
    """
    if not path.is_dir():
        prepare = command(program("txl"), "prepare", "--out", path)
        raise InputError(
            f"{path}: no such corpus: name the folder that `txl prepare` wrote, or make it with "
            f"`{prepare}`"
        )
    names = [name for name in SPLITS if split_paths(path, name)[1].is_file()]
    if not names:
        raise InputError(f"{path}: not a corpus: none of {', '.join(SPLITS)} has a header")
    headers = {name: read_header(path, name) for name in names}
    lost = {name for header in headers.values() for name in header.splits} - set(names)
    if lost:
        raise InputError(f"{path}: split {', '.join(sorted(lost))} is missing; prepare it again")
    vocabulary = load_vocabulary(path / VOCABULARY_FILE)
    splits = {name: _open_split(path, header, vocabulary) for name, header in headers.items()}
    whole = canonical_hash(
        [vocabulary.hash, [[name, split.hash] for name, split in splits.items()]]
    )
    return Corpus(path, vocabulary, MappingProxyType(splits), whole)


def verify_corpus(path: Path) -> None:
    """Open a corpus, then read it whole: compare its hashes, and its counts with the headers.

    Words and characters cannot be counted again, because the text is not in the corpus.

    Raises:
        InputError: `open_corpus` raises it; or blocks were changed, and it names them.
    """
    corpus = open_corpus(path)
    for name, split in corpus.splits.items():
        _verify_ids(split_paths(path, name)[0], split.header, corpus.vocabulary)
        _verify_documents(split_paths(path, name)[2], split)


def _verify_ids(path: Path, header: Header, vocabulary: Vocabulary) -> None:
    """Compare the ids of a split with the hashes and counts in its header."""
    corrupt, largest_id, n_unknown = [], 0, 0
    with path.open("rb") as data:
        for i, expected in enumerate(header.block_hashes):
            block = data.read(header.block_bytes)
            if xxhash.xxh3_128_hexdigest(block) != expected:
                corrupt.append(i)
                continue
            ids = np.frombuffer(block, header.dtype)
            largest_id = max(largest_id, int(ids.max()))
            n_unknown += int(np.count_nonzero(ids == vocabulary.unk_id))
    if corrupt:
        blocks = printable(", ".join(map(str, corrupt)), most=200)
        raise InputError(
            f"{path}: split {header.name} is corrupt in block {blocks} "
            f"(0 to {len(header.block_hashes) - 1}, of {header.block_bytes} bytes); "
            f"prepare it again"
        )
    for field, actual in (("largest_id", largest_id), ("n_unknown", n_unknown)):
        if (said := getattr(header, field)) != actual:
            raise InputError(
                f"{path}: {field} of split {header.name} is {actual:,}, but its header says "
                f"{said:,}; prepare it again"
            )


def _verify_documents(path: Path, split: Split) -> None:
    starts, ends = split.document_starts, np.append(split.document_starts[1:], split.n_tokens)
    if _array_hash(starts) != split.header.documents_hash or not (starts < ends).all():
        raise InputError(f"{path}: corrupt document starts; prepare it again")


def _open_split(folder: Path, header: Header, vocabulary: Vocabulary) -> Split:
    """Return a split whose header fits its file and the vocabulary; map its ids."""
    data_path, _, documents_path = split_paths(folder, header.name)
    if header.vocabulary_hash != vocabulary.hash:
        raise InputError(
            f"{folder / VOCABULARY_FILE}: not the vocabulary of split {header.name}: "
            f"its hash is {vocabulary.hash}, the header says {header.vocabulary_hash}"
        )
    if header.largest_id >= vocabulary.size:
        raise InputError(
            f"{data_path}: id {header.largest_id} is not below vocabulary size {vocabulary.size}"
        )
    dtype = token_dtype(vocabulary.size)
    if header.dtype != dtype.name:
        raise InputError(
            f"{data_path}: ids are {header.dtype}, but {dtype.name} for a vocabulary of "
            f"{vocabulary.size:,}; prepare it again"
        )
    n_bytes = data_path.stat().st_size if data_path.is_file() else 0
    if n_bytes != header.n_bytes:
        raise InputError(
            f"{data_path}: {n_bytes:,} bytes, the header says {header.n_bytes:,}: truncated, "
            "missing or not its own; prepare it again"
        )
    return Split(
        name=header.name,
        tokens=_mapped(data_path, lambda mode: np.memmap(data_path, dtype, mode=mode)),
        document_starts=_document_starts(documents_path, header),
        n_tokens=header.n_tokens,
        n_words=header.n_words,
        n_characters=header.n_characters,
        absent=absent_figures(
            lost_characters(header, vocabulary),
            vocabulary,
            n_words=header.n_words,
            n_characters=header.n_characters,
        ),
        hash=header.content_hash,
        header=header,
        path=data_path,
    )


def _document_starts(path: Path, header: Header) -> npt.NDArray[np.int64]:
    try:
        open_file(path).close()  # refuses anything but a regular file
        starts = _mapped(path, lambda mode: np.lib.format.open_memmap(path, mode=mode))
    except InputError:
        raise
    except Exception as error:  # numpy evaluates the header, which may fail in any way
        raise InputError(f"{path}: corrupt document starts: {error}; prepare it again") from None
    if starts.dtype != np.int64 or starts.shape != (header.n_documents,) or starts[0] != 0:
        raise InputError(
            f"{path}: not the starts of the {header.n_documents} documents of split "
            f"{header.name}; prepare it again"
        )
    return starts


def _mapped(path: Path, map_file: Callable[[Literal["r", "c"]], _Array]) -> _Array:
    """Map a file into memory, shared with other processes if possible, else for this one alone.

    Raises:
        InputError: the file system cannot map files.
    """
    mode: Literal["r", "c"]
    for mode in ("r", "c"):
        try:
            return map_file(mode)
        except OSError as error:
            if error.errno not in _NO_MAPPING:
                raise
            problem = error.strerror
    raise InputError(
        f"{path}: its file system maps no files into memory ({problem}): copy the corpus to a disk "
        "that does"
    )


def _array_hash(array: npt.NDArray[np.int64]) -> str:
    hasher = xxhash.xxh3_128()
    rows = BLOCK_BYTES // array.itemsize
    for start in range(0, len(array), rows):
        hasher.update(np.ascontiguousarray(array[start : start + rows]).data)
    return hasher.hexdigest()
