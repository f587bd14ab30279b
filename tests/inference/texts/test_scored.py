"""Texts are scored side by side as each would be alone, every token but the first once."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from builders import scoring
from hypothesis import given, settings
from hypothesis import strategies as st
from small_reader import one_token_at_a_time, small_reader, text_of

from trainer.data.vocabulary.symbols import SymbolVocabulary
from trainer.errors import InputError
from trainer.inference.texts.encoded import encoded_strings
from trainer.inference.texts.rows import rounds
from trainer.inference.texts.scored import scores_of
from trainer.inference.trained import TrainedModel
from trainer.protocol import layered

LENGTHS: dict[str, dict[str, Any]] = {
    "memory longer": {"tgt_len": 4, "mem_len": 6},
    "memory shorter": {"tgt_len": 5, "mem_len": 3},
    "no memory": {"tgt_len": 7, "mem_len": 0},
    "same length, clamped": {"tgt_len": 2, "mem_len": 6, "same_length": True, "clamp_len": 4},
}


TEXTS = [text_of(n, seed=n) for n in (1, 20, 3, 0, 50, 2, 11)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_texts_are_scored_as_one_token_at_a_time(lengths: str) -> None:
    model = small_reader()
    for batch_size in (1, 4):
        scores = model.score(TEXTS, batch_size=batch_size, **LENGTHS[lengths])
        for text, score in zip(TEXTS, scores, strict=True):
            ids = score.ids.tolist()
            assert model.vocabulary.decode(ids).split() == text.split()
            expected = one_token_at_a_time(model, ids, **LENGTHS[lengths])
            np.testing.assert_allclose(score.nats, expected, atol=2e-5)
            assert score.loss_sum == pytest.approx(sum(expected), abs=1e-3)
            assert score.tally.n_scored == max(0, len(ids) - 1)


def test_models_of_others_are_scored_alike() -> None:
    model = small_reader(factory="linear_attention_model:build")
    alone = [model.score([text], batch_size=1)[0].nats for text in TEXTS]
    for score, expected in zip(model.score(TEXTS, batch_size=4), alone, strict=True):
        np.testing.assert_allclose(score.nats, expected, atol=1e-5)
    expected = one_token_at_a_time(model, model.score(TEXTS)[1].ids.tolist())
    np.testing.assert_allclose(alone[1], expected, atol=1e-5)


def test_a_text_has_the_figures_of_its_counts() -> None:
    (score,) = small_reader().score(["w2 w3\nw4"])
    assert (score.n_words, score.n_characters, len(score.ids)) == (5, 8, 5)
    assert score.loss == pytest.approx(score.loss_sum / 4)
    assert score.ppl_word == pytest.approx(np.exp(score.loss), rel=1e-6)
    assert score.bpc == pytest.approx(score.loss / np.log(2) * 5 / 8)
    nothing, unknown = small_reader().score(["", "w2 never"])
    assert (nothing.loss, nothing.ppl, nothing.tally.absent["loss"]) == (None, None, "no token")
    assert (unknown.tally.counts.n_unknown, unknown.bpc) == (1, None)
    assert "5 of 8 characters are not told by the ids" in unknown.tally.absent["bpc"]


def test_what_is_no_text_is_named_by_its_place() -> None:
    model = small_reader()
    with pytest.raises(InputError, match="text 1: half a character at 3"):
        model.score(["w2", "w2 \ud800"])
    with pytest.raises(InputError, match="evaluation settings: tgt_len"):
        model.score(["w2"], tgt_len=0)
    letters = TrainedModel(**{**vars(model), "vocabulary": SymbolVocabulary("characters", "ab")})
    with pytest.raises(InputError, match="text 2: character 'c'"):
        letters.score(["a", "b", "c"])


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    tgt_len=st.integers(1, 7),
    mem_len=st.integers(0, 12),
    batch_size=st.integers(1, 6),
    same_length=st.booleans(),
    divides=st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_every_pair_of_every_text_is_scored_once_by_rows_in_order(
    lengths: list[int], divides: bool, **at: Any
) -> None:
    at["mem_len"] += at["same_length"]
    bounds = [0, *np.cumsum(lengths).tolist()]
    plan = rounds(bounds, scoring=scoring(**at), reach=layered(3) if divides else None)
    scored: Counter[int] = Counter()
    for one in plan:
        assert len(one.rows) <= at["batch_size"]
        passes = [one.spans(i) for i in range(one.n_forwards)]
        for number, row in enumerate(one.rows):
            real = [(s.begins_B[number], s.lengths_B[number], s.scored_B[number]) for s in passes]
            real = [part for part in real if part[1]]
            assert all(a[0] + a[1] == b[0] for a, b in pairwise(real))
            assert all((begin - row.low) % one.tgt_len == 0 for begin, *_ in real)
            read = [is_scored for *_, is_scored in real].count(False)
            reach = 3 * -(-at["mem_len"] // one.tgt_len)
            assert read == min(reach, row.first) or (not divides and real[0][0] == row.low)
            assert all(length <= one.width for _, length, _ in real)
            for begin, length, is_scored in real:
                if is_scored:
                    scored.update(range(begin, begin + length))
    expected = {pair for low, high in pairwise(bounds) for pair in range(low, high - 1)}
    assert scored == dict.fromkeys(expected, 1)


def test_a_long_text_is_divided_among_rows() -> None:
    settings = scoring(tgt_len=4, mem_len=4, batch_size=8)
    (one,) = rounds([0, 1025], scoring=settings, reach=layered(2))
    assert [row.last - row.first for row in one.rows] == [32] * 8
    assert one.n_forwards == 2 + 32


@pytest.mark.parametrize("memory_reset", ["epoch", "document"])
def test_texts_joined_share_a_memory_unless_documents_cut_it(memory_reset: str) -> None:
    model = small_reader(memory_reset=memory_reset)
    texts = encoded_strings([text_of(9, seed=1), text_of(7, seed=2)], model.vocabulary)
    at = scoring(tgt_len=4, mem_len=40)
    apart, together = (scores_of(model, its, scoring=at) for its in (texts, texts.joined()))
    first, second = (score.nats for score in apart)
    nats = together[0].nats
    assert together[0].tally.counts.n_tokens == len(nats) + 1 == len(first) + len(second) + 2
    np.testing.assert_allclose(nats[: len(first)], first, atol=2e-5)
    is_alike = np.allclose(nats[len(first) + 1 :], second, atol=2e-5)
    assert is_alike is (memory_reset == "document")
