"""Transformer-XL as a whole: what it equals, what it cannot see, and what it is made of."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from builders import CPU, empty, segment_of, tiny_model
from reference import NaiveStream
from torch import Tensor

from trainer.model import attention, feed_forward, transformer_xl
from trainer.model.dropout import dropout, relu_dropout
from trainer.model.memory.inputs import LayerInputs
from trainer.model.transformer_xl import TransformerXL

V = 20
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "pre-norm": {"norm": "pre"},
    "biases per layer": {"position_biases": "per_layer"},
    "adaptive": {"cutoffs": (5, 12), "div_val": 2},
    "pre-norm, biases per layer, untied": {
        "norm": "pre",
        "position_biases": "per_layer",
        "cutoffs": (5, 12),
        "tie_embedding": False,
        "tie_projections": "none",
        "d_embed": 6,
    },
    "tables": {"token_tables": 1, "pair_rows": 11},
    "tables, pre-norm, adaptive": {
        "token_tables": 1,
        "pair_rows": 300,
        "norm": "pre",
        "cutoffs": (5, 12),
    },
}
LENGTHS: dict[str, dict[str, Any]] = {
    "no memory": {"mem_len": 0},
    "memory shorter than a segment": {"mem_len": 2},
    "memory longer than a segment": {"mem_len": 7},
    "clamped": {"mem_len": 7, "clamp_len": 3},
    "same length": {"mem_len": 7, "same_length": True},
    "same length, memory shorter than a segment, clamped": {
        "mem_len": 2,
        "same_length": True,
        "clamp_len": 1,
    },
}
# Three segments of two streams: the second is shorter, ends early and has documents inside.
TGT_LEN = 4
ROW_LENGTHS = [[4, 4], [4, 3], [4, 0]]
ROW_STARTS = [[set(), {0}], [{2}, {1}], [{0, 3}, set()]]


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_equals_the_papers_formulas_word_by_word(
    variant: str, lengths: str, documents: bool
) -> None:
    options = {"clamp_len": None, "same_length": False, **LENGTHS[lengths]}
    model = tiny_model(V, **VARIANTS[variant])
    torch.manual_seed(1)
    tokens_BN = torch.randint(V, (2, 3 * TGT_LEN))
    naive_rows = [NaiveStream(model, **options) for _ in range(2)]
    mem_len = options.pop("mem_len")
    memory = empty(model, 2, mem_len)
    ours_sum, naive_sum = torch.zeros(2, dtype=torch.float64)
    for index, tokens_BT in enumerate(tokens_BN.chunk(3, dim=1)):
        starts = ROW_STARTS[index] if documents else [set(), set()]
        segment = segment_of(
            tokens_BT,
            lengths=ROW_LENGTHS[index],
            cutoffs=model.config.cutoffs,
            starts_BT=running_starts(starts) if documents else None,
        )
        output = model(segment, memory, **options)
        memory = output.memory
        ours_sum = ours_sum + output.loss_sum
        naive_BT = torch.zeros(2, TGT_LEN, dtype=torch.float64)
        for b in range(2):
            words = tokens_BT[b, : ROW_LENGTHS[index][b]].tolist()
            for i, log_probs in enumerate(naive_rows[b].read(words, starts[b])):
                nll = -log_probs[segment.targets_BT[b, i]]
                naive_BT[b, i] = nll.detach()
                naive_sum = naive_sum + nll
        torch.testing.assert_close(output.nll_BT, naive_BT, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours_sum, naive_sum, rtol=1e-9, atol=1e-9)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(ours_sum, parameters)
    naive = torch.autograd.grad(naive_sum, parameters)
    names = [name for name, _ in model.named_parameters()]
    torch.testing.assert_close(
        dict(zip(names, ours, strict=True)),
        dict(zip(names, naive, strict=True)),
        rtol=1e-9,
        atol=1e-9,
    )


def running_starts(rows: list[set[int]]) -> Tensor:
    """Start of each token's document in the segment, -1 where it began before."""
    return torch.tensor(
        [[max({-1, *(s for s in row if s <= i)}) for i in range(4)] for row in rows]
    )


