"""Sampling reads its prompt once, keeps to its own generator and tells whole characters."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from builders import CPU, empty, scoring, segment_of, tiny_model, words
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.symbol_vocabulary import SymbolVocabulary
from trainer.data.vocabulary import Vocabulary
from trainer.generate import Sampling, generate
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import Memory, Segment

V = 20


@pytest.fixture(scope="module")
def model() -> TransformerXL:
    return tiny_model(V, cutoffs=(6, 12)).eval()


def sample(
    model: Any, vocabulary: Vocabulary, prompt: str, n_tokens: int, *,
    temperature: float = 1.0, seed: int = 0, cutoffs: tuple[int, ...] = (6, 12), **lengths: Any,
) -> list[str]:  # fmt: skip
    return list(
        generate(
            model, vocabulary, prompt=prompt, scoring=scoring(**lengths), cutoffs=cutoffs,
            sampling=Sampling(n_tokens=n_tokens, temperature=temperature, seed=seed),
            dtype=torch.float64, device=CPU,
        )
    )  # fmt: skip


def test_without_temperature_every_token_is_the_likeliest_after_all_before(
    model: TransformerXL,
) -> None:
    vocabulary = words(V)
    ids = vocabulary.encode("w5 w9 w14")
    for _ in range(8):
        tokens_BT = torch.tensor([ids])
        segment = segment_of(tokens_BT, cutoffs=(6, 12))
        log_probs, _ = model.predict(segment, empty(model, 1, 0))
        ids.append(int(log_probs[0, -1].argmax()))
    pieces = sample(model, vocabulary, "w5 w9 w14", 8, temperature=0.0, mem_len=20, tgt_len=4)
    assert vocabulary.encode("w5 w9 w14" + "".join(pieces)) == ids


def test_a_prompt_is_read_in_pieces_of_tgt_len(model: TransformerXL) -> None:
    prompt = " ".join(f"w{2 + 5 * i % 18}" for i in range(11))
    samples = {
        "".join(sample(model, words(V), prompt, 6, tgt_len=tgt_len, mem_len=20, temperature=0.0))
        for tgt_len in (1, 4, 11, 50)
    }
    assert len(samples) == 1


def test_a_sample_follows_its_seed_and_leaves_other_generators_alone(model: TransformerXL) -> None:
    before = torch.get_rng_state()
    samples = ["".join(sample(model, words(V), "w3", 12, seed=seed)) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_low_temperature_approaches_the_likeliest(model: TransformerXL) -> None:
    greedy = sample(model, words(V), "w3", 12, temperature=0.0)
    assert sample(model, words(V), "w3", 12, temperature=1e-4) == greedy
    assert sample(model, words(V), "w3", 12, temperature=1e4) != greedy


@pytest.mark.parametrize("prompt", ["", " "])
def test_an_empty_prompt_begins_somewhere(model: TransformerXL, prompt: str) -> None:
    assert sample(model, words(V), prompt, 5)


class Scripted:
    """A model that says what it was given to say, one token after each it reads."""

    def __init__(self, says: Sequence[int], vocabulary: Vocabulary, n_prompt: int) -> None:
        self.says, self.size, self.n_prompt = says, vocabulary.size, n_prompt

    def empty_memory(self, n_streams: int, **_: Any) -> Memory:
        return Memory(torch.zeros(1, n_streams, 1, 1), torch.zeros(1, dtype=torch.int64), 0)

    def predict(self, segment: Segment, memory: Memory, **_: Any) -> tuple[torch.Tensor, Memory]:
        n_read = memory.valid_min + segment.tokens_BT.shape[1]
        log_probs = torch.full((*segment.tokens_BT.shape, self.size), -torch.inf)
        log_probs[0, -1, self.says[max(0, n_read - self.n_prompt)]] = 0
        return log_probs, memory._replace(valid_min=n_read)


def said(vocabulary: Vocabulary, prompt: str, says: Sequence[int]) -> list[str]:
    model = Scripted(says, vocabulary, n_prompt=len(vocabulary.encode(prompt)))
    return sample(model, vocabulary, prompt, len(says), cutoffs=())


def all_bytes() -> SymbolVocabulary:
    return SymbolVocabulary("bytes", "".join(map(chr, range(256))), unk=False)


@given(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=12))
@settings(deadline=None, max_examples=100)
def test_pieces_are_whole_characters_though_tokens_are_bytes(prompt: str, text: str) -> None:
    pieces = said(all_bytes(), prompt, list(text.encode()))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert pieces == list(text)


@given(st.binary(min_size=1, max_size=20))
@settings(deadline=None, max_examples=100)
def test_nothing_is_lost_of_bytes_that_are_no_text(data: bytes) -> None:
    pieces = said(all_bytes(), "a", list(data))
    assert "".join(pieces) == data.decode("utf-8", "replace")


def test_words_follow_the_prompt_and_each_other_with_spaces_between() -> None:
    vocabulary = words(V)
    says = vocabulary.encode("w5 w6\nw7")
    assert said(vocabulary, "w3 w4", says) == [" w5", " w6", "\n", "w7"]
    assert said(vocabulary, "w3\n", says)[0] == "w5"
