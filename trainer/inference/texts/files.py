"""`txl score`: the figures of any text, a row per file and a total."""

import logging
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from trainer.budget.shortage import explained
from trainer.config.recipe import ScoringConfig
from trainer.data.prepare.inputs import find_inputs
from trainer.data.prepare.locating import located
from trainer.data.text.pieces import Piece, read_pieces
from trainer.data.text.source import Reading
from trainer.data.vocabulary.files import UnknownSymbolError, Vocabulary
from trainer.errors import InputError
from trainer.inference.loading import open_trained
from trainer.inference.settings import scoring_of, situation
from trainer.inference.texts.encoded import Counts, EncodedTexts, encoded
from trainer.inference.texts.options import ScoreOptions
from trainer.inference.texts.scored import Tally, token_nats
from trainer.inference.trained import TrainedModel
from trainer.outside import printable
from trainer.track.console.progress import progress
from trainer.track.measure import Lengths
from trainer.track.tables import shown, text_table
from trainer.wording import counted

log = logging.getLogger(__name__)

#: The name by which `find_inputs` knows the files.
_TEXTS = "texts"


@dataclass(frozen=True, kw_only=True)
class FileScores:
    """Result of `txl score`.

    Attributes:
        files: name and tally of each file, in order.
        total: tally of all files together.
        settings: lengths and batch size.
        trained: the model.
        memory_across_files: whether memory went from file to file.
    """

    files: tuple[tuple[str, Tally], ...]
    total: Tally
    settings: ScoringConfig
    trained: TrainedModel
    memory_across_files: bool

    def text(self) -> str:
        """Return what was scored and how, then a row per file, then why figures are missing."""
        notes: list[str] = []
        named = [*self.files, ("total", self.total)] if len(self.files) > 1 else self.files
        rows = [_cells(name, tally, notes) for name, tally in named]
        table = text_table([list(rows[0]), *(list(row.values()) for row in rows)])
        said = [f"[{number}] {printable(note)}" for number, note in enumerate(notes, start=1)]
        return "\n".join([self._manner(), "", table, *said])

    def _manner(self) -> str:
        lengths = Lengths(**self.settings.model_dump(include=set(Lengths.model_fields)))
        cells = {name: cell for name, cell in lengths.cells().items() if name != "warm"}
        how = ", ".join(f"{name} {cell}" for name, cell in cells.items())
        of = "all files" if self.memory_across_files else "a file"
        return (
            f"{printable(self.trained.path)}: every token but the first of {of}, {how}, "
            f"{self.trained.precision}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; a figure is None where `absent` says why."""
        lengths = self.settings.model_dump(exclude={"warm", "batch_size"})
        return {
            "version": 1,
            "model": str(self.trained.path),
            "weights_hash": self.trained.weights_hash,
            "vocabulary_hash": self.trained.vocabulary.hash,
            "precision": self.trained.precision,
            "settings": lengths | {"memory_across_files": self.memory_across_files},
            "files": [{"file": name} | _values(tally) for name, tally in self.files],
            "total": _values(self.total),
        }


def score_files(
    options: ScoreOptions, *, device: torch.device, stdin: BinaryIO | None
) -> FileScores:
    """Score files; see `ScoreOptions`.

    Every file is read and encoded before the first is scored. The ids of much text lie in a
    temporary file, so that memory stays constant.

    Raises:
        InputError: the run or a file cannot be used, or no file has anything to predict.
    """
    if not options.files:
        raise InputError("no text: name files, or - for stdin")
    trained = open_trained(
        options.run_dir,
        which=options.checkpoint,
        precision=options.precision,
        device=device,
        trust=options.trust_code,
    )
    scoring = scoring_of(
        trained.experiment,
        tgt_len=options.tgt_len,
        mem_len=options.mem_len,
        clamp_len=options.clamp_len,
        same_length=options.same_length,
        batch_size=options.batch_size,
        warm="exact",
    )
    names, texts = _encoded(options, trained.vocabulary, stdin)
    if not any(counts.n_tokens > 1 for counts in texts.counts) and not (
        options.memory_across_files and texts.bounds[-1] > 1
    ):
        raise InputError(
            f"nothing to predict: {counted(len(names), 'file')}, none of more than one token"
        )
    with explained(None, lambda: situation(scoring, vocabulary_size=trained.vocabulary.size)):
        tallies = _tallies(trained, texts, scoring, joined=options.memory_across_files)
    total = Counts()
    for counts in texts.counts:
        total = total.plus(counts)
    return FileScores(
        files=tuple(zip(names, tallies, strict=True)),
        total=Tally.of(
            total,
            n_scored=sum(tally.n_scored for tally in tallies),
            loss_sum=sum(tally.loss_sum for tally in tallies),
            vocabulary=trained.vocabulary,
        ),
        settings=scoring,
        trained=trained,
        memory_across_files=options.memory_across_files,
    )


def _encoded(
    options: ScoreOptions, vocabulary: Vocabulary, stdin: BinaryIO | None
) -> tuple[list[str], EncodedTexts]:
    """Find and encode the files; return their names and ids."""
    reading = Reading(
        format=options.format,
        text_field=options.text_field,
        as_bytes=vocabulary.kind == "bytes",
        chooses_tokenizer=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        inputs = find_inputs(
            {_TEXTS: options.files},
            reading,
            suffixes=options.suffixes,
            stdin=stdin,
            scratch=Path(folder) / "stdin",
        )
        files, at = inputs.files[_TEXTS], 0

        def texts() -> Iterator[Iterable[Piece]]:
            nonlocal at
            for at, file in enumerate(files):  # noqa: B007  # told in the error
                yield read_pieces([file], reading, on_read=on_read)

        with progress("encoding", total=sum(file.n_bytes for file in files)) as on_read:
            try:
                of_files = encoded(texts(), vocabulary)
            except UnknownSymbolError as error:
                alone = replace(inputs, files={_TEXTS: (files[at],)})
                where = located(error, alone, vocabulary)
                raise InputError(f"{where}: mend the text, or leave the file out") from None
    for remark in inputs.remarks:
        log.info("%s", remark)
    return [file.name for file in files], of_files


def _tallies(
    trained: TrainedModel, texts: EncodedTexts, scoring: ScoringConfig, *, joined: bool
) -> list[Tally]:
    """Score the texts, all as one if they are `joined`; return the tally of each."""
    n_scored, loss_sums = [0] * len(texts.counts), [0.0] * len(texts.counts)
    of = texts.joined() if joined else texts
    with progress("scoring", total=texts.bounds[-1]) as on_scored:
        for position, nats in token_nats(trained, of, scoring=scoring):
            first = bisect_right(texts.bounds, position) - 1
            last = bisect_left(texts.bounds, position + len(nats))
            for i in range(first, last):  # a run may reach into the next text where all are one
                begin = max(texts.bounds[i] - position, 0)
                its = nats[begin : texts.bounds[i + 1] - position]
                n_scored[i] += len(its)
                loss_sums[i] += float(its.sum(dtype=np.float64))
            on_scored(len(nats))
    return [
        Tally.of(counts, n_scored=n, loss_sum=loss_sum, vocabulary=trained.vocabulary)
        for counts, n, loss_sum in zip(texts.counts, n_scored, loss_sums, strict=True)
    ]


def _values(tally: Tally) -> dict[str, Any]:
    counts = tally.counts
    return {
        "n_tokens": tally.n_scored,
        "nats": tally.loss_sum,
        **{name: None if name in tally.absent else v for name, v in tally.figures.items()},
        "absent": dict(tally.absent),
        "n_words": counts.n_words,
        "n_characters": counts.n_characters,
        "n_unknown": counts.n_unknown,
    }


def _cells(name: str, tally: Tally, notes: list[str]) -> dict[str, str]:
    """Return a row of the table; where a figure is absent, note the reason and show its number."""
    values = tally.figures

    def figure(key: str, spec: str) -> str:
        if (reason := tally.absent.get(key)) is None:
            return shown(values[key], spec)
        note = f"{key}: {reason}" if tally.n_scored else reason
        if note not in notes:
            notes.append(note)
        return f"- [{notes.index(note) + 1}]"

    n_unknown, n_tokens = tally.counts.n_unknown, tally.counts.n_tokens
    return {
        "file": name,
        "tokens": f"{tally.n_scored:,}",
        "nats": f"{tally.loss_sum:,.1f}",
        "loss": figure("loss", ".4f"),
        "ppl": figure("ppl", ".2f"),
        "ppl_word": figure("ppl_word", ".2f"),
        "bpc": figure("bpc", ".4f"),
        "unknown": f"{n_unknown:,} ({n_unknown / max(1, n_tokens):.2%})",
    }
