"""The softmax in place equals cross entropy, whatever the logits.

On a GPU the kernel is compiled; without one Triton's interpreter runs it.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_device import DEVICE, importing_kernels

from trainer.protocol import IGNORED

with importing_kernels():
    from trainer.model.triton.rows.softmax import softmax_error_

pytestmark = pytest.mark.usefixtures("interpreted")


def logits_and_targets(
    n_rows: int, n_words: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits in 7 columns more than there are words, the memory around them, and targets."""
    torch.manual_seed(n_rows)
    around = 3 * torch.randn(n_rows, n_words + 11, dtype=dtype, device=DEVICE)
    targets_N = torch.randint(n_words, (n_rows,), device=DEVICE)
    targets_N[1::4] = IGNORED
    return around[:, 2 : n_words + 9], around, targets_N


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("n_rows", "n_words"), [(0, 3), (1, 3), (33, 100), (7, 5000), (2, 8192)])
def test_nats_and_error_equal_cross_entropy(n_rows: int, n_words: int, dtype: torch.dtype) -> None:
    logits_NV, around, targets_N = logits_and_targets(n_rows, n_words, dtype)
    before, wide = around.clone(), torch.promote_types(dtype, torch.float32)
    exact = logits_NV[:, :n_words].to(wide).requires_grad_()
    wanted_N = F.cross_entropy(exact, targets_N, ignore_index=IGNORED, reduction="none")
    (error,) = torch.autograd.grad(wanted_N.sum(), exact)

    nll_N = softmax_error_(logits_NV, targets_N, n_words=n_words, keep=False)
    assert torch.equal(around, before)
    torch.testing.assert_close(nll_N, wanted_N, rtol=1e-5, atol=1e-5)
    assert torch.equal(softmax_error_(logits_NV, targets_N, n_words=n_words, scale=8.0), nll_N)
    torch.testing.assert_close(logits_NV[:, :n_words], (8 * error).to(dtype))
    assert (logits_NV[:, n_words:] == 0).all()
    assert (logits_NV[targets_N == IGNORED] == 0).all()
    assert torch.equal(around[:, :2], before[:, :2])
    assert torch.equal(around[:, -2:], before[:, -2:])


def test_nats_of_ignored_rows_are_zero_whatever_their_logits() -> None:
    logits_NV = torch.full((2, 5), torch.nan, device=DEVICE)
    targets_N = torch.full((2,), IGNORED, device=DEVICE)
    assert softmax_error_(logits_NV, targets_N, n_words=5).tolist() == [0, 0]
    assert (logits_NV == 0).all()


def test_large_logits_neither_overflow_nor_lose_small_nats() -> None:
    logits_NV = torch.full((3, 5000), -1e4, device=DEVICE)
    logits_NV[0, 4500] = 1e4
    logits_NV[1, 3], logits_NV[1, 4999] = 1e4, 1e4 - 1
    logits_NV[2] = -torch.inf
    logits_NV[2, 4999] = -1e4
    targets_N = torch.tensor([0, 3, 4999], device=DEVICE)
    exact_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
    nll_N = softmax_error_(logits_NV, targets_N, n_words=5000)
    torch.testing.assert_close(nll_N, exact_N)
    assert nll_N[[0, 2]].tolist() == [2e4, 0]
    assert logits_NV.isfinite().all()
    assert logits_NV[0, [0, 1, 4500]].tolist() == [-1, 0, 1]


def test_not_a_number_is_not_hidden() -> None:
    x = torch.tensor([[float("nan"), 0, 0, 0]], device=DEVICE)
    assert softmax_error_(x, torch.tensor([1], device=DEVICE), n_words=3).isnan().all()
