"""A text read in parts has the nats, hidden states and predictions of the whole text."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_reader import V, one_token_at_a_time, small_reader, text_of

from trainer.errors import InputError
from trainer.inference.texts.reading import TextMemory

TEXT = text_of(30, seed=4).replace("\n", " ")
WORDS = TEXT.split()
FACTORIES = [None, "linear_attention_model:build"]


def parts(*cuts: int) -> Iterator[str]:
    """Yield the text, cut before these words."""
    borders = [0, *cuts, len(WORDS)]
    for begin, end in itertools.pairwise(borders):
        yield " ".join(WORDS[begin:end])


@pytest.mark.parametrize("factory", FACTORIES)
def test_parts_have_the_nats_of_the_whole_wherever_it_is_cut(factory: str | None) -> None:
    model = small_reader(factory=factory)
    whole = model.read(TEXT)
    np.testing.assert_allclose(whole.nats, one_token_at_a_time(model, whole.ids), atol=2e-5)
    cuts = [(i,) for i in range(len(WORDS) + 1)] + [(3, 5, 6, 21), tuple(range(len(WORDS)))]
    for its in cuts:
        memory, nats, ids = None, [], []
        for part in parts(*its):
            reading = model.read(part, memory=memory)
            memory, nats, ids = reading.memory, [*nats, *reading.nats], [*ids, *reading.ids]
        assert ids == whole.ids
        np.testing.assert_allclose(nats, whole.nats, atol=2e-5)


def test_a_text_may_go_on_from_one_memory_in_several_ways() -> None:
    model = small_reader()
    before, after = parts(11)
    memory = model.read(before).memory
    for text in ("w3 w4 w5 w6 w7 w8", after, "w9", after):
        told = model.read(text, memory=memory).nats
        expected = model.read(f"{before} {text}").nats[-len(told) :]
        np.testing.assert_allclose(told, expected, atol=2e-5)


def test_hidden_states_are_what_predictions_are_made_of() -> None:
    model = small_reader()
    states = model.hidden(TEXT).states_TD
    assert (states.shape, states.dtype) == ((30, model.experiment.model.d_model), torch.float32)
    softmax = model.module.softmax
    assert isinstance(softmax, torch.nn.Module)
    with torch.no_grad():
        log_probs = softmax(states, None, ())
    for n in (1, 4, 5, 30):
        told = model.predict(" ".join(WORDS[:n])).log_probs_V
        assert told.shape == (V,)
        torch.testing.assert_close(told, log_probs[n - 1], rtol=0, atol=2e-5)
    nats = -log_probs[torch.arange(29), torch.tensor(model.vocabulary.encode(TEXT)[1:])]
    np.testing.assert_allclose(model.read(TEXT).nats, nats.numpy(), atol=2e-5)


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 5, 8, 9, 29, 30])
def test_hidden_states_and_predictions_go_on_from_any_part(cut: int) -> None:
    model = small_reader()
    first, second = parts(cut)
    states, memory = model.hidden(first)
    others, after = model.hidden(second, memory=memory)
    expected = model.hidden(TEXT)
    torch.testing.assert_close(torch.cat([states, others]), expected.states_TD, rtol=0, atol=2e-5)
    assert after.ids == expected.memory.ids
    whole = model.predict(TEXT).log_probs_V
    for memory in (model.read(first).memory, model.hidden(first).memory):
        told = model.predict(second, memory=memory).log_probs_V
        torch.testing.assert_close(told, whole, rtol=0, atol=2e-5)


def test_a_model_without_hidden_states_says_so() -> None:
    model = small_reader(factory="linear_attention_model:build")
    with pytest.raises(InputError, match="LinearAttention does not tell its hidden states"):
        model.hidden(TEXT)
    assert model.predict(TEXT).log_probs_V.exp().sum() == pytest.approx(1, abs=1e-5)


def test_nothing_read_predicts_nothing() -> None:
    model = small_reader()
    with pytest.raises(InputError, match="nothing was read"):
        model.predict("")
    reading = model.read("")
    assert (reading.ids, len(reading.nats), reading.memory.ids) == ([], 0, ())
    assert len(model.read("w2", memory=reading.memory).nats) == 0
    assert len(model.read("w2", memory=TextMemory(reading.memory.memory, (3,))).nats) == 1
