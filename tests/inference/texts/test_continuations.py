"""Tokens after a beginning are scored as one long reading would score them."""

from itertools import islice
from typing import Any

import pytest
from small_reader import V, one_token_at_a_time, small_reader, text_of

from trainer.inference.sampling_options import Sampling
from trainer.inference.settings import scoring_of
from trainer.inference.texts.continuations import continuations, document_nats

LENGTHS: dict[str, dict[str, Any]] = {
    "memory longer": {"tgt_len": 4, "mem_len": 6},
    "memory shorter": {"tgt_len": 5, "mem_len": 3},
    "no memory": {"tgt_len": 7, "mem_len": 0},
    "same length, clamped": {"tgt_len": 2, "mem_len": 6, "same_length": True, "clamp_len": 4},
}
SAME_LENGTH = LENGTHS["same length, clamped"]
TEXTS = [text_of(n, seed=n) for n in (1, 20, 3, 0, 50, 2, 11)]


def cut_in_two(ids: list[int]) -> list[tuple[list[int], list[int]]]:
    """Return ids cut after the first one, in the middle, before the last one, and at the end."""
    places = sorted({1, max(1, len(ids) // 2), max(1, len(ids) - 1), len(ids)})
    return [(ids[:place], ids[place:]) for place in places]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_a_continuation_has_the_nats_of_one_token_at_a_time(lengths: str) -> None:
    model = small_reader()
    documents = [[0, *model.vocabulary.encode(text)] for text in TEXTS]
    pairs, expected = [], []
    for ids in documents:
        nats = one_token_at_a_time(model, ids, **LENGTHS[lengths])
        for begin, rest in cut_in_two(ids):
            pairs.append((begin, rest))
            expected.append(sum(nats[len(begin) - 1 :]))
    for batch_size in (1, 4):
        how = scoring_of(model.experiment, batch_size=batch_size, **LENGTHS[lengths])
        found = continuations(model, pairs, scoring=how)
        assert [score.loss_sum for score in found] == pytest.approx(expected, abs=1e-3)


def test_only_the_greedy_text_is_the_likeliest() -> None:
    model = small_reader()
    how = scoring_of(model.experiment, **SAME_LENGTH)
    begin = [0, *model.vocabulary.encode(TEXTS[1])]
    greedy = Sampling(n_tokens=9, temperature=0)
    made = list(islice(model.following_ids(begin, greedy, scoring=how), 9))
    assert len(set(made)) > 1
    others = [[*made[:i], (made[i] + 1) % V, *made[i + 1 :]] for i in range(9)]
    found = continuations(model, [(begin, rest) for rest in [made, *others]], scoring=how)
    assert [score.is_likeliest for score in found] == [True] + [False] * 9


def test_a_document_has_the_nats_that_it_has_as_a_text() -> None:
    model = small_reader()
    how = scoring_of(model.experiment)
    scores = model.score([f"\n{text}" for text in TEXTS])
    documents = [score.ids.tolist() for score in scores]
    nats = document_nats(model, documents, scoring=how)
    assert nats == [score.loss_sum for score in scores]
