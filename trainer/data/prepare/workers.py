"""Counting and encoding words in several processes, with the result of one.

A text is cut between a visible character and white space, where no word and no run of white space
is cut, so that each part is counted and encoded by itself. What comes back is in the text's order.
"""

import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context, parent_process
from typing import NamedTuple, TypeVar

import numpy as np

from trainer.data.prepare.encoding import Encoded, encode
from trainer.data.text.pieces import Piece
from trainer.data.vocabulary.files import WordVocabulary
from trainer.errors import InputError

#: Characters of a part, if a word ends there, and the most until one does.
PART_CHARACTERS, MOST_CHARACTERS = 1 << 20, 1 << 26
_PARTS_PER_WORKER = 2

_Result = TypeVar("_Result")


class _Part(NamedTuple):
    pieces: list[Piece]
    starts_document: bool


def count_words_in(pieces: Iterable[Piece], *, n_workers: int, lowercase: bool) -> Counter[str]:
    """Return what `WordVocabulary.count` returns; one worker is this process.

    Raises:
        InputError: a process was killed, or a word is too long to be cut off.
    """
    if n_workers == 1:
        return WordVocabulary.count(pieces, lowercase=lowercase)
    counts: Counter[str] = Counter()
    count = partial(_count, lowercase=lowercase)
    for its in _mapped(count, _parts(pieces), n_workers=n_workers):
        counts.update(its)
    return counts


def encode_in(
    pieces: Iterable[Piece], vocabulary: WordVocabulary, *, n_workers: int
) -> Iterator[Encoded]:
    """Yield what `encode` yields.

    Raises:
        InputError: the vocabulary cannot encode the text, a process was killed, or a word is too
            long to be cut off.
    """
    for encoded in _mapped(_encode, _parts(pieces), n_workers=n_workers, vocabulary=vocabulary):
        yield from encoded


def _parts(pieces: Iterable[Piece]) -> Iterator[_Part]:
    held: list[Piece] = []
    n_held, starts_document = 0, True
    for piece in pieces:
        if n_held >= PART_CHARACTERS and _is_border(held[-1], piece):
            yield _Part(held, starts_document)
            starts_document = held[-1].ends_document
            held, n_held = [], 0
        if n_held > MOST_CHARACTERS:
            raise InputError(
                f"no word ends within {MOST_CHARACTERS:,} characters, so the text cannot be cut "
                "for several processes: leave out --workers"
            )
        held.append(piece)
        n_held += len(piece.text)
    if held:
        yield _Part(held, starts_document)


def _is_border(before: Piece, after: Piece) -> bool:
    """Return whether no word and no run of white space reaches from one piece into the next."""
    if before.ends_document:
        return True
    last, first = before.text[-1:], after.text[:1]
    return bool(last and first) and not last.isspace() and first.isspace()


def _mapped(
    work: Callable[[_Part], _Result],
    parts: Iterable[_Part],
    *,
    n_workers: int,
    vocabulary: WordVocabulary | None = None,
) -> Iterator[_Result]:
    """Yield the results of the parts in order; few parts are held at the same time."""
    pool = ProcessPoolExecutor(
        n_workers, get_context("spawn"), initializer=_begin, initargs=(vocabulary,)
    )
    try:
        pending: deque[Future[_Result]] = deque()
        for part in parts:
            pending.append(pool.submit(work, part))
            if len(pending) >= _PARTS_PER_WORKER * n_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            f"one of the {n_workers} processes of --workers was killed, maybe because memory ran "
            "out: ask for fewer"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


#: The vocabulary of a worker, which is sent once.
_VOCABULARY: list[WordVocabulary | None] = []


def _begin(vocabulary: WordVocabulary | None) -> None:
    """Prepare a worker, which ends with the process that started it; Ctrl-C is for that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _VOCABULARY[:] = [vocabulary]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _count(part: _Part, *, lowercase: bool) -> Counter[str]:
    return WordVocabulary.count(_closed(part.pieces), lowercase=lowercase)


def _encode(part: _Part) -> list[Encoded]:
    (vocabulary,) = _VOCABULARY
    assert vocabulary is not None
    pieces = _closed(part.pieces)
    encoded = list(encode(pieces, vocabulary, starts_document=part.starts_document))
    if len(pieces) == len(part.pieces):
        return encoded
    *encoded, last, end = encoded  # the added line end is an id and a word
    ids = np.concatenate([last.ids, end.ids[:-1]])
    n_words, lost = last.n_words + end.n_words - 1, last.lost.plus(end.lost)
    return [*encoded, replace(last, ids=ids, n_words=n_words, lost=lost)]


def _closed(pieces: list[Piece]) -> Sequence[Piece]:
    """Return the pieces, with a line end, if needed, that ends the last word of the part."""
    return pieces if pieces[-1].ends_document else [*pieces, Piece("\n", ends_document=True)]
