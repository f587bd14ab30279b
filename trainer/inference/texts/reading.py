"""Reading a text in parts: nats, hidden states and predictions, with memory in and out.

A text's parts give the numbers of the whole text, wherever it is cut between two tokens. What a
token sees depends on where its segment begins, so `TextMemory` holds the tokens since the last
whole segment, and the next part reads these again, with its own behind them.

T tgt_len · D d_model · V vocabulary · N tokens.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from trainer.data.rows import one_row
from trainer.data.vocabulary.files import encode_given
from trainer.errors import InputError
from trainer.inference.score import nats_of
from trainer.inference.texts.scored import Nats, Predictor
from trainer.protocol import IGNORED, Memory, Output, Segment


class TextMemory(NamedTuple):
    """Memory of a text that was read; a call gives a new one and leaves the given one as it is."""

    memory: Memory
    """The model's memory after the last whole segment."""
    ids: tuple[int, ...]
    """The tokens since, at most T: the newest is always among them."""


class Reading(NamedTuple):
    """Result of reading a part of a text."""

    ids: list[int]
    """The part's N tokens."""
    nats: Nats
    """Nats of each token, `[N]`; of a text's first part without the first token, `[N-1]`."""
    memory: TextMemory
    """For the next part."""


class Hidden(NamedTuple):
    """Hidden states of a part of a text."""

    states_TD: Tensor
    """A row per token of the part, fp32, on the model's device: what the softmax reads."""
    memory: TextMemory
    """For the next part."""


class Prediction(NamedTuple):
    """Prediction of the token after a text."""

    log_probs_V: Tensor
    """Log-probability of each id, fp32, on the model's device."""
    memory: TextMemory
    """For the next part."""


def read(reader: Predictor, text: str, memory: TextMemory | None) -> Reading:
    """Read a part of a text; see `trainer.inference.trained.TrainedModel.read`."""
    ids, part = _part(reader, text, memory)
    nats: list[Nats] = []
    for segment in part.whole_segments(predicting=True):
        output = part.forward(segment)
        part.memory = output.memory
        nats.append(_told(output))
    rest = part.rest_to_predict()
    if rest is not None:
        nats.append(_told(part.forward(rest)))
    every = np.concatenate([np.empty(0, np.float32), *nats])
    is_first = part.n_old == 0 and len(ids) > 0
    return Reading(ids, every[len(every) - len(ids) + is_first :], part.after())


def hidden(reader: Predictor, text: str, memory: TextMemory | None) -> Hidden:
    """Return hidden states; see `trainer.inference.trained.TrainedModel.hidden`."""
    states_of = getattr(reader.module, "hidden", None)
    if states_of is None:
        raise InputError(no_hidden_states(reader.module))
    ids, part = _part(reader, text, memory)
    states: list[Tensor] = []
    with reader.autocast(), torch.no_grad():
        for segment in part.whole_segments(predicting=False):
            x_BTD, part.memory = states_of(segment, part.memory, **part.lengths)
            states.append(x_BTD[0].float())
        rest = part.rest()
        if rest is not None:
            x_BTD, _ = states_of(rest, part.memory, **part.lengths)
            states.append(x_BTD[0].float())
    if not states:
        states = [torch.empty(0, reader.experiment.model.d_model or 0, device=reader.device)]
    every_TD = torch.cat(states)
    return Hidden(every_TD[len(every_TD) - len(ids) :], part.after())


def no_hidden_states(module: object) -> str:
    """Return the refusal of a model that does not tell its hidden states."""
    return (
        f"{type(module).__name__} does not tell its hidden states: give it a method `hidden`, see "
        "trainer.protocol.RecurrentModel"
    )


def predict(reader: Predictor, text: str, memory: TextMemory | None) -> Prediction:
    """Return a prediction; see `trainer.inference.trained.TrainedModel.predict`."""
    _, part = _part(reader, text, memory)
    for segment in part.whole_segments(predicting=False):
        part.memory = part.forward(segment).memory
    rest, module = part.rest(), cast(Any, reader.module)
    if rest is None:
        raise InputError("nothing was read that a token could follow: give a text or a memory")
    with reader.autocast(), torch.no_grad():
        log_probs_BTV, _ = module.predict(rest, part.memory, **part.lengths)
    return Prediction(log_probs_BTV[0, -1].float(), part.after())


def _part(reader: Predictor, text: str, memory: TextMemory | None) -> tuple[list[int], "_Part"]:
    ids = encode_given(reader.vocabulary, text, what="the text")
    if memory is None:
        memory = TextMemory(reader.reading_memory(1, reader.experiment.eval.mem_len), ())
    return ids, _Part(reader, memory, ids)


def _told(output: Output) -> Nats:
    nats: Nats = nats_of(output)[0].float().cpu().numpy()
    return nats


class _Part:
    """A part of a text behind the tokens of its memory, cut into segments of T."""

    def __init__(self, reader: Predictor, memory: TextMemory, ids: Sequence[int]) -> None:
        self.memory, self.n_old = memory.memory, len(memory.ids)
        self._reader, self._ids = reader, np.array([*memory.ids, *ids], np.int64)
        self._tgt_len = reader.experiment.eval.tgt_len
        # The last token of a whole segment predicts the token after it, which must be known.
        self._n_whole = max(0, len(self._ids) - 1) // self._tgt_len

    @property
    def lengths(self) -> dict[str, Any]:
        """Return the lengths with which every segment is read."""
        scoring = self._reader.experiment.eval
        return {"clamp_len": scoring.clamp_len, "same_length": scoring.same_length}

    def forward(self, segment: Segment) -> Output:
        """Read a segment; `memory` stays as it is."""
        with torch.no_grad():
            return self._reader(segment, self.memory, **self.lengths)

    def whole_segments(self, *, predicting: bool) -> Iterator[Segment]:
        """Yield the whole segments; with `predicting` they have targets."""
        for begin in range(0, self._rest_begin, self._tgt_len):
            yield self._segment(begin, begin + self._tgt_len, predicting=predicting)

    def rest(self) -> Segment | None:
        """Return the tokens after the whole segments, T at most; None if there is none."""
        begin, end = self._rest_begin, len(self._ids)
        return self._segment(begin, end, predicting=False) if begin < end else None

    def rest_to_predict(self) -> Segment | None:
        """Return the tokens after the whole segments that another token follows, with targets."""
        begin, end = self._rest_begin, len(self._ids) - 1
        return self._segment(begin, end, predicting=True) if begin < end else None

    def after(self) -> TextMemory:
        """Return the memory for the next part, once the whole segments are in `memory`."""
        return TextMemory(self.memory, tuple(self._ids[self._rest_begin :].tolist()))

    @property
    def _rest_begin(self) -> int:
        return self._n_whole * self._tgt_len

    def _segment(self, begin: int, end: int, *, predicting: bool) -> Segment:
        tokens_T = self._ids[begin:end]
        unscored_T = np.full_like(tokens_T, IGNORED)
        targets_T = self._ids[begin + 1 : end + 1] if predicting else unscored_T
        cutoffs = self._reader.experiment.model.cutoffs
        return one_row(tokens_T, targets_T, cutoffs=cutoffs).to(self._reader.device)
