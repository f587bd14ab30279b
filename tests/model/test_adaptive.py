"""The adaptive embedding and softmax are the full ones, cut into clusters and computed in parts."""

from typing import Any

import pytest
import torch
from builders import tiny_model_config
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import embed, log_probabilities
from torch import Tensor

from trainer.config.recipe import ModelConfig
from trainer.data.rows import clusters_of
from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax, cluster_bounds
from trainer.protocol import IGNORED

V = 23
SHAPES: dict[str, dict[str, Any]] = {
    "full": {},
    "full, narrow embedding": {"d_embed": 5},
    "clusters": {"cutoffs": (4, 11)},
    "clusters, narrow embedding": {"cutoffs": (4, 11), "d_embed": 5},
    "clusters of one word": {"cutoffs": (1, 2, V - 1)},
    "halved": {"cutoffs": (4, 11), "div_val": 2},
    "quartered": {"cutoffs": (6,), "div_val": 4},
    "halved, narrow embedding": {"cutoffs": (4, 11), "div_val": 2, "d_embed": 4},
}
TIES: dict[str, dict[str, Any]] = {
    "tied, projections of tails": {},
    "tied, all projections": {"tie_projections": "all"},
    "tied, no projection": {"tie_projections": "none"},
    "untied": {"tie_embedding": False, "tie_projections": "none"},
}


def build(config: ModelConfig, seed: int = 0) -> tuple[AdaptiveEmbedding, AdaptiveSoftmax]:
    torch.manual_seed(seed)
    embedding = AdaptiveEmbedding(config, V).double()
    softmax = AdaptiveSoftmax(config, embedding).double()
    for parameter in {*embedding.parameters(), *softmax.parameters()}:
        torch.nn.init.normal_(parameter)
    return embedding, softmax


def nll(
    softmax: AdaptiveSoftmax, hidden_ND: Tensor, targets_N: Tensor, config: ModelConfig
) -> Tensor:
    nll_N: Tensor = softmax(hidden_ND, targets_N, clusters_of(targets_N.numpy(), config.cutoffs))
    return nll_N


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", TIES)
def test_nll_and_its_gradients_equal_a_full_softmax(shape: str, ties: str) -> None:
    config = tiny_model_config(**SHAPES[shape], **TIES[ties])
    embedding, softmax = build(config)
    targets_N = torch.tensor([*range(V), IGNORED, 0, IGNORED])
    hidden_ND = torch.randn(len(targets_N), config.d_model, dtype=torch.float64, requires_grad=True)
    wanted = [hidden_ND, *{*embedding.parameters(), *softmax.parameters()}]
    ours_N = nll(softmax, hidden_ND, targets_N, config)
    naive_N = torch.stack(
        [
            0 * hidden.sum() if target == IGNORED else -log_probabilities(softmax, hidden)[target]
            for hidden, target in zip(hidden_ND, targets_N, strict=True)
        ]
    )
    torch.testing.assert_close(ours_N, naive_N, rtol=1e-9, atol=1e-9)
    ours = torch.autograd.grad(ours_N.sum(), wanted, allow_unused=True)
    naive = torch.autograd.grad(naive_N.sum(), wanted, allow_unused=True)
    for one, other in zip(ours, naive, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ties", TIES)
def test_log_probabilities_sum_to_one_and_agree_with_nll(shape: str, ties: str) -> None:
    config = tiny_model_config(**SHAPES[shape], **TIES[ties])
    _, softmax = build(config)
    hidden_ND = torch.randn(3, config.d_model, dtype=torch.float64)
    log_probs_NV = softmax(hidden_ND, None, ())
    assert log_probs_NV.shape == (3, V)
    torch.testing.assert_close(log_probs_NV.exp().sum(1), torch.ones(3, dtype=torch.float64))
    for target in range(V):
        told_N = nll(softmax, hidden_ND, torch.full((3,), target), config)
        torch.testing.assert_close(-log_probs_NV[:, target], told_N)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_embedding_is_its_row_projected_times_sqrt_d_model(shape: str) -> None:
    config = tiny_model_config(**SHAPES[shape])
    embedding, _ = build(config)
    tokens_BT = torch.stack([torch.arange(V), torch.arange(V - 1, -1, -1)])
    ours_BTD = embedding(tokens_BT, clusters_of(tokens_BT.numpy(), config.cutoffs))
    naive = [embed(embedding, int(word)) for word in tokens_BT.flatten()]
    torch.testing.assert_close(ours_BTD, torch.stack(naive).view(2, V, config.d_model))


def test_a_cluster_without_targets_still_touches_its_parameters() -> None:
    config = tiny_model_config(cutoffs=(4, 11), div_val=2)
    embedding, softmax = build(config)
    hidden_ND = torch.randn(5, config.d_model, dtype=torch.float64)
    nll_N = nll(softmax, hidden_ND, torch.tensor([0, 1, 2, 3, IGNORED]), config)
    parameters = list(softmax.parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(nll_N.sum(), parameters), strict=True))
    assert not any(gradients[table].any() for table in list(embedding.tables)[1:])


@given(st.lists(st.integers(0, V - 1), max_size=30), st.sets(st.integers(1, V - 1), max_size=4))
@settings(deadline=None, max_examples=50)
def test_every_id_is_listed_once_in_its_cluster(ids: list[int], cut: set[int]) -> None:
    cutoffs = tuple(sorted(cut))
    ids_N = torch.tensor(ids, dtype=torch.int64)
    lists = clusters_of(ids_N.numpy(), cutoffs)
    if not cutoffs:
        assert lists == ()  # no one needs them
        return
    assert sorted(torch.cat(lists).tolist()) == list(range(len(ids)))
    for rows, (low, high) in zip(lists, cluster_bounds(cutoffs, V), strict=True):
        assert all(low <= ids[row] < high for row in rows)


def test_ignored_targets_are_in_no_cluster() -> None:
    lists = clusters_of(torch.tensor([IGNORED, 5, IGNORED, 0]).numpy(), (3,))
    assert [rows.tolist() for rows in lists] == [[3], [1]]


@pytest.mark.parametrize(
    ("ties", "shared"),
    [("none", 0), ("tails", 2), ("all", 3)],
)
def test_projections_are_shared_as_asked(ties: str, shared: int) -> None:
    config = tiny_model_config(cutoffs=(4, 11), div_val=2, tie_projections=ties)
    embedding, softmax = build(config)
    both = {id(p) for p in embedding.projections} & {id(p) for p in softmax.projections}
    assert len(both) == shared
    assert len(softmax.projections) == 3
