"""Dynamic evaluation gives the nats of naive loops, and leaves the model as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import lone_world, random_split, scoring, tiny_model
from family_models import TOY, toy
from improving_naively import cached, moments_of, read
from torch import Tensor

from trainer.data.corpus import Split
from trainer.errors import InputError, NonFiniteError
from trainer.inference.improving.cache import CachedReader, empty_cache, mixing
from trainer.inference.improving.dynamic import EPSILON, Learner
from trainer.inference.score import score
from trainer.protocol import reach_of
from trainer.track.method import Cache, Dynamic

V, N = 20, 60
CUTOFFS = (6, 12)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    folder = tmp_path_factory.mktemp("dynamic")
    return random_split(folder, N, vocabulary_size=V, n_documents=3)


def nats_of(
    model: Any,
    split: Split,
    dynamic: Dynamic,
    *,
    cutoffs: tuple[int, ...] = CUTOFFS,
    cache: Cache | None = None,
    second_moments: dict[str, Tensor] | None = None,
    **lengths: Any,
) -> list[float]:
    at, found = scoring(**lengths, batch_size=1), []
    learner = Learner(model, dynamic, tgt_len=at.tgt_len, second_moments=second_moments)
    forward: Any = learner
    if cache is not None:
        forward = CachedReader(learner.states, n_states=cache.states, mix=mixing(cache))

    def first_memory(n_rows: int, mem_len: int) -> Any:
        of_model = learner.first_memory(n_rows, mem_len)
        return of_model if cache is None else empty_cache(of_model, n_rows, torch.device("cpu"))

    score(
        forward,
        split,
        scoring=at,
        first_memory=first_memory,
        reach=reach_of(model, n_layer=2),
        cutoffs=cutoffs,
        cut_documents=False,
        world=lone_world(),
        keeps_segments=True,
        on_tokens=lambda begin, nll_T: found.extend(nll_T.tolist()),
    )
    return found


DYNAMIC: list[dict[str, Any]] = [
    {"rule": "sgd", "rate": 0.05, "decay": 0.0},
    {"rule": "sgd", "rate": 0.05, "decay": 0.1},
    {"rule": "rms", "rate": 3e-4, "decay": 0.02},
    {"rule": "rms", "rate": 3e-4, "decay": 0.9},
]


@pytest.mark.parametrize("values", DYNAMIC)
@pytest.mark.parametrize("tgt_len", [4, 7])
def test_dynamic_evaluation_equals_loops_over_weights(
    split: Split, values: dict[str, Any], tgt_len: int
) -> None:
    model = tiny_model(V, cutoffs=CUTOFFS).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dynamic, moments = Dynamic(**values), moments_of(model)
    how: dict[str, Any] = {"second_moments": moments}
    expected, _ = read(
        model,
        split,
        scoring(tgt_len=tgt_len, batch_size=1),
        cutoffs=CUTOFFS,
        dynamic=dynamic,
        epsilon=EPSILON,
        **how,
    )
    found = nats_of(model, split, dynamic, tgt_len=tgt_len, **how)
    assert found == pytest.approx(expected, rel=0, abs=1e-9)
    plain, _ = read(model, split, scoring(tgt_len=tgt_len, batch_size=1), cutoffs=CUTOFFS)
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) > 1e-3
    assert found[:tgt_len] == pytest.approx(plain[:tgt_len], rel=0, abs=1e-9)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", TOY)
@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_every_family_learns_as_it_reads_with_a_cache_and_without(
    split: Split, kind: str, rule: Any
) -> None:
    if kind == "rmt":
        pytest.importorskip("transformers")
    model = toy(kind).eval()
    dynamic = Dynamic(rule=rule, rate=1e-3 if rule == "sgd" else 1e-5, decay=0.01)
    cache, moments = Cache(states=9, weight=0.3, flatness=0.1), moments_of(model)
    found = read(
        model,
        split,
        scoring(batch_size=1),
        dynamic=dynamic,
        epsilon=EPSILON,
        second_moments=moments,
    )
    how: dict[str, Any] = {"cutoffs": (), "second_moments": moments}
    assert nats_of(model, split, dynamic, **how) == pytest.approx(found[0], rel=0, abs=1e-9)
    both = nats_of(model, split, dynamic, cache=cache, **how)
    assert both == pytest.approx(cached(found, split, cache), rel=0, abs=1e-9)


def test_segments_are_those_asked_for_even_where_longer_ones_are_faster(split: Split) -> None:
    model = tiny_model(V, cutoffs=CUTOFFS).eval()
    dynamic = Dynamic(rule="sgd", rate=0.05, decay=0.0)
    lengths = {"tgt_len": 2, "mem_len": 12, "same_length": True}
    at = scoring(**lengths, batch_size=1)
    expected, _ = read(model, split, at, cutoffs=CUTOFFS, dynamic=dynamic)
    assert nats_of(model, split, dynamic, **lengths) == pytest.approx(expected, rel=0, abs=1e-9)


def test_weights_that_are_not_finite_end_it(split: Split) -> None:
    model = tiny_model(V, cutoffs=CUTOFFS).eval()
    with pytest.raises(NonFiniteError, match="lower --dynamic-rate"):
        nats_of(model, split, Dynamic(rule="sgd", rate=1e200, decay=0.0))
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_second_moments_are_asked_for_by_name() -> None:
    model = tiny_model(V, cutoffs=CUTOFFS).eval()
    dynamic = Dynamic(rule="rms", rate=1e-4, decay=0.0)
    moments = moments_of(model)
    with pytest.raises(InputError, match="use --dynamic sgd"):
        Learner(model, dynamic, tgt_len=4)
    first = next(iter(moments))
    del moments[first]
    with pytest.raises(InputError, match=f"no second moments of {first}"):
        Learner(model, dynamic, tgt_len=4, second_moments=moments)
    zeros = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with pytest.raises(InputError, match="all 0"):
        Learner(model, dynamic, tgt_len=4, second_moments=zeros)


def test_weights_in_16_bits_learn_in_fp32(tmp_path: Path) -> None:
    model = tiny_model(V).bfloat16().eval()
    learner = Learner(model, Dynamic(rule="sgd", rate=1e-6, decay=0.0), tgt_len=4)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
