"""The nats of every scored token: gathered from all ranks, filed as numbers, written as text."""

import functools
import json
import logging
import math
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trainer.data.corpus import Corpus, Split
from trainer.data.vocabulary.files import Vocabulary
from trainer.distributed import World, gather_objects
from trainer.errors import InputError
from trainer.files import replacing
from trainer.inference.loading import open_corpus_of
from trainer.track.run_files.token_files import FIELDS, Tokens

log = logging.getLogger(__name__)

#: Position in the split of the first of neighbouring scored tokens, and their nats.
Row = tuple[int, npt.NDArray[np.float32]]

#: Ids that are counted at a time.
_BLOCK = 1 << 22


def gathered(scored: Sequence[tuple[int, Tensor]], world: World) -> list[Row]:
    """Return the rows of all ranks in the order of the text. Collective."""
    rows = [(begin, nll_T.numpy()) for begin, nll_T in scored]  # tensors pickle all they view
    parts = gather_objects(rows, world)
    return sorted((row for part in parts for row in part), key=itemgetter(0))


def sum_of(rows: Sequence[Row]) -> float:
    """Return the sum of all nats, correctly rounded: it depends on no order."""
    return math.fsum(nats for _, nll_T in rows for nats in nll_T.tolist())


def token_table(
    rows: Sequence[Row],
    split: Split,
    *,
    counts: npt.NDArray[np.int64] | None,
    cut_documents: bool,
) -> Tokens:
    """Return the table of scored tokens that a file of tokens holds.

    Args:
        rows: see `gathered`.
        split: what was scored.
        counts: how often each id stands in the train split; None if that is not known.
        cut_documents: whether memory ended at a document's start.
    """
    position = np.concatenate([np.arange(begin, begin + len(nll_T)) for begin, nll_T in rows])
    table = np.empty(len(position), FIELDS)
    table["position"] = position
    table["token"] = token = np.asarray(split.tokens[position])
    table["nats"] = np.concatenate([nll_T for _, nll_T in rows])
    table["train_count"] = -1 if counts is None else counts[token]
    starts = np.asarray(split.document_starts)
    table["starts_document"] = np.isin(position, starts)
    # A token is predicted from the one before it, which is the last that was read.
    empty_at = starts if cut_documents else starts[:1]
    last_read = position - 1
    begun = empty_at[np.searchsorted(empty_at, last_read, side="right") - 1]
    table["since_empty"] = position - begun
    return table


def train_counts(run_dir: Path, corpus: Corpus) -> npt.NDArray[np.int64] | None:
    """Return how often each id stands in the train split of the run's corpus.

    If that is not at hand, the evaluated corpus's own train split is counted; None without one.
    """
    try:
        trained_on = open_corpus_of(run_dir)
    except InputError:
        trained_on = corpus
    if trained_on.vocabulary.hash != corpus.vocabulary.hash or "train" not in trained_on.splits:
        return None
    tokens, size = trained_on.splits["train"].tokens, corpus.vocabulary.size
    counts = np.zeros(size, np.int64)
    for begin in range(0, len(tokens), _BLOCK):
        counts += np.bincount(tokens[begin : begin + _BLOCK], minlength=size)
    return counts


def write_text(path: Path, rows: Sequence[Row], split: Split, vocabulary: Vocabulary) -> None:
    """Write a line per token, with fields separated by tabs.

    The fields are the position in the split; the token's own text as a JSON string, because it may
    be a line end or a tab; the nats.

    Raises:
        InputError: the file could not be written.
    """
    text_of = functools.cache(
        lambda token: json.dumps(vocabulary.decode([token]), ensure_ascii=False)
    )
    try:
        with replacing(path) as file:
            file.write("position\ttoken\tnats\n")
            for begin, nll_T in rows:
                nats: Any
                for position, nats in enumerate(nll_T.tolist(), start=begin):
                    token = text_of(int(split.tokens[position]))
                    file.write(f"{position}\t{token}\t{nats:.9g}\n")
    except OSError as error:
        raise InputError(f"--per-token-text {path}: {error.strerror}: name another file") from None
    log.info("%s", path)
