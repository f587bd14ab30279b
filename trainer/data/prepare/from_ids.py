"""Preparing a corpus of ids ready made, of music, DNA or anything that has symbols."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainer.data.corpus import token_dtype
from trainer.data.prepare.from_text import PrepareOptions
from trainer.data.prepare.ids_file import NumbersFile, open_ids, open_positions
from trainer.data.prepare.progress import progress
from trainer.data.prepare.report import PrepareReport, SplitReport
from trainer.data.prepare.writer import SplitWriter, new_corpus_folder
from trainer.data.text.splitting import (
    MOST_MISSED,
    by_document,
    measure,
    most_missed,
    parse_shares,
    percents,
    place,
    share_ends,
)
from trainer.data.vocabulary.files import (
    VOCABULARY_FILE,
    Ids,
    Vocabulary,
    load_listed,
    save_vocabulary,
)
from trainer.errors import InputError
from trainer.outside import printable
from trainer.wording import counted

_ALLOWED_FLAGS = {
    *("--out", "--overwrite", "--ids", "--ids-dtype", "--end-id", "--document-starts"),
    *("--vocab", "--valid", "--test", "--split", "--split-by"),
}


class IdsPiece(NamedTuple):
    """Some ids of a document; a `trainer.data.text.splitting.Part`."""

    text: Ids
    ends_document: bool


_Routed = Iterator[tuple[str, IdsPiece]]
_Divide = Callable[[Iterable[IdsPiece]], _Routed]


@dataclass(frozen=True, kw_only=True)
class _Source:
    """The files of ids by split, and how documents end in them."""

    files: Mapping[str, NumbersFile]
    vocabulary: Vocabulary
    end_id: int | None
    starts: NumbersFile | None

    def pieces(self, name: str, label: str) -> Generator[IdsPiece]:
        """Yield the ids of a split's file; the last piece ends a document.

        Raises:
            InputError: an id is not below the vocabulary's size, or the file cannot be read.
        """
        file = self.files[name]
        borders = iter(()) if self.starts is None else _after_first(self.starts)
        border = next(borders, None)
        first = 0
        with progress(label, n_bytes=file.n * file.dtype.itemsize) as on_read:
            for block in file.blocks():
                _check(block, file, first=first, size=self.vocabulary.size)
                ids = block.astype(np.uint32)
                after = first + len(ids)
                cuts = [] if self.end_id is None else _ends(ids, self.end_id)
                while border is not None and border <= after:
                    cuts.append(border - first)
                    border = next(borders, None)
                yield from _cut(ids, cuts, is_last=after == file.n)
                on_read(block.nbytes)
                first = after


def prepare_ids(options: PrepareOptions) -> PrepareReport:
    """Write the corpus of `options.ids` at `options.out`, whole or not at all.

    Raises:
        InputError: an option does not go with ids, a file cannot be used, an id is none of the
            vocabulary, or the output cannot be written.
    """
    source = _source(options)
    try:
        with new_corpus_folder(options.out, overwrite=options.overwrite) as folder:
            divide, splits, notes = _division(options, source)
            reports = _write(folder, source, divide, splits, made=_made(options))
            if options.split:
                shares = parse_shares(options.split)
                came = {report.name: report.n_tokens for report in reports}
                told = f"asked {percents(shares)}, came {percents(came)} (by ids)"
                if most_missed(shares, came) > MOST_MISSED:
                    raise InputError(
                        f"--split: {told}: there are too few ids for such shares; give --valid "
                        "and --test, or ask for other shares"
                    )
                notes = (told, *notes)
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written: {error}") from None
    return PrepareReport(
        out=options.out, vocabulary=source.vocabulary, splits=reports, remarks=notes
    )


def _source(options: PrepareOptions) -> _Source:
    """Check the options and open all files."""
    assert options.ids is not None
    if refused := [flag for flag in options.flags() if flag not in _ALLOWED_FLAGS]:
        raise InputError(f"{', '.join(refused)}: for text, which --ids takes the place of")
    if options.vocab is None:
        raise InputError(
            "--ids: needs --vocab: a JSON list of the symbols by id, or an object symbol: id"
        )
    if options.end_id is not None and options.document_starts is not None:
        raise InputError("--end-id, --document-starts: each says where documents end: give one")
    if options.split and (options.valid or options.test):
        raise InputError("--split divides --ids: give it without --valid or --test")
    if options.split_by != "auto" and not options.split:
        raise InputError(f"--split-by {options.split_by}: says how to divide, so it needs --split")
    if options.document_starts is not None and (options.valid or options.test):
        raise InputError(
            "--document-starts: is of --ids alone: divide that with --split, or say where "
            "documents end in --valid and --test too, with --end-id"
        )
    vocabulary = load_listed(options.vocab, end_id=options.end_id)
    if options.end_id is not None and not 0 <= options.end_id < vocabulary.size:
        raise InputError(f"--end-id {options.end_id}: no id of {vocabulary.size:,}")
    bare = np.dtype(options.ids_dtype or token_dtype(vocabulary.size)).newbyteorder("<")
    files = {"train": open_ids(options.ids, bare=bare)}
    for name, paths in (("valid", options.valid), ("test", options.test)):
        if len(paths) > 1:
            raise InputError(f"--{name}: one file of ids, not {len(paths)}")
        if paths:
            files[name] = open_ids(paths[0], bare=bare)
    starts = options.document_starts
    return _Source(
        files=files,
        vocabulary=vocabulary,
        end_id=options.end_id,
        starts=None if starts is None else open_positions(starts, n_ids=files["train"].n),
    )


def _division(
    options: PrepareOptions, source: _Source
) -> tuple[_Divide | None, tuple[str, ...], tuple[str, ...]]:
    """Return how train is divided, the names of the splits, and notes for the user."""
    if not options.split:
        return None, tuple(source.files), ()
    shares = parse_shares(options.split)
    with closing(source.pieces("train", "measuring")) as pieces:
        sizes = measure(pieces, shares)
    placement = place(sizes, shares)
    note = "the ids were cut in order"
    if options.split_by != "position":
        hold = sizes.n_documents >= len(shares)
        if hold and most_missed(shares, placement.came) <= MOST_MISSED:
            return partial(by_document, placement=placement), tuple(shares), ()
        note = f"{counted(sizes.n_documents, 'document')} cannot hold shares of {percents(shares)}"
        if options.split_by == "document":
            raise InputError(
                f"--split {options.split}: {note}: ask for other shares, or let the ids be cut "
                "with --split-by position"
            )
        note += ": the ids were cut in order"
    return partial(_by_position, shares=shares, n_ids=sizes.n_characters), tuple(shares), (note,)


def _by_position(pieces: Iterable[IdsPiece], *, shares: Mapping[str, float], n_ids: int) -> _Routed:
    """Yield the ids in order, cut where each split's share of `n_ids` ends."""
    names, ends = list(shares), share_ends(shares, n_ids)
    position = 0
    for ids, ends_document in pieces:
        while ends and position + len(ids) >= ends[0]:
            n = ends[0] - position
            yield names[0], IdsPiece(ids[:n], ends_document=True)
            position, ids = position + n, ids[n:]
            del names[0], ends[0]
        if len(ids):
            yield names[0], IdsPiece(ids, ends_document)
        position += len(ids)


