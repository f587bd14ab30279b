"""Sampling equals reading all of the text again, and keeps to its distribution and its seed."""

import math
from collections import Counter
from typing import Any

import pytest
import torch
from builders import CPU, empty, scoring, segment_of, tiny_model, words
from hypothesis import given
from hypothesis import strategies as st
from reference import NaiveStream

from trainer.data.vocabulary.files import Vocabulary
from trainer.errors import InputError
from trainer.inference.drawing import probabilities
from trainer.inference.generate import generate
from trainer.inference.sampling_options import Sampling
from trainer.model.transformer_xl import TransformerXL

V = 20


@pytest.fixture(scope="module")
def model() -> TransformerXL:
    return tiny_model(V, cutoffs=(6, 12)).eval()


def sample(
    model: TransformerXL,
    vocabulary: Vocabulary,
    prompt: str,
    n_tokens: int,
    *,
    choose: dict[str, Any] | None = None,
    **lengths: Any,
) -> list[str]:
    return list(
        generate(
            model,
            vocabulary,
            prompt=prompt,
            scoring=scoring(**lengths),
            cutoffs=(6, 12),
            sampling=Sampling(n_tokens=n_tokens, **(choose or {})),
            dtype=torch.float64,
            device=CPU,
        )
    )


COLD = {"temperature": 0.0}


@pytest.fixture(scope="module")
def talker() -> TransformerXL:
    """Return a model whose likeliest text does not soon repeat itself."""
    return tiny_model(V, cutoffs=(6, 12), seed=1, init_std=1.0, tie_embedding=False).eval()


def likeliest(stream: NaiveStream, ids: list[int]) -> list[int]:
    """Return the likeliest token after each of `ids`, which the naive model reads in one piece."""
    return [int(log_probs_V.argmax()) for log_probs_V in stream.read(ids, starts=set())]


@pytest.mark.parametrize("tgt_len", [4, 30])
def test_with_same_length_the_text_is_what_one_long_reading_gives_at_any_length(
    talker: TransformerXL, tgt_len: int
) -> None:
    vocabulary, mem_len = words(V), 7
    prompt = " ".join(f"w{2 + 5 * i % 18}" for i in range(23))
    lengths = {"mem_len": mem_len, "clamp_len": 5, "same_length": True, "tgt_len": tgt_len}
    pieces = sample(talker, vocabulary, prompt, 300, choose=COLD, **lengths)
    ids = vocabulary.encode(prompt + "".join(pieces))
    assert len(ids) == 323
    with torch.no_grad():
        stream = NaiveStream(talker, mem_len=mem_len, clamp_len=5, same_length=True)
        expected = likeliest(stream, ids)
    assert ids[23:] == expected[22:-1]
    assert len({tuple(ids[i : i + 9]) for i in range(23, 314)}) > 30  # no text of one sentence


def test_without_same_length_a_token_sees_all_the_memory_and_itself(talker: TransformerXL) -> None:
    vocabulary = words(V)
    pieces = sample(talker, vocabulary, "w5 w9", 100, choose=COLD, mem_len=6)
    ids = vocabulary.encode("w5 w9" + "".join(pieces))
    with torch.no_grad():
        stream = NaiveStream(talker, mem_len=6, clamp_len=None, same_length=False)
        expected = [likeliest(stream, [token])[0] for token in ids]
    assert ids[2:] == expected[1:-1]


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
    pieces = sample(model, vocabulary, "w5 w9 w14", 8, choose=COLD, mem_len=20, tgt_len=4)
    assert vocabulary.encode("w5 w9 w14" + "".join(pieces)) == ids


def test_a_prompt_is_read_in_pieces_of_tgt_len(model: TransformerXL) -> None:
    prompt = " ".join(f"w{2 + 5 * i % 18}" for i in range(11))
    samples = {
        "".join(sample(model, words(V), prompt, 6, tgt_len=tgt_len, mem_len=20, choose=COLD))
        for tgt_len in (1, 4, 11, 50)
    }
    assert len(samples) == 1


def test_a_sample_follows_its_seed_and_leaves_other_generators_alone(model: TransformerXL) -> None:
    before = torch.get_rng_state()
    choices = [{"seed": seed, "top_k": 9, "top_p": 0.9} for seed in (1, 1, 2)]
    samples = ["".join(sample(model, words(V), "w3", 12, choose=choose)) for choose in choices]
    torch.manual_seed(5)
    assert "".join(sample(model, words(V), "w3", 12, choose=choices[0])) == samples[0]
    assert samples[0] == samples[1] != samples[2]
    torch.set_rng_state(before)
    sample(model, words(V), "w3", 12)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "choose",
    [
        {"temperature": 1e-4},
        {"temperature": 1e-310},
        {"top_k": 1},
        {"top_p": 1e-9},
        {"top_p": 5e-324, "temperature": 2.0},
    ],
    ids=str,
)
def test_the_ends_of_every_choice_are_the_likeliest(
    model: TransformerXL, choose: dict[str, float]
) -> None:
    greedy = sample(model, words(V), "w3", 40, choose=COLD)
    assert sample(model, words(V), "w3", 40, choose=choose) == greedy
    assert sample(model, words(V), "w3", 40, choose={"temperature": 1e4}) != greedy