def nll_in_segments(
    model: TransformerXL, tokens_BN: Tensor, borders: list[int], mem_len: int, **options: Any
) -> Tensor:
    """Return nats per token of a text read in segments with these borders."""
    targets_BN = tokens_BN.roll(-1, dims=1)
    memory = empty(model, len(tokens_BN), mem_len)
    parts = []
    for low, high in pairwise(borders):
        segment = segment_of(
            tokens_BN[:, low:high], targets_BN[:, low:high], cutoffs=model.config.cutoffs
        )
        with torch.no_grad():
            output = model(segment, memory, **options)
        assert output.nll_BT is not None
        memory = output.memory
        parts.append(output.nll_BT)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("borders", [[0, 4, 8, 12], [0, 1, 2, 9, 12], [0, 12]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_segments_with_memory_equal_one_long_pass(
    variant: str, dtype: torch.dtype, borders: list[int]
) -> None:
    model = tiny_model(V, **VARIANTS[variant]).to(dtype)
    torch.manual_seed(2)
    tokens_BN = torch.randint(V, (3, 12))
    long = nll_in_segments(model, tokens_BN, [0, 12], mem_len=0)
    for mem_len in (12, 20):
        cut = nll_in_segments(model, tokens_BN, borders, mem_len)
        torch.testing.assert_close(cut, long, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_under_same_length_segments_of_any_length_give_the_same_loss(variant: str) -> None:
    model = tiny_model(V, **VARIANTS[variant])
    torch.manual_seed(2)
    tokens_BN = torch.randint(V, (2, 24))
    by_tgt_len = [
        nll_in_segments(model, tokens_BN, list(range(0, 25, t)), 5, same_length=True, clamp_len=3)
        for t in (1, 3, 8, 24)
    ]
    for nll_BN in by_tgt_len[1:]:
        torch.testing.assert_close(nll_BN, by_tgt_len[0], rtol=0, atol=1e-5)


def test_memory_changes_the_loss() -> None:
    model = tiny_model(V)
    tokens_BN = torch.arange(12)[None] % V
    far = nll_in_segments(model, tokens_BN, [0, 4, 8, 12], mem_len=8)
    near = nll_in_segments(model, tokens_BN, [0, 4, 8, 12], mem_len=0)
    torch.testing.assert_close(far[:, :4], near[:, :4])
    assert (far[:, 4:] - near[:, 4:]).abs().max() > 1e-3


def test_no_gradient_crosses_a_segment_border() -> None:
    model = tiny_model(V, tie_embedding=False)
    first, second = segment_of(torch.tensor([[3, 4, 5]])), segment_of(torch.tensor([[7, 8, 9]]))
    memory = model(first, empty(model, 1, 6)).memory
    assert not any(layer.requires_grad for layer in memory.layers)
    model(second, memory).loss_sum.backward()
    table = model.embedding.tables[0]
    assert table.grad is not None
    assert table.grad.abs().sum(1).nonzero()[:, 0].tolist() == [7, 8, 9]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_future_token_changes_no_earlier_probability(variant: str) -> None:
    model = tiny_model(V, **VARIANTS[variant])
    tokens_BT = torch.randint(V, (1, 8))
    _, memory = model.predict(
        segment_of(tokens_BT, cutoffs=model.config.cutoffs), empty(model, 1, 5)
    )
    for changed in range(8):
        other_BT = tokens_BT.clone()
        other_BT[0, changed] = (other_BT[0, changed] + 1) % V
        one, other = (
            model.predict(segment_of(t, cutoffs=model.config.cutoffs), memory)[0]
            for t in (tokens_BT, other_BT)
        )
        torch.testing.assert_close(one[:, :changed], other[:, :changed], rtol=0, atol=1e-6)
        assert (one[:, changed] - other[:, changed]).abs().max() > 1e-4


def test_streams_do_not_see_each_other() -> None:
    model = tiny_model(V)
    tokens_BN = torch.randint(V, (3, 12))
    together = nll_in_segments(model, tokens_BN, [0, 4, 8, 12], mem_len=6)
    alone = [nll_in_segments(model, row[None], [0, 4, 8, 12], mem_len=6) for row in tokens_BN]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def test_what_is_not_valid_in_memory_does_not_matter() -> None:
    model = tiny_model(V)
    segment = segment_of(torch.randint(V, (1, 4)))
    zero = empty(model, 1, 5)
    full_of_noise = tuple(map(torch.randn_like, zero.layers))
    noise = LayerInputs(full_of_noise, torch.tensor([2]), 2)
    partly_zero = noise._replace(layers=tuple(x.clone() for x in full_of_noise))
    for layer in partly_zero.layers:
        layer[:, :3] = 0
    assert model(segment, noise).loss_sum == model(segment, partly_zero).loss_sum
    assert model(segment, noise).loss_sum != model(segment, zero).loss_sum
    empty_noise = LayerInputs(full_of_noise, torch.tensor([0]), 0)
    assert model(segment, empty_noise).loss_sum == model(segment, zero).loss_sum


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_activation_checkpointing_changes_no_loss_and_no_gradient(
    variant: str, dropout: float
) -> None:
    results = []
    for checkpointing in (False, True):
        model = tiny_model(
            V,
            **VARIANTS[variant],
            dropout=dropout,
            attn_dropout=dropout,
            activation_checkpointing=checkpointing,
        )
        segment = segment_of(torch.arange(10).view(2, 5), cutoffs=model.config.cutoffs)
        memory = model(segment, empty(model, 2, 6)).memory
        torch.manual_seed(3)
        loss = model(segment, memory).loss_sum
        results.append((loss, torch.autograd.grad(loss, list(model.parameters()))))
    (plain, plain_grads), (recomputed, grads) = results
    assert plain == recomputed
    assert all(map(torch.equal, plain_grads, grads))


def test_dropout_follows_the_seed_and_only_in_training() -> None:
    model = tiny_model(V, dropout=0.3, attn_dropout=0.3)
    segment, memory = segment_of(torch.arange(8).view(2, 4)), empty(model, 2, 3)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model(segment, memory).loss_sum.detach())

    assert loss(1) == loss(1) != loss(2)
    model.eval()
    assert loss(1) == loss(2) == float(tiny_model(V)(segment, memory).loss_sum.detach())


@pytest.fixture
def dropouts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], float]]:
    """Return a list that gets the shape and probability of everything that is dropped out."""
    seen: list[tuple[tuple[int, ...], float]] = []

    def noting(drop: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def note(x: Tensor, probability: float, *, training: bool = True) -> Tensor:
            if training and probability > 0:
                seen.append((tuple(x.shape), probability))
            return drop(x, probability, training=training)

        return note

    monkeypatch.setattr(attention, "drop", noting(dropout))
    monkeypatch.setattr(transformer_xl, "dropout", noting(dropout))
    monkeypatch.setattr(feed_forward, "dropout", noting(dropout))
    monkeypatch.setattr(feed_forward, "relu_dropout", noting(relu_dropout))
    return seen


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_dropout_is_where_the_paper_has_it(
    norm: str, dropouts: list[tuple[tuple[int, ...], float]]
) -> None:
    n_streams, tgt_len, mem_len, d_model, n_head, d_inner = 3, 4, 6, 8, 2, 12
    model = tiny_model(V, norm=norm, dropout=0.25, attn_dropout=0.5, kernels="plain")
    segment, memory = segment_of(torch.randint(V, (n_streams, tgt_len))), empty(model, 3, mem_len)
    model(segment, memory)
    n_keys, stream = mem_len + tgt_len, (n_streams, tgt_len, d_model)
    layer = [
        ((n_streams, n_head, tgt_len, n_keys), 0.5),
        (stream, 0.25),
        ((n_streams, tgt_len, d_inner), 0.25),
        (stream, 0.25),
    ]
    assert dropouts == [
        (stream, 0.25),
        ((n_keys, d_model), 0.25),
        *layer,
        *layer,
        (stream, 0.25),
    ]
    model.eval()
    dropouts.clear()
    model(segment, memory)
    assert dropouts == []


def test_memory_has_one_shape_and_the_compute_dtype() -> None:
    model = tiny_model(V).float()
    memory = model.empty_memory(2, mem_len=6, dtype=torch.bfloat16, device=CPU)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            memory = model(segment_of(torch.arange(8).view(2, 4)), memory).memory
            assert {layer.shape for layer in memory.layers} == {(2, 6, 8)}
            assert {layer.dtype for layer in memory.layers} == {torch.bfloat16}
