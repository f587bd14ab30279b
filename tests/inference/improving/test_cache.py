"""A cache gives the nats of naive loops, whatever rows, ranks and segments read the text."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    CPU,
    lone_world,
    random_documents,
    random_split,
    scoring,
    tiny_model,
    write_split,
)
from family_models import TOY, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from improving_naively import cached, read

from trainer.config.recipe import ScoringConfig
from trainer.data.corpus import Split
from trainer.inference.improving.cache import CachedReader, empty_cache, mixed, mixing
from trainer.inference.score import score
from trainer.protocol import forward_with_hidden, reach_of
from trainer.track.method import Cache

V, N = 20, 90
CUTOFFS = (6, 12)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("cache")
    return random_split(folder, N, vocabulary_size=V, n_documents=6)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(V, cutoffs=CUTOFFS).eval()


def nats_of(
    model: Any,
    split: Split,
    cache: Cache,
    at: ScoringConfig,
    *,
    cutoffs: tuple[int, ...] = CUTOFFS,
    world_size: int = 1,
    cut_documents: bool = False,
) -> list[float]:
    """Return the nats of all tokens but the first, of ranks that take turns."""
    found: dict[int, float] = {}
    reader = CachedReader(
        partial(forward_with_hidden, model), n_states=cache.states, mix=mixing(cache)
    )
    for rank in range(world_size):

        def first_memory(n_rows: int, mem_len: int) -> Any:
            memory = model.empty_memory(n_rows, mem_len=mem_len, dtype=torch.float64, device=CPU)
            return empty_cache(memory, n_rows, CPU)

        score(
            reader,
            split,
            scoring=at,
            first_memory=first_memory,
            reach=reader.reach(reach_of(model, n_layer=2)),
            cutoffs=cutoffs,
            cut_documents=cut_documents,
            world=lone_world(rank=rank, world_size=world_size),
            on_tokens=lambda begin, nll_T: found.update(enumerate(nll_T.tolist(), begin)),
        )
    assert sorted(found) == list(range(1, split.n_tokens))
    return [found[place] for place in sorted(found)]


@pytest.fixture
def _ranks_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.inference.score.sum_floats", lambda values, world: values)


@pytest.mark.parametrize("states", [1, 3, 7, 40, 1000])
@pytest.mark.parametrize("lengths", [{}, {"tgt_len": 7, "mem_len": 3}, {"tgt_len": 64}])
def test_a_cache_equals_loops_over_tokens(
    model: Any, split: Split, states: int, lengths: dict[str, int]
) -> None:
    at, cache = scoring(**lengths, batch_size=1), Cache(states=states, weight=0.3, flatness=0.4)
    expected = cached(read(model, split, at, cutoffs=CUTOFFS), split, cache)
    assert nats_of(model, split, cache, at) == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("kind", TOY)
def test_every_family_has_a_cache(split: Split, kind: str) -> None:
    if kind == "rmt":
        pytest.importorskip("transformers")
    model = toy(kind).eval()
    at, cache = scoring(batch_size=1), Cache(states=11, weight=0.2, flatness=0.3)
    expected = cached(read(model, split, at), split, cache)
    found = nats_of(model, split, cache, at, cutoffs=())
    assert found == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.usefixtures(_ranks_take_turns.__name__)
@settings(max_examples=25)
@given(
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 3),
    states=st.integers(1, 30),
    cut_documents=st.booleans(),
    lengths=st.sampled_from([{}, {"tgt_len": 5, "mem_len": 3}, {"tgt_len": 7, "mem_len": 0}]),
)
def test_neither_rows_nor_ranks_change_what_a_cache_gives(
    model: Any,
    split: Split,
    batch_size: int,
    world_size: int,
    states: int,
    cut_documents: bool,
    lengths: dict[str, int],
) -> None:
    cache = Cache(states=states, weight=0.3, flatness=0.4)
    at = scoring(**lengths, batch_size=batch_size)
    cut = {"cut_documents": cut_documents}
    found = nats_of(model, split, cache, at, world_size=world_size, **cut)
    one_row = nats_of(model, split, cache, at.model_copy(update={"batch_size": 1}), **cut)
    assert found == pytest.approx(one_row, rel=0, abs=1e-9)


@pytest.mark.parametrize("tgt_len", [1, 2, 5, 64])
def test_where_states_do_not_depend_on_segments_neither_does_a_cache(
    model: Any, split: Split, tgt_len: int
) -> None:
    cache = Cache(states=9, weight=0.3, flatness=0.4)
    at = scoring(same_length=True, clamp_len=4, batch_size=3)
    expected = nats_of(model, split, cache, at)
    other = nats_of(model, split, cache, at.model_copy(update={"tgt_len": tgt_len}))
    assert other == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_cache_is_emptied_where_memory_is_cut(
    model: Any, tmp_path: Path, batch_size: int
) -> None:
    ids = random_documents(60, vocabulary_size=V, seed=3)[0]
    cache = Cache(states=50, weight=0.4, flatness=0.2)
    nats = []
    for name, before in (("one", ids[:21]), ("other", (ids[:21] + 1) % V)):
        text = write_split(tmp_path / name, [before, ids[21:]], vocabulary_size=V)
        at = scoring(batch_size=batch_size)
        nats.append(nats_of(model, text, cache, at, cut_documents=True)[21:])
    assert nats[0] == pytest.approx(nats[1], rel=0, abs=1e-9)


def test_a_word_that_follows_in_the_cache_alone_has_the_probability_of_its_share() -> None:
    nats = torch.tensor([torch.inf, 1.0, 2.0])
    of_cache = torch.tensor([1.0, torch.inf, torch.nan])
    found = mixed(nats, of_cache, 0.25)
    expected = torch.tensor([1.0, 1.0, 2.0]) - torch.tensor([0.25, 0.75, 1.0]).log()
    torch.testing.assert_close(found, expected)
