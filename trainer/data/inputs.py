"""The texts of a corpus to be: found, divided into splits, and read as often as needed."""

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from trainer.data.progress import progress
from trainer.data.splitting import Routed, by_document, by_position, parse_shares
from trainer.data.text import (
    FoundFiles,
    Piece,
    TextFile,
    TextFormat,
    find_files,
    read_pieces,
    text_file,
)
from trainer.errors import InputError

STDIN = Path("-")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files of each split; or those of train alone, which `divide` routes to several.

    Attributes:
        splits: names of the splits that come out.
        n_skipped_files: files in folders that are no text by their suffix.
        note: what a reader should know of how the text was divided.
    """

    files: Mapping[str, tuple[TextFile, ...]]
    splits: tuple[str, ...]
    text_field: str
    as_bytes: bool
    n_skipped_files: int
    divide: Callable[[Iterable[Piece]], Routed] | None = None
    note: str = ""

    def read(self, label: str) -> Routed:
        """All pieces with their split, in order; progress is shown under `label`."""
        with progress(label, n_bytes=self._n_bytes(self.files)) as on_read:
            if self.divide:
                yield from self.divide(self._pieces("train", on_read))
                return
            for name in self.files:
                for piece in self._pieces(name, on_read):
                    yield name, piece

    def read_only(self, splits: Sequence[str], label: str) -> Generator[Piece]:
        """The pieces of some splits alone, such as train's for a vocabulary."""
        if self.divide:
            for name, piece in self.read(label):
                if name in splits:
                    yield piece
            return
        with progress(label, n_bytes=self._n_bytes(splits)) as on_read:
            for name in splits:
                yield from self._pieces(name, on_read)

    def _pieces(self, name: str, on_read: Callable[[int], None]) -> Iterator[Piece]:
        return read_pieces(
            self.files[name], text_field=self.text_field, as_bytes=self.as_bytes, on_read=on_read
        )

    def _n_bytes(self, names: Iterable[str]) -> int:
        return sum(file.n_bytes for name in names for file in self.files[name])


def find_inputs(
    paths: Mapping[str, Sequence[Path]],
    *,
    format: TextFormat | Literal["auto"],
    text_field: str,
    as_bytes: bool,
    stdin: BinaryIO | None,
    scratch: Path,
) -> Inputs:
    """Find the files of each split; what `-` reads is kept in the file `scratch`.

    Raises:
        InputError: a path does not exist, a folder holds no text, or `-` is read twice.
    """
    files: dict[str, tuple[TextFile, ...]] = {}
    n_skipped = 0
    for name, given in paths.items():
        found = [
            _spool(stdin, scratch, format) if path == STDIN else find_files(path, format=format)
            for path in given
        ]
        files[name] = tuple(file for one in found for file in one.files)
        n_skipped += sum(one.n_skipped for one in found)
    return Inputs(
        files=files,
        splits=tuple(files),
        text_field=text_field,
        as_bytes=as_bytes,
        n_skipped_files=n_skipped,
    )


def divided(inputs: Inputs, split: str, *, whole_lines: bool) -> Inputs:
    """Train's text divided as `split` says: by document, or by position when there are too few.

    Args:
        inputs: files of train.
        split: shares such as `98,1,1`.
        whole_lines: whether a text cut by position is cut at line ends.

    Raises:
        InputError: `split` is not shares.
    """
    shares = parse_shares(split)
    with closing(inputs.read_only(["train"], "measuring")) as pieces:
        n_documents, n_characters = _measure(pieces, enough=len(shares))
    inputs = replace(inputs, splits=tuple(shares))
    if n_documents >= len(shares):
        return replace(inputs, divide=partial(by_document, shares=shares))
    where = "line ends" if whole_lines else "the very character"
    return replace(
        inputs,
        divide=partial(
            by_position, shares=shares, n_characters=n_characters, whole_lines=whole_lines
        ),
        note=f"{n_documents} document(s) cannot fill {len(shares)} splits: "
        f"the text was cut in order, at {where}",
    )


def _measure(pieces: Iterable[Piece], *, enough: int) -> tuple[int, int]:
    """Documents, up to `enough` of them, and their characters."""
    n_documents = n_characters = 0
    for piece in pieces:
        n_characters += len(piece.text)
        n_documents += piece.ends_document and bool(piece.text)
        if n_documents == enough:
            break
    return n_documents, n_characters


def _spool(
    stdin: BinaryIO | None, scratch: Path, format: TextFormat | Literal["auto"]
) -> FoundFiles:
    if stdin is None or scratch.exists():
        raise InputError("-: stdin can be read once, and is not open or was read")
    with scratch.open("wb") as file:
        shutil.copyfileobj(stdin, file)
    return FoundFiles((text_file(scratch, format=format, name="stdin"),), n_skipped=0)
