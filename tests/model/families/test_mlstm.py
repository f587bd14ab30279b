"""The mLSTM in chunks is the recurrence of the paper, however large its gates are."""

import pytest
import torch
from chunked import B, H, chunks, random_rows, steps
from torch import Tensor

from trainer.model.families.blocks import in_chunks
from trainer.model.families.mlstm import State, recall

K, E = 4, 3


def naive(rows: list[Tensor], state: State, *, whole: bool = False) -> tuple[Tensor, State]:
    """Return outputs and states, token by token: equations 19 to 27, without a maximum."""
    output = torch.zeros_like(rows[2])
    scale = state.maximum.exp()
    matrix, normaliser = state.matrix * scale[..., None, None], state.normaliser * scale[..., None]
    for b, t, is_new, (q_HK, k_HK, v_HE, input_H, forget_H) in steps(*rows, whole=whole):
        forget_H = torch.zeros_like(forget_H) if is_new else forget_H.exp()
        kept_HK = input_H.exp()[:, None] * k_HK
        matrix[b] = forget_H[:, None, None] * matrix[b] + kept_HK[..., None] * v_HE[:, None]
        normaliser[b] = forget_H[:, None] * normaliser[b] + kept_HK
        by_H = (q_HK * normaliser[b]).sum(-1).abs().clamp_min(1.0)
        output[b, :, t] = (q_HK[:, None] @ matrix[b])[:, 0] / by_H[:, None]
    return output, State(matrix, normaliser, torch.zeros_like(state.maximum))


def random_case(size: float) -> tuple[list[Tensor], State]:
    """Return rows and a state, whose gates have logarithms of about this size."""
    q, k, v, input_BHT1, forget_BHT1 = random_rows(K, K, E, 1, 1)
    matrix, normaliser = random_rows(K * E, K)
    state = State(matrix[:, :, 0].view(B, H, K, E), normaliser[:, :, 0], k[:, :, 0, 0].abs())
    gates = [size * input_BHT1[..., 0], -size * forget_BHT1[..., 0].exp()]
    return [q, k, v, *gates], state


def unscaled(state: State) -> tuple[Tensor, Tensor]:
    scale = state.maximum.exp()
    return state.matrix * scale[..., None, None], state.normaliser * scale[..., None]


@pytest.mark.parametrize("size", [1, 3, 4, 16])
@pytest.mark.parametrize("gates", [0.0, 1.0, 100.0])
def test_chunks_are_the_recurrence(size: int, gates: float) -> None:
    rows, state = random_case(gates)
    for whole in (True, False):
        expected, after = naive(rows, state, whole=whole)
        found, left = in_chunks(recall, rows, chunks(size, whole=whole), state)
        torch.testing.assert_close(found.where(expected != 0, 0.0), expected)
        torch.testing.assert_close(unscaled(left), unscaled(after))


def test_the_maximum_is_that_of_the_recurrence_wherever_the_text_is_cut() -> None:
    """It is max(log f + m, log i), equation 15, but not below 0."""
    rows, state = random_case(1.0)
    maximum = state.maximum.clone()
    for b, _, is_new, (*_, input_H, forget_H) in steps(*rows):
        before_H = torch.zeros_like(maximum[b]) if is_new else maximum[b]
        maximum[b] = torch.maximum(forget_H + before_H, input_H).clamp_min(0)
    for size in (1, 4, 16):
        _, left = in_chunks(recall, rows, chunks(size), state)
        torch.testing.assert_close(left.maximum, maximum)


def test_nothing_overflows_in_fp32() -> None:
    """Gates of exp(±1000) would be infinite, or nothing at all."""
    rows, state = random_case(1000.0)
    narrow = [x.float().requires_grad_() for x in rows]
    state = State(*(part.float() for part in state))
    output, after = in_chunks(recall, narrow, chunks(16), state)
    loss = output.sum() + after.matrix.sum() + after.normaliser.sum()
    for gradient in torch.autograd.grad(loss, narrow):
        assert gradient.isfinite().all()
    assert output.isfinite().all()
    assert after.maximum.abs().max() > 100
