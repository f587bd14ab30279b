"""Relative attention equals the paper's formula, taken query by query and key by key."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import segment_of
from reference import attend, sinusoid
from torch import Tensor

from trainer.model.attention import position_embedding, rel_shift, relative_attention
from trainer.model.cpu import attention as cpu
from trainer.model.cpu.attention import cpu_attention
from trainer.model.memory.inputs import LayerInputs
from trainer.model.memory.sight import hidden_keys

B, T, H, E = 2, 4, 3, 5
NO_START = -1


def memory_with(valid: list[int], mem_len: int) -> LayerInputs:
    return LayerInputs((torch.zeros(B, mem_len, 1),), torch.tensor(valid), min(valid))


def sees(query: int, key: int, *, mem_len: int, valid: int, start: int, same_length: bool) -> bool:
    """Return whether a query of the segment may look at a key of memory and segment."""
    in_memory = key < mem_len
    if same_length and query + mem_len - key >= mem_len:
        return False
    if start != NO_START:
        return not in_memory and start <= key - mem_len <= query
    return key >= mem_len - valid if in_memory else key - mem_len <= query


STARTS = {
    "no document starts": None,
    "documents start inside": [[NO_START, 1, 1, 3], [NO_START, NO_START, NO_START, NO_START]],
    "documents start at the border": [[0, 0, 0, 0], [0, 0, 2, 2]],
}
VALID = {"empty": [0, 0], "part, by row": [1, 3], "one row full": [2, 5], "full": [5, 5]}
# Without memory nothing is valid in it, and same_length is refused.
MEMORIES = [(0, "empty", False), *itertools.product([5], VALID, [False, True])]


@pytest.mark.parametrize("attention", [relative_attention, cpu_attention])
@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize(("mem_len", "valid", "same_length"), MEMORIES)
def test_attention_equals_a_loop_over_queries_and_keys(
    mem_len: int, starts: str, valid: str, same_length: bool, attention: Callable[..., Tensor]
) -> None:
    torch.manual_seed(0)
    starts_BT = None if STARTS[starts] is None else torch.tensor(STARTS[starts])
    memory = memory_with(VALID[valid], mem_len)
    segment = segment_of(torch.zeros(B, T, dtype=torch.int64), starts_BT=starts_BT)
    n_keys = mem_len + T
    shapes = [(B, T, H, E), (B, n_keys, 2, H, E), (n_keys, H, E), (H, E), (H, E)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    q, kv, r, content, position = inputs
    k, v = kv.unbind(2)
    ours_BTHE = attention(
        q,
        kv,
        r,
        content_bias_HE=content,
        position_bias_HE=position,
        dropout=0.0,
        hidden_keys=hidden_keys(memory, segment, same_length=same_length),
    )
    rows = []
    for b, i, h in itertools.product(range(B), range(T), range(H)):
        start = NO_START if starts_BT is None else int(starts_BT[b, i])
        visible = [
            (k[b, j, h], r[n_keys - 1 - (i + mem_len - j), h], v[b, j, h])
            for j in range(n_keys)
            if sees(
                i, j, mem_len=mem_len, valid=VALID[valid][b], start=start, same_length=same_length
            )
        ]
        rows.append(attend(q[b, i, h], visible, content[h], position[h]))
    naive_BTHE = torch.stack(rows).view(B, T, H, E)
    torch.testing.assert_close(ours_BTHE, naive_BTHE, rtol=1e-10, atol=1e-10)
    upstream = torch.randn_like(naive_BTHE)
    for ours, naive in zip(
        gradients(ours_BTHE, upstream, inputs), gradients(naive_BTHE, upstream, inputs), strict=True
    ):
        torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("starts", [None, [[NO_START] * 20 + [13] * 20, [0] * 33 + [33] * 7]])
@pytest.mark.parametrize("valid", [[0, 0], [1, 50], [50, 50]])
@pytest.mark.parametrize("same_length", [False, True])
def test_reading_a_few_queries_at_a_time_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, same_length: bool, valid: list[int], starts: Any
) -> None:
    monkeypatch.setattr(cpu, "_QUERIES", 16)
    torch.manual_seed(0)
    mem_len, tgt_len = 50, 40
    shapes = [(B, tgt_len, H, E), (B, mem_len + tgt_len, 2, H, E), (mem_len + tgt_len, H, E)]
    q, kv, r = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    content, position = torch.randn(2, H, E, dtype=torch.float64)
    segment = segment_of(
        torch.zeros(B, tgt_len, dtype=torch.int64),
        starts_BT=None if starts is None else torch.tensor(starts),
    )
    hidden = hidden_keys(memory_with(valid, mem_len), segment, same_length=same_length)
    sizes: list[int] = []
    weights, found = cpu._weights, []

    def spy(*args: Any) -> Tensor:
        sizes.append(args[2].shape[1])
        return weights(*args)

    monkeypatch.setattr(cpu, "_weights", spy)
    heads_first = kv.permute(2, 3, 0, 1, 4).contiguous().permute(2, 3, 0, 1, 4)
    for is_read, given in ((False, kv), (True, kv), (True, heads_first)):
        with torch.set_grad_enabled(not is_read):
            mixed_BTHE = cpu_attention(
                q,
                given,
                r,
                content_bias_HE=content,
                position_bias_HE=position,
                dropout=0.0,
                hidden_keys=hidden,
            )
        found.append(mixed_BTHE)
    for one in found[1:]:
        torch.testing.assert_close(one, found[0], rtol=1e-12, atol=1e-12)
    assert sizes[0] == mem_len + tgt_len
    assert sizes[1:4] == sizes[4:]
    assert len(sizes) == 7
    assert all(n_keys <= mem_len + 32 for n_keys in sizes[1:3] + same_length * sizes[3:4])


def gradients(output: Tensor, upstream: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    grads = torch.autograd.grad(output, inputs, upstream, allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in grads]


@pytest.mark.parametrize("mem_len", [1, 3, 8])
def test_under_same_length_every_query_sees_mem_len_keys_itself_included(mem_len: int) -> None:
    segment = segment_of(torch.zeros(B, T, dtype=torch.int64))
    hidden = hidden_keys(memory_with([mem_len] * B, mem_len), segment, same_length=True)
    assert hidden.shape == (T, mem_len + T)
    assert ((~hidden).sum(-1) == mem_len).all()
    assert all(not hidden[i, mem_len + i] for i in range(T))


def test_a_mask_of_whole_memories_without_document_starts_is_of_the_segment_alone() -> None:
    segment = segment_of(torch.zeros(B, T, dtype=torch.int64))
    hidden = hidden_keys(memory_with([3, 3], 3), segment, same_length=False)
    assert torch.equal(hidden, torch.ones(T, T).triu(1).bool())


def test_rel_shift_moves_every_distance_to_its_key() -> None:
    n_keys = 7
    distance = torch.arange(n_keys - 1, -1, -1).expand(1, 1, T, n_keys)
    shifted = rel_shift(distance.contiguous())
    for i, j in itertools.product(range(T), range(n_keys)):
        query_at = n_keys - T + i
        if j <= query_at:
            assert shifted[0, 0, i, j] == query_at - j


@pytest.mark.parametrize("clamp_len", [None, 5, 1000])
def test_positions_are_sinusoids_of_the_distance(clamp_len: int | None) -> None:
    n_keys, d_model = 60, 8
    ours = position_embedding(n_keys, d_model, clamp_len=clamp_len, like=torch.zeros(1))
    assert ours.dtype == torch.float32
    for row, distance in enumerate(range(n_keys - 1, -1, -1)):
        expected = sinusoid(min(distance, clamp_len or distance), d_model).float()
        torch.testing.assert_close(ours[row], expected, rtol=0, atol=1e-5)


def test_far_positions_differ_from_their_neighbours() -> None:
    far = position_embedding(4001, 410, clamp_len=None, like=torch.zeros(1))[:2]
    assert (far[0] - far[1]).abs().max() > 0.5


@pytest.mark.parametrize("attention", [relative_attention, cpu_attention])
def test_attention_weights_are_dropped_by_the_given_probability(
    attention: Callable[..., Tensor],
) -> None:
    torch.manual_seed(0)
    q, k, r = torch.randn(1, 64, 1, 4), torch.randn(1, 64, 1, 4), torch.randn(64, 1, 4)
    v = torch.ones(1, 64, 1, 4)  # the output is then the sum of what is left of the weights
    zero = torch.zeros(1, 4)
    hidden = torch.ones(64, 64).triu(1).bool()
    left = attention(
        q,
        torch.stack([k, v], dim=2),
        r,
        content_bias_HE=zero,
        position_bias_HE=zero,
        hidden_keys=hidden,
        dropout=0.25,
    )
    assert float(left[0, 0, 0, 0]) in (0.0, pytest.approx(4 / 3))  # the first query has one key
    assert left.mean() == pytest.approx(1, abs=0.1)
    assert left.std() > 0.05


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("mem_len", [0, 3])
@pytest.mark.parametrize("tgt_len", [1, 6])
def test_both_implementations_drop_the_same_and_agree_also_in_gradients(
    tgt_len: int, mem_len: int, dropout: float
) -> None:
    # One head and one stream: the order of heads and streams decides who gets which draw.
    n_keys = mem_len + tgt_len
    shapes = [(1, tgt_len, 1, 5), (1, n_keys, 2, 1, 5), (n_keys, 1, 5), (1, 5), (1, 5)]
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    q, kv, r, content, position = inputs
    upstream = torch.randn(shapes[0], dtype=torch.float64)
    found = []
    for attention in (relative_attention, cpu_attention):
        torch.manual_seed(1)
        mixed = attention(
            q,
            kv,
            r,
            content_bias_HE=content,
            position_bias_HE=position,
            dropout=dropout,
            hidden_keys=torch.ones(tgt_len, tgt_len).triu(1).bool(),
        )
        found.append([mixed, *gradients(mixed, upstream, inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
