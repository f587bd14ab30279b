"""Gated linear attention in chunks is the recurrence of the paper, however fast memory decays."""

import pytest
import torch
from chunked import B, H, chunks, random_rows, steps
from torch import Tensor

from trainer.model.families.blocks import in_chunks
from trainer.model.families.gla import attend

K, E = 4, 3


def naive(rows: list[Tensor], state: Tensor, *, whole: bool = False) -> tuple[Tensor, Tensor]:
    """Return the outputs and the states, token by token: equation 3 of the paper."""
    output, state = torch.zeros_like(rows[2]), state.clone()
    for b, t, is_new, (q_HK, k_HK, v_HE, decay_HK) in steps(*rows, whole=whole):
        before = torch.zeros_like(state[b]) if is_new else state[b]
        state[b] = decay_HK.exp()[..., None] * before + k_HK[..., None] * v_HE[:, None]
        output[b, :, t] = (q_HK[:, None] @ state[b])[:, 0]
    return output, state


def random_case(decay: float) -> tuple[list[Tensor], Tensor]:
    q, k, v, gate = random_rows(K, K, E, K)
    state = torch.randn(B, H, K, E, generator=torch.Generator().manual_seed(3)).double()
    return [q, k, v, -decay * gate.exp()], state


@pytest.mark.parametrize("size", [1, 3, 4, 16])
@pytest.mark.parametrize("decay", [0.0, 0.1, 300.0])
def test_chunks_are_the_recurrence(size: int, decay: float) -> None:
    rows, state = random_case(decay)
    for whole in (True, False):
        expected, after = naive(rows, state, whole=whole)
        found, left = in_chunks(attend, rows, chunks(size, whole=whole), state)
        is_real = expected != 0
        torch.testing.assert_close(found.where(is_real, 0.0), expected)
        torch.testing.assert_close(left, after)


@pytest.mark.parametrize("decay", [0.1, 300.0])
def test_gradients_are_those_of_the_recurrence(decay: float) -> None:
    rows, state = random_case(decay)
    leaves = [x.requires_grad_() for x in (*rows, state)]
    weights = torch.randn_like(rows[2])
    gradients = []
    for output, after in (
        naive_attached(rows, state),
        in_chunks(attend, rows, chunks(4, whole=True), state),
    ):
        loss = (output * weights).sum() + after.square().sum()
        gradients.append(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(gradients[1], gradients[0])


def naive_attached(rows: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    outputs = []
    for q, k, v, decay in zip(*(row.unbind(2) for row in rows), strict=True):
        state = decay.exp()[..., None] * state + k[..., None] * v[:, :, None]
        outputs.append((q[:, :, None] @ state)[:, :, 0])
    return torch.stack(outputs, dim=2), state


def test_nothing_overflows_in_fp32() -> None:
    rows, state = random_case(3000.0)
    narrow = [x.float().requires_grad_() for x in rows]
    output, after = in_chunks(attend, narrow, chunks(16), state.float())
    for gradient in torch.autograd.grad(output.sum() + after.sum(), narrow):
        assert gradient.isfinite().all()
    torch.testing.assert_close(after.double(), naive(rows, state)[1], rtol=1e-4, atol=1e-5)
