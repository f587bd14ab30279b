"""Writing texts into the files of a corpus: reading once, encoding, split by split."""

from contextlib import ExitStack, closing
from itertools import tee
from pathlib import Path
from typing import Any

from trainer.data.prepare.encoding import encode
from trainer.data.prepare.inputs import Inputs, refuse_missed_shares
from trainer.data.prepare.report import SplitReport
from trainer.data.prepare.workers import encode_in
from trainer.data.prepare.writer import SplitWriter
from trainer.data.vocabulary.files import (
    VOCABULARY_FILE,
    Vocabulary,
    WordVocabulary,
    save_vocabulary,
)


def write_corpus(
    folder: Path,
    inputs: Inputs,
    vocabulary: Vocabulary,
    *,
    made: dict[str, Any],
    n_workers: int = 1,
) -> tuple[SplitReport, ...]:
    """Write vocabulary and splits to `folder`, reading `inputs` once.

    `made` says in the headers how the corpus was made; they also say what was left out.
    `n_workers` processes encode; more than one only words.

    Raises:
        InputError: an input cannot be read, a split is empty, or shares were missed.
    """
    save_vocabulary(vocabulary, folder / VOCABULARY_FILE)
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(closing(SplitWriter(folder, name, vocabulary)))
            for name in inputs.splits
        }
        routes, routed = tee(inputs.read("encoding"))
        pieces = (piece for _, piece in routed)
        if n_workers > 1 and isinstance(vocabulary, WordVocabulary):
            encoded = encode_in(pieces, vocabulary, n_workers=n_workers)
        else:
            encoded = encode(pieces, vocabulary)
        for (name, _), its in zip(routes, encoded, strict=True):
            writers[name].add(
                its.ids,
                n_words=its.n_words,
                n_characters=its.n_characters,
                n_hidden=its.lost.hidden,
                n_blanks=its.lost.blanks,
                ends_document=its.ends_document,
            )
        refuse_missed_shares(inputs, {name: one.n_characters for name, one in writers.items()})
        remarks = {"told": list(inputs.remarks)} if inputs.remarks else {}
        for writer in writers.values():
            writer.finish(splits=list(writers), made=made | remarks)
        return tuple(SplitReport.of(writer) for writer in writers.values())
