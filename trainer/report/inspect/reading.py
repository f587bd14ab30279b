"""Each stream's reading at a step: place, document and text, from the settings and the corpus."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config.recipe import ExperimentConfig, experiment_from
from trainer.data.corpus import Corpus, Split, open_corpus
from trainer.data.named import named_corpus
from trainer.data.positions import Ints, Positions
from trainer.errors import InputError
from trainer.outside import read_json
from trainer.report.inspect.place import Place
from trainer.track.run_files.stream_files import read_losses


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A run of consecutive text."""

    position: int
    """Place in the split of its first token."""
    document: int
    """The document of that token, counted from 0."""
    offset: int
    """Tokens of the document before it."""
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class StreamText:
    """The text that a stream read at a step, and its loss."""

    stream: int
    rank: int | None
    """The rank that read it; None if the run does not say how it was dealt out."""
    slot: int | None
    loss: float | None
    """Mean nats per token; None if it was not filed. It may be infinite, or NaN."""
    n_tokens: int
    position: int
    """Place in the split of the first token that was read."""
    document: int
    """The document of that token, counted from 0."""
    offset: int
    """Tokens of the document before it."""
    passages: tuple[Passage, ...]
    """All that was read: several where the epoch's order does not follow the text."""
    text: str
    """The text that was read, up to the last token that was predicted."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON; a loss that is no number is null."""
        finite = self.loss if self.loss is not None and np.isfinite(self.loss) else None
        return asdict(self) | {"loss": finite}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The texts that all streams read at a step, the highest loss first."""

    place: Place
    corpus: Corpus
    experiment: ExperimentConfig
    epoch: int
    streams: list[StreamText]
    filed: dict[int, float]
    """The sum of nats of each stream as it was filed; empty if it was not."""

    @property
    def has_losses(self) -> bool:
        """Return whether the losses of this step's streams were filed."""
        return any(stream.loss is not None for stream in self.streams)

    def with_nats(self, nats: Mapping[int, float]) -> "Reading":
        """Return this reading with the losses of a replay, given each stream's sum of nats."""
        streams = [replace(s, loss=nats[s.stream] / s.n_tokens) for s in self.streams]
        return replace(self, streams=sorted(streams, key=_worst_first))


def experiment_of(run_dir: Path) -> ExperimentConfig:
    """Return a run's settings.

    Raises:
        InputError: there are none.
    """
    path = run_dir / "config.json"
    return experiment_from(read_json(path), where=str(path))


def corpus_of_run(run_dir: Path, data: Path | None) -> Corpus:
    """Open the corpus that a run trained on, at the place that it names or in `data`.

    Raises:
        InputError: it is not there, or not the same.
    """
    named = named_corpus(run_dir)
    path = data or Path(named.path)
    if not path.exists():
        raise InputError(f"{path} is not there, where {run_dir} had its corpus: give --data")
    corpus = open_corpus(path)
    if named.hash not in (None, corpus.hash):
        raise InputError(
            f"{path} is corpus {corpus.hash}, but {run_dir} was trained on {named.hash}: give "
            "that one with --data"
        )
    if "train" not in corpus.splits:
        raise InputError(f"{path} has no train split")
    return corpus


def read_step(run_dir: Path, place: Place, *, data: Path | None) -> Reading:
    """Return what the streams of a run read at a step.

    Raises:
        InputError: the settings or the corpus of the run are not at hand.
    """
    experiment = experiment_of(run_dir)
    corpus = corpus_of_run(run_dir, data)
    split = corpus.splits["train"]
    n_streams = experiment.train.train_batch_size
    if split.n_tokens - 1 < n_streams:
        raise InputError(f"{corpus.path} has too few tokens for {n_streams:,} streams")
    positions = Positions(
        n_pairs=split.n_tokens - 1,
        n_streams=n_streams,
        stages=experiment.train.stages,
        epoch_order=experiment.data.epoch_order,
        seed=experiment.seed,
        document_starts=split.document_starts,
        piece_tokens=experiment.data.piece_tokens,
    )
    ids_S = np.arange(n_streams)
    spans = positions.spans(ids_S, place.data_step)
    pairs_ST = spans.pairs(positions.width(place.data_step))
    nats = read_losses(run_dir, attempt=place.attempt.number, step=place.step)
    dealt = dealt_of(run_dir, n_streams)
    streams = []
    for stream, length in zip(ids_S.tolist(), spans.lengths_B.tolist(), strict=True):
        if length <= 0:
            continue
        pairs_T = pairs_ST[stream, :length]
        passages = _passages(pairs_T, split)
        read = split.take(np.append(pairs_T, pairs_T[-1] + 1)).tolist()
        streams.append(
            StreamText(
                stream=stream,
                rank=None if dealt is None else dealt.rank(stream),
                slot=None if dealt is None else dealt.slot(stream),
                loss=None if stream not in nats else nats[stream] / length,
                n_tokens=length,
                position=passages[0].position,
                document=passages[0].document,
                offset=passages[0].offset,
                passages=passages,
                text=corpus.vocabulary.decode(read),
            )
        )
    return Reading(
        place=place,
        corpus=corpus,
        experiment=experiment,
        epoch=positions.place(place.data_step).epoch,
        streams=sorted(streams, key=_worst_first),
        filed=nats,
    )


def _passages(pairs_T: Ints, split: Split) -> tuple[Passage, ...]:
    found = []
    for pairs in np.split(pairs_T, np.flatnonzero(np.diff(pairs_T) != 1) + 1):
        position = int(pairs[0])
        document = int(np.searchsorted(split.document_starts, position, side="right")) - 1
        offset = position - int(split.document_starts[document])
        passage = Passage(position=position, document=document, offset=offset, n_tokens=len(pairs))
        found.append(passage)
    return tuple(found)


def _worst_first(stream: StreamText) -> tuple[bool, float, int]:
    """Order streams: those without a finite loss, then by falling loss, then those not filed."""
    loss = stream.loss
    if loss is None:
        return True, 0.0, stream.stream
    return False, -loss if np.isfinite(loss) else -np.inf, stream.stream


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """The way in which a run dealt its streams out to ranks and slots."""

    micro: int
    """Streams of a micro step on one rank."""
    n_ranks: int

    def rank(self, stream: int) -> int:
        """Return the rank that reads a stream."""
        return stream % (self.micro * self.n_ranks) // self.micro

    def slot(self, stream: int) -> int:
        """Return the slot in which a stream is read."""
        return stream // (self.micro * self.n_ranks)


def dealt_of(run_dir: Path, n_streams: int) -> Dealt | None:
    """Return how the last attempt at a run dealt out its streams; None if it does not say."""
    try:
        values = read_json(run_dir / "ds_config.json")
        micro = int(values["train_micro_batch_size_per_gpu"])
        n_ranks = n_streams // (micro * int(values["gradient_accumulation_steps"]))
    except (InputError, KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return Dealt(micro=micro, n_ranks=n_ranks) if micro > 0 and n_ranks > 0 else None
