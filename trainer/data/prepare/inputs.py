"""Finding the texts of a new corpus, dividing them into splits, and reading them."""

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
    """The files of each split, or those of train alone, which `divide` divides among splits.

    Attributes:
        splits: names of the resulting splits.
        bad_lines: the rule for JSON lines without a text.
        left_out: files of the named folders and archives that are not read.
        shares: the shares that `divide` should reach.
        notes: what the user should know of the text.
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
        """Return lines for the user: texts left out in the last pass, and the notes."""
        left_out = [one.line() for one in self.left_out]
        return (*left_out, *self.bad_lines.lines(), *self.notes)

    def read(self, label: str) -> Routed:
        """Yield all pieces with their split, in order; show progress under `label`."""
        self.bad_lines.begin_pass()
        with progress(label, n_bytes=self._n_bytes(self.files)) as on_read:
            if self.divide:
                yield from self.divide(self._pieces("train", on_read))
                return
            for name in self.files:
                for piece in self._pieces(name, on_read):
                    yield name, piece

    def read_only(self, splits: Sequence[str], label: str) -> Generator[Piece]:
        """Yield only the pieces of some splits, such as train's for a vocabulary."""
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
    """Find the files of each split; the text of `-` is copied to the file `scratch`.

    Args:
        paths: the paths that the user named, by split.
        reading: how to read files.
        suffixes: suffixes of the files to read from folders and archives; without any,
            `trainer.data.text.choosing.choose` chooses by its own rules.
        on_bad_line: what to do with JSON lines without a text.
        stdin: the stream of `-`.
        scratch: a file that may be written.

    Raises:
        InputError: a path does not exist or is not text, a folder holds no text, or `-` is named
            twice.
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
    """Yield a note for each file that is read for two splits, or twice for one."""
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
    """Divide train's text among splits, by document or by position.

    Args:
        inputs: the files of train.
        split: shares such as `98,1,1`.
        by: `auto` means by document if whole documents can hold the shares, else by position.
        whole_lines: whether a cut by position must be at a line end or between words.

    Raises:
        InputError: `split` is no list of shares, or whole documents must hold them and cannot.
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
    """Return a line for the user that compares the wanted shares with those that resulted."""
    assert inputs.shares is not None
    unit = "bytes" if inputs.reading.as_bytes else "characters"
    return f"asked {percents(inputs.shares)}, came {percents(came)} (by {unit})"


def refuse_missed_shares(inputs: Inputs, came: Mapping[str, int]) -> None:
    """Make sure that no share was missed by more than half of it.

    Raises:
        InputError: a share was missed; the message says what resulted, and the fix.
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
