"""Writing a corpus: its folder, whole or not at all, and the files of its splits."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from trainer.data.corpus import corpus_files, token_dtype
from trainer.data.header import BLOCK_BYTES, Header, split_paths
from trainer.data.vocabulary.files import Ids, Vocabulary
from trainer.errors import InputError
from trainer.files import LOCK, new_folder

SCRATCH_FILE = "input.scratch"
# The header of a `.npy` of any length: numpy leaves room to rewrite the shape.
_DOCUMENTS_HEADER_BYTES = 128


@contextmanager
def new_corpus_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a folder to write a corpus in, which becomes `path` when the block ends.

    See `trainer.files.new_folder`. The file `SCRATCH_FILE` may be written, and is not kept.

    Raises:
        InputError: `path` exists and may not be replaced, or another process writes it.
        OSError: the folder cannot be written.
    """
    path = path.resolve()

    def refuse(folder: Path) -> None:
        """Refuse to replace anything but a corpus of ours."""
        if not _holds_a_corpus(folder):
            raise InputError(
                f"{folder}: holds other things than a corpus, so it is not replaced; "
                "choose another --out"
            )
        if not overwrite:
            raise InputError(
                f"{folder}: exists; choose another --out, or replace it with --overwrite"
            )

    with new_folder(path, refuse=refuse, scratch=[SCRATCH_FILE]) as folder:
        for suffix in (".tmp", ".replaced"):  # left by a killed process of an earlier version
            left = path.with_name(path.name + suffix)
            if _holds_a_corpus(left):
                shutil.rmtree(left, ignore_errors=True)
        yield folder


def _holds_a_corpus(folder: Path) -> bool:
    """Return whether `folder` holds only files of a corpus, or of writing one."""
    ours = corpus_files() | {SCRATCH_FILE, LOCK}
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= ours


class SplitWriter:
    """A writer that appends the ids of one split to its files, in constant memory."""

    def __init__(self, folder: Path, name: str, vocabulary: Vocabulary) -> None:
        self.name = name
        self._vocabulary = vocabulary
        self._dtype = token_dtype(vocabulary.size)
        data_path, self._header_path, documents_path = split_paths(folder, name)
        self._data = data_path.open("wb")
        self._documents = documents_path.open("wb")
        self._documents.write(bytes(_DOCUMENTS_HEADER_BYTES))
        self._block = xxhash.xxh3_128()
        self._n_block_bytes = 0
        self._block_hashes: list[str] = []
        self._documents_hash = xxhash.xxh3_128()
        self._starts_document = True
        self._largest_id = 0
        self.n_tokens = self.n_documents = self.n_words = self.n_characters = self.n_unknown = 0
        self.n_hidden = self.n_blanks = 0

    def add(
        self,
        ids: Ids,
        *,
        n_words: int,
        n_characters: int,
        ends_document: bool,
        n_hidden: int = 0,
        n_blanks: int = 0,
    ) -> None:
        """Append a piece of a document; the counts are added to those of `Header`.

        A document without ids is not counted.
        """
        if len(ids):
            self._start_document()
            self._largest_id = max(self._largest_id, int(ids.max()))
            self._append(np.ascontiguousarray(ids, self._dtype).tobytes())
            self.n_tokens += len(ids)
            if self._vocabulary.unk_id is not None:
                self.n_unknown += int(np.count_nonzero(ids == self._vocabulary.unk_id))
        self.n_words += n_words
        self.n_characters += n_characters
        self.n_hidden += n_hidden
        self.n_blanks += n_blanks
        self._starts_document = self._starts_document or ends_document

    def finish(self, *, splits: list[str], made: dict[str, Any]) -> None:
        """Complete the files.

        Args:
            splits: names of all splits of the corpus.
            made: how the corpus was made, for readers of the header.

        Raises:
            InputError: the split has no tokens.
        """
        if not self.n_tokens:
            raise InputError(f"split {self.name} has no text: give it some, or leave it out")
        if self._n_block_bytes:
            self._end_block()
        header = Header(
            name=self.name,
            splits=splits,
            dtype=self._dtype.name,
            n_tokens=self.n_tokens,
            largest_id=self._largest_id,
            n_documents=self.n_documents,
            n_words=self.n_words,
            n_characters=self.n_characters,
            n_unknown=self.n_unknown,
            n_hidden=self.n_hidden,
            n_blanks=self.n_blanks,
            vocabulary_hash=self._vocabulary.hash,
            block_bytes=BLOCK_BYTES,
            block_hashes=self._block_hashes,
            documents_hash=self._documents_hash.hexdigest(),
            made=made,
        )
        self._documents.seek(0)
        np.lib.format.write_array_header_1_0(
            self._documents,
            {"descr": "<i8", "fortran_order": False, "shape": (self.n_documents,)},
        )
        assert self._documents.tell() == _DOCUMENTS_HEADER_BYTES
        self._header_path.write_text(json.dumps(header.to_json(), indent=1) + "\n")
        self.close()

    def close(self) -> None:
        """Close the files, complete or not."""
        self._data.close()
        self._documents.close()

    def _start_document(self) -> None:
        if self._starts_document:
            start = np.array([self.n_tokens], "<i8").tobytes()
            self._documents.write(start)
            self._documents_hash.update(start)
            self.n_documents += 1
            self._starts_document = False

    def _append(self, data: bytes) -> None:
        self._data.write(data)
        left = memoryview(data)
        while left:
            now = left[: BLOCK_BYTES - self._n_block_bytes]
            self._block.update(now)
            self._n_block_bytes += len(now)
            left = left[len(now) :]
            if self._n_block_bytes == BLOCK_BYTES:
                self._end_block()

    def _end_block(self) -> None:
        self._block_hashes.append(self._block.hexdigest())
        self._block.reset()
        self._n_block_bytes = 0
