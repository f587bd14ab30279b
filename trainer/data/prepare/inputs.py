"""The texts of a corpus to be: found, divided into splits, and read as often as needed."""

import os
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from trainer.data.prepare.progress import progress
from trainer.data.text.choosing import LeftOut, shown
from trainer.data.text.finding import Found, find_files, in_file
from trainer.data.text.json_lines import BadLines, OnBadLine
from trainer.data.text.pieces import Piece, read_pieces
from trainer.data.text.source import Reading, TextFile
from trainer.data.text.splitting import (
    MOST_MISSED,
    Routed,
    by_document,
    by_position,
    measure,
    most_missed,
    parse_shares,
    percents,
    place,
)
from trainer.errors import InputError
from trainer.wording import counted

SplitBy = Literal["auto", "document", "position"]

STDIN = Path("-")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Files of each split; or those of train alone, which `divide` routes to several.

    Attributes:
        splits: names of the splits that come out.
        bad_lines: what becomes of JSON lines without a text.
        left_out: what is not read of the folders and archives that were named.
        shares: what `divide` was asked for.
        notes: what a reader should know of the text.
    """

    files: Mapping[str, tuple[TextFile, ...]]
    splits: tuple[str, ...]
    reading: Reading = field(default_factory=Reading)
    bad_lines: BadLines = field(default_factory=BadLines)
    left_out: tuple[LeftOut, ...] = ()
    divide: Callable[[Iterable[Piece]], Routed] | None = None
    shares: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """List texts that were left out in the last pass, and the notes: lines for the user."""
        left_out = [one.line() for one in self.left_out]
        return (*left_out, *self.bad_lines.lines(), *self.notes)

    def read(self, label: str) -> Routed:
        """All pieces with their split, in order; progress is shown under `label`."""
        self.bad_lines.begin_pass()
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
        self.bad_lines.begin_pass()
        with progress(label, n_bytes=self._n_bytes(splits)) as on_read:
            for name in splits:
                yield from self._pieces(name, on_read)

    def _pieces(self, name: str, on_read: Callable[[int], None]) -> Iterator[Piece]:
        return read_pieces(
            self.files[name], self.reading, bad_lines=self.bad_lines, on_read=on_read
        )

    def _n_bytes(self, names: Iterable[str]) -> int:
        return sum(file.n_bytes for name in names for file in self.files[name])


def find_inputs(
    paths: Mapping[str, Sequence[Path]],
    reading: Reading,
    *,
    suffixes: tuple[str, ...] = (),
    on_bad_line: OnBadLine = "stop",
    stdin: BinaryIO | None,
    scratch: Path,
) -> Inputs:
    """Find the files of each split; what `-` reads is kept in the file `scratch`.

    Args:
        paths: what the user named, by split.
        reading: how files are read.
        suffixes: of the files that are read from folders and archives; none is by their names.
        on_bad_line: what becomes of JSON lines without a text.
        stdin: what `-` reads.
        scratch: a file that may be written.

    Raises:
        InputError: a path does not exist or is something else than text, a folder holds no text,
            or `-` is read twice.
    """
    by_split = {
        name: [
            _spool(stdin, scratch, reading, suffixes)
            if path == STDIN
            else find_files(path, reading, suffixes=suffixes)
            for path in given
        ]
        for name, given in paths.items()
    }
    every = [one for of_split in by_split.values() for one in of_split]
    files = {name: tuple(f for one in ones for f in one.files) for name, ones in by_split.items()}
    return Inputs(
        files=files,
        splits=tuple(by_split),
        reading=reading,
        bad_lines=BadLines(on_bad_line),
        left_out=tuple(left for one in every for left in one.left_out),
        notes=(*(note for one in every for note in one.notes), *_read_twice(files)),
    )


def _read_twice(files: Mapping[str, tuple[TextFile, ...]]) -> Iterator[str]:
    """Notes of files that are read for two splits, or twice for one, however they were named."""
    first: dict[tuple[str, str | None], str] = {}
    again: dict[str, list[str]] = {}
    for split, of_split in files.items():
        for file in of_split:
            place = os.path.realpath(file.path), file.member
            if place in first:
                also = f"for {split} as for {first[place]}" if first[place] != split else "twice"
                again.setdefault(also, []).append(file.name)
            first.setdefault(place, split)
    for how, names in again.items():
        yield f"read {how}: {counted(len(names), 'file')} ({shown(names)})"


def divided(inputs: Inputs, split: str, *, by: SplitBy, whole_lines: bool) -> Inputs:
    """Train's text divided as `split` says: by document, or by position where those are too few.

    Args:
        inputs: files of train.
        split: shares such as `98,1,1`.
        by: `auto` is by document where documents hold the shares, and else by position.
        whole_lines: whether a text cut by position is cut at line ends or between words.

    Raises:
        InputError: `split` is not shares, or documents cannot hold them and must.
    """
    shares = parse_shares(split)
    with closing(inputs.read_only(["train"], "measuring")) as pieces:
        sizes = measure(pieces, shares)
    inputs = replace(inputs, splits=tuple(shares), shares=shares)
    placement = place(sizes, shares)
    why = ""
    if by != "position":
        if sizes.n_documents < len(shares):
            why = f"{counted(sizes.n_documents, 'document')} cannot fill {len(shares)} splits"
        elif most_missed(shares, placement.came) > MOST_MISSED:
            why = (
                f"{sizes.n_documents:,} documents cannot hold shares of {percents(shares)} "
                f"(the nearest is {percents(placement.came)})"
            )
        else:
            return replace(inputs, divide=partial(by_document, placement=placement))
        if by == "document":
            raise InputError(
                f"--split {split}: {why}: ask for other shares, give --train, --valid and --test, "
                "or let the text be cut with --split-by position"
            )
    where = "line ends, or at blanks where lines are long" if whole_lines else "the very character"
    divide = partial(
        by_position, shares=shares, n_characters=sizes.n_characters, whole_lines=whole_lines
    )
    note = f"{why}: the text was cut in order, at {where}".removeprefix(": ")
    return replace(inputs, divide=divide, notes=(*inputs.notes, note))


def shares_line(inputs: Inputs, came: Mapping[str, int]) -> str:
    """Compare the shares that were asked of `divided` with those that came, for the user."""
    assert inputs.shares is not None
    unit = "bytes" if inputs.reading.as_bytes else "characters"
    return f"asked {percents(inputs.shares)}, came {percents(came)} (by {unit})"


def refuse_missed_shares(inputs: Inputs, came: Mapping[str, int]) -> None:
    """Make sure that no share which was asked for was missed by more than half of it.

    Raises:
        InputError: one was; the message says what came and the way out.
    """
    if inputs.shares is not None and most_missed(inputs.shares, came) > MOST_MISSED:
        raise InputError(
            f"--split: {shares_line(inputs, came)}: the text is too short for such shares; give "
            "it more text, ask for larger ones, or give --train, --valid and --test"
        )


def _spool(
    stdin: BinaryIO | None, scratch: Path, reading: Reading, suffixes: tuple[str, ...]
) -> Found:
    if stdin is None or scratch.exists():
        raise InputError("-: stdin can be read once, and is not open or was read")
    with scratch.open("wb") as file:
        shutil.copyfileobj(stdin, file)
    return in_file(scratch, reading, name="stdin", suffixes=suffixes)