def test_of_equally_likely_tokens_the_first_is_the_likeliest() -> None:
    log_probs_V = torch.tensor([0.1, 0.3, 0.3, 0.3]).log()
    for choose in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 0.2}):
        drawn_from = probabilities(log_probs_V, Sampling(n_tokens=1, **choose))
        assert drawn_from.tolist() == [0, 1, 0, 0]
    drawn_from = probabilities(log_probs_V, Sampling(n_tokens=1, top_k=2))
    assert drawn_from.tolist() == [0, 0.5, 0.5, 0]
    halves_V = torch.full((8192,), 0.5).log()
    for choose in ({"top_k": 4096}, {"top_p": 0.5}):
        drawn_from = probabilities(halves_V, Sampling(n_tokens=1, **choose))
        assert drawn_from.nonzero()[:, 0].tolist() == list(range(4096))


LIKELIHOODS = st.lists(st.integers(1, 50), min_size=1, max_size=12)


@given(LIKELIHOODS, st.floats(0.3, 3), st.integers(0, 15), st.floats(0.01, 1))
def test_tokens_are_drawn_by_temperature_then_top_k_then_top_p(
    counts: list[int], temperature: float, top_k: int, top_p: float
) -> None:
    log_probs_V = torch.tensor(counts, dtype=torch.float64).log().log_softmax(0)
    sampling = Sampling(n_tokens=1, temperature=temperature, top_k=top_k, top_p=top_p)
    weights = {token: math.exp(lp / temperature) for token, lp in enumerate(log_probs_V.tolist())}
    ranked = sorted(weights, key=lambda token: -weights[token])[: top_k or None]
    among = sum(weights[token] for token in ranked)
    kept: list[int] = []
    while ranked and sum(weights[token] for token in kept) / among < top_p - 1e-12:
        kept.append(ranked.pop(0))
    total = sum(weights[token] for token in kept)
    expected = [weights[token] / total if token in kept else 0 for token in range(len(counts))]
    assert probabilities(log_probs_V, sampling).tolist() == pytest.approx(expected, abs=1e-9)


def test_draws_are_as_frequent_as_their_probabilities(model: TransformerXL) -> None:
    sampling = Sampling(n_tokens=1, temperature=1.3, top_k=8, top_p=0.8)
    log_probs, _ = model.predict(
        segment_of(torch.tensor([[3]]), cutoffs=(6, 12)), empty(model, 1, 6)
    )
    expected_V = probabilities(log_probs[0, -1].detach(), sampling)
    drawn: Counter[int] = Counter()
    choose = {"temperature": 1.3, "top_k": 8, "top_p": 0.8}
    n_draws = 2000
    for seed in range(n_draws):
        (piece,) = sample(model, words(V), "w3", 1, choose=choose | {"seed": seed})
        drawn.update(words(V).encode(piece))
    assert set(drawn) == set(expected_V.nonzero()[:, 0].tolist())
    assert 2 <= len(drawn) < 8
    for token, count in drawn.items():
        p = float(expected_V[token])
        assert abs(count - n_draws * p) < 5 * math.sqrt(n_draws * p * (1 - p))


@pytest.mark.parametrize(
    ("choose", "told"),
    [
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"top_k": -1}, "top_k -1 is negative"),
        ({"top_p": 0.0}, "top_p 0.0 is not above 0"),
        ({"top_p": 1.01}, "top_p 1.01 is not above 0 and at most 1"),
        ({"seed": -1}, "seed -1"),
        ({"stop": ""}, "stop is an empty text"),
        ({"n_tokens": 0}, "n_tokens 0 is below 1"),
    ],
)
def test_a_choice_out_of_range_is_refused(choose: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as refusal:
        Sampling(**{"n_tokens": 1, **choose})
    assert told in str(refusal.value)
    with pytest.raises(InputError, match=r"n_tokens -1 is below 1; .*top_p 2"):
        Sampling(n_tokens=-1, top_p=2)


def test_more_than_the_vocabulary_may_be_kept(model: TransformerXL) -> None:
    everything = sample(model, words(V), "w3", 12)
    assert sample(model, words(V), "w3", 12, choose={"top_k": 1000}) == everything


@pytest.mark.parametrize("prompt", ["", " "])
def test_an_empty_prompt_begins_somewhere(model: TransformerXL, prompt: str) -> None:
    assert sample(model, words(V), prompt, 5)
