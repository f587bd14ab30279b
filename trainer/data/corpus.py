"""A corpus: token ids of each split in a flat, memory-mapped file, checked when it is opened.

A folder holds `vocabulary.json` and, for each split, NAME.bin (the ids, little endian, uint16 or
uint32 by vocabulary size), NAME.docs.npy (where each document starts) and NAME.json, a header
with the fields of `Header`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from trainer.data.splitting import SPLITS
from trainer.data.vocabulary import (
    VOCABULARY_FILE,
    Vocabulary,
    canonical_hash,
    load_vocabulary,
)
from trainer.errors import InputError

MAGIC, VERSION = "txl-corpus", 1
BLOCK_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a split's JSON says of it; written with the hash of all of it as `header_hash`.

    Attributes:
        splits: every split of the corpus, so that a lost one is noticed.
        n_words: words of the text and one per line end, whatever the tokenizer.
        n_characters: characters of the text with its line ends; bytes for the bytes tokenizer.
        n_unknown: tokens that are the vocabulary's `<unk>`.
        block_hashes: xxh3_128 of each `block_bytes` of the ids.
        documents_hash: xxh3_128 of the document starts.
        made: how it was made, for the reader.
    """

    magic: str
    version: int
    name: str
    splits: list[str]
    dtype: str
    n_tokens: int
    largest_id: int
    n_documents: int
    n_words: int
    n_characters: int
    n_unknown: int
    vocabulary_hash: str
    block_bytes: int
    block_hashes: list[str]
    documents_hash: str
    made: dict[str, Any]

    @property
    def content_hash(self) -> str:
        """Hash of what the split holds, wherever and whenever it was made."""
        return canonical_hash([self.vocabulary_hash, self.block_hashes, self.documents_hash])

    def to_json(self) -> dict[str, Any]:
        """All fields and their hash."""
        return {**asdict(self), "header_hash": canonical_hash(asdict(self))}


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a corpus.

    Attributes:
        tokens: read-only map of the ids, uint16 or uint32, [n_tokens].
        document_starts: int64, ascending, the first is 0.
        n_words: words of the text and one per line end, whatever the tokenizer.
        n_characters: characters of the text with its line ends; bytes for the bytes tokenizer.
        hash: of vocabulary, ids and document starts.
        header: everything else that is known of it.
    """

    name: str
    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
    document_starts: npt.NDArray[np.int64]
    n_tokens: int
    n_words: int
    n_characters: int
    hash: str
    header: Header


@dataclass(frozen=True, eq=False)
class Corpus:
    """An open corpus; `hash` covers the vocabulary and every split."""

    path: Path
    vocabulary: Vocabulary
    splits: Mapping[str, Split]
    hash: str


def token_dtype(vocabulary_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """The narrowest type that holds the ids of a vocabulary."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def split_paths(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Ids, header and document starts of the split `name`."""
    return folder / f"{name}.bin", folder / f"{name}.json", folder / f"{name}.docs.npy"


def corpus_files() -> set[str]:
    """Names of all the files that a corpus can hold."""
    folder = Path()
    return {VOCABULARY_FILE} | {p.name for name in SPLITS for p in split_paths(folder, name)}


def open_corpus(path: Path) -> Corpus:
    """Open and check a corpus without reading its ids: the time does not depend on their number.

    Checked are magic, version and hash of each header, the size of its files, the largest id,
    and the vocabulary's hash. `verify_corpus` checks the ids themselves.

    Raises:
        InputError: something is missing, foreign, truncated or does not match.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such corpus; make it with `txl prepare --out {path}`")
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
    """Open a corpus, then read all its ids and document starts and compare their hashes.

    Raises:
        InputError: as `open_corpus`, or naming split and blocks that were changed.
    """
    for name, split in open_corpus(path).splits.items():
        data_file, _, documents_file = split_paths(path, name)
        n_blocks = len(split.header.block_hashes)
        with data_file.open("rb") as data:
            corrupt = [
                i
                for i, expected in enumerate(split.header.block_hashes)
                if xxhash.xxh3_128_hexdigest(data.read(split.header.block_bytes)) != expected
            ]
        if corrupt:
            raise InputError(
                f"{data_file}: split {name} is corrupt in block {', '.join(map(str, corrupt))} "
                f"(0 to {n_blocks - 1}, of {split.header.block_bytes} bytes); prepare it again"
            )
        if _array_hash(split.document_starts) != split.header.documents_hash:
            raise InputError(f"{documents_file}: corrupt document starts; prepare it again")


def read_header(folder: Path, name: str) -> Header:
    """Read and check the header of the split `name`; raises `InputError` if it is not sound."""
    path = split_paths(folder, name)[1]
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: corrupt header: {error}; prepare it again") from None
    if not isinstance(values, dict) or values.get("magic") != MAGIC:
        raise InputError(f"{path}: not a corpus header: its magic is not {MAGIC!r}")
    if values.get("version") != VERSION:
        raise InputError(
            f"{path}: corpus version {values.get('version')!r}, this program reads {VERSION}; "
            "prepare it again"
        )
    if values.pop("header_hash", None) != canonical_hash(values):
        raise InputError(f"{path}: corrupt header: its hash does not match; prepare it again")
    header = Header(**values)
    if header.name != name:
        raise InputError(f"{path}: this is the header of split {header.name}; put it back")
    return header


def _open_split(folder: Path, header: Header, vocabulary: Vocabulary) -> Split:
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
    dtype = np.dtype(header.dtype)
    expected_bytes = header.n_tokens * dtype.itemsize
    n_bytes = data_path.stat().st_size if data_path.is_file() else 0
    if n_bytes != expected_bytes:
        raise InputError(
            f"{data_path}: {n_bytes:,} bytes, the header says {expected_bytes:,}: truncated, "
            "missing or not its own; prepare it again"
        )
    return Split(
        name=header.name,
        tokens=np.memmap(data_path, dtype, mode="r"),
        document_starts=_document_starts(documents_path, header),
        n_tokens=header.n_tokens,
        n_words=header.n_words,
        n_characters=header.n_characters,
        hash=header.content_hash,
        header=header,
    )


def _document_starts(path: Path, header: Header) -> npt.NDArray[np.int64]:
    try:
        starts = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: corrupt document starts: {error}; prepare it again") from None
    if starts.dtype != np.int64 or starts.shape != (header.n_documents,) or starts[0] != 0:
        raise InputError(
            f"{path}: not the starts of the {header.n_documents} documents of split "
            f"{header.name}; prepare it again"
        )
    return starts


def _array_hash(array: npt.NDArray[np.int64]) -> str:
    hasher = xxhash.xxh3_128()
    rows = BLOCK_BYTES // array.itemsize
    for start in range(0, len(array), rows):
        hasher.update(np.ascontiguousarray(array[start : start + rows]).data)
    return hasher.hexdigest()