def _write(
    folder: Path,
    source: _Source,
    divide: _Divide | None,
    splits: tuple[str, ...],
    *,
    made: dict[str, object],
) -> tuple[SplitReport, ...]:
    """Write vocabulary and splits to `folder`, reading the ids once."""
    save_vocabulary(source.vocabulary, folder / VOCABULARY_FILE)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(closing(SplitWriter(folder, name, source.vocabulary)))
            for name in splits
        }
        for file in source.files:
            pieces = source.pieces(file, "copying")
            routed = divide(pieces) if divide else ((file, piece) for piece in pieces)
            for name, (ids, ends_document) in routed:
                writers[name].add(ids, n_words=0, n_characters=0, ends_document=ends_document)
        for writer in writers.values():
            writer.finish(splits=list(splits), made=made)
        return tuple(SplitReport.of(writer) for writer in writers.values())


def _check(block: Ids, file: NumbersFile, *, first: int, size: int) -> None:
    low, high = int(block.min()), int(block.max())
    if low >= 0 and high < size:
        return
    wrong = (block < 0) | (block >= size)
    place = int(np.argmax(wrong))
    raise InputError(
        f"{printable(file.path)}: id {int(block[place])} at position {first + place:,} is not one "
        f"of the vocabulary's 0 to {size - 1:,}: take its own vocabulary, or with bare numbers "
        "their type (--ids-dtype)"
    )


def _ends(ids: Ids, end_id: int) -> list[int]:
    ends: list[int] = (np.flatnonzero(ids == end_id) + 1).tolist()
    return ends


def _after_first(starts: NumbersFile) -> Iterator[int]:
    """Yield all positions but the first, which is 0."""
    for block in starts.blocks():
        yield from (position for position in block.tolist() if position)


def _cut(ids: Ids, cuts: list[int], *, is_last: bool) -> Iterator[IdsPiece]:
    begin = 0
    for cut in cuts:
        yield IdsPiece(ids[begin:cut], ends_document=True)
        begin = cut
    if begin < len(ids):
        yield IdsPiece(ids[begin:], ends_document=is_last)


def _made(options: PrepareOptions) -> dict[str, object]:
    paths = {name: [str(path) for path in getattr(options, name)] for name in ("valid", "test")}
    starts = options.document_starts
    return {
        "ids": str(options.ids),
        "vocab": str(options.vocab),
        **paths,
        "split": options.split,
        "split_by": options.split_by,
        "end_id": options.end_id,
        "document_starts": str(starts) if starts else None,
    }
