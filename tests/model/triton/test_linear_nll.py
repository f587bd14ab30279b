"""A GPU's softmax equals cross entropy over linear logits, and sums rows before it adds them.

On a GPU the kernel is compiled; without one Triton's interpreter runs it.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_device import DEVICE, importing_kernels

from trainer.model.adaptive import Table
from trainer.model.tied_embedding import Handoff, summed_by_id, tied_lookup
from trainer.model.triton.alignment import aligned, aligned_weight
from trainer.protocol import IGNORED

with importing_kernels():
    from trainer.model.triton import linear_nll as module
    from trainer.model.triton.linear_nll import fused_linear_nll

pytestmark = pytest.mark.usefixtures("interpreted")


def problem(
    n_rows: int, width: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, list[Table]]:
    """Return hidden states, targets, and two tables of 21 and 4 words."""
    torch.manual_seed(n_rows)
    hidden_NC, *flat = (
        torch.randn(size, dtype=dtype, device=DEVICE).requires_grad_()
        for size in ((n_rows, width), (21, width), (21,), (4, width), (4,))
    )
    targets_N = torch.randint(25, (n_rows,), device=DEVICE)
    targets_N[1::4] = IGNORED
    return hidden_NC, targets_N, [(flat[0], flat[1]), (flat[2], flat[3])]


def nll(hidden_NC: Tensor, targets_N: Tensor, tables: list[Table]) -> Tensor:
    return fused_linear_nll(hidden_NC, targets_N, tables, handoff=Handoff(is_tied=False), cluster=0)


def plain(hidden_NC: Tensor, targets_N: Tensor, tables: list[Table]) -> Tensor:
    weight, bias = (torch.cat(parts) for parts in zip(*tables, strict=True))
    logits = F.linear(hidden_NC, weight, bias)
    return F.cross_entropy(logits, targets_N, ignore_index=IGNORED, reduction="none")


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("width", [5, 8])
@pytest.mark.parametrize("n_rows", [1, 16, 17])
def test_nats_and_gradients_equal_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, width: int, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK_WEIGHTS", block * width)
    hidden_NC, targets_N, tables = problem(n_rows, width)
    fast_N, plain_N = nll(hidden_NC, targets_N, tables), plain(hidden_NC, targets_N, tables)
    torch.testing.assert_close(fast_N, plain_N)
    with torch.no_grad():
        assert torch.equal(nll(hidden_NC, targets_N, tables), fast_N)
    weights_N = torch.randn(n_rows, dtype=torch.float64, device=DEVICE)
    leaves = [hidden_NC, *(tensor for table in tables for tensor in table)]
    fast = torch.autograd.grad(fast_N @ weights_N, leaves)
    torch.testing.assert_close(fast, torch.autograd.grad(plain_N @ weights_N, leaves))


def test_fp16_keeps_the_tiny_probabilities_of_many_words() -> None:
    n_words = 60_000
    hidden_NC = torch.zeros(4, 8, dtype=torch.float16, device=DEVICE, requires_grad=True)
    weight = torch.zeros(n_words, 8, dtype=torch.float16, device=DEVICE)
    bias = torch.zeros(n_words, dtype=torch.float16, device=DEVICE, requires_grad=True)
    targets_N = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    loss_scale = 2.0**16
    (nll(hidden_NC, targets_N, [(weight, bias)]).mean() * loss_scale).backward()
    assert bias.grad is not None
    wanted = torch.full((n_words - 1,), loss_scale / n_words, device=DEVICE)
    torch.testing.assert_close(bias.grad[1:].float(), wanted, rtol=0.01, atol=0)


@pytest.mark.parametrize(("n_ids", "n_words"), [(0, 5), (1, 5), (300, 5), (300, 400)])
def test_rows_of_one_id_are_summed_in_fp32_before_they_are_added(n_ids: int, n_words: int) -> None:
    torch.manual_seed(0)
    ids_N = torch.randint(5, (n_ids,), device=DEVICE)
    rows_NC = torch.rand(n_ids, 3, device=DEVICE).bfloat16()
    unique_N, sum_NC = summed_by_id(ids_N, rows_NC, n_words=n_words)
    assert sum_NC.shape == rows_NC.shape
    n_different = len(ids_N.unique())
    assert unique_N[:n_different].tolist() == ids_N.unique().tolist()
    assert (sum_NC[n_different:] == 0).all()
    surplus = unique_N[n_different:].bincount(minlength=n_words)
    assert surplus.max() - surplus.min() <= 1, "they are spread over all ids"
    table_VC = torch.zeros(n_words, 3, device=DEVICE).index_add_(0, unique_N, sum_NC)
    wanted_VC = torch.zeros(n_words, 3, device=DEVICE).index_add_(0, ids_N, rows_NC.float())
    torch.testing.assert_close(table_VC, wanted_VC)


def test_an_embedding_without_its_softmax_makes_its_own_gradient() -> None:
    table_VC = torch.randn(4, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    ids_N = torch.tensor([1, 1, 3], device=DEVICE)
    rows = tied_lookup(ids_N, table_VC, Handoff(sums_first=True), 0)
    (grad,) = torch.autograd.grad((rows**2).sum(), table_VC)
    (wanted,) = torch.autograd.grad((F.embedding(ids_N, table_VC) ** 2).sum(), table_VC)
    torch.testing.assert_close(grad, wanted)


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (2, 3)])
def test_aligned_weights_give_the_same_product_in_aligned_rows(n_in: int, n_out: int) -> None:
    weight = torch.randn(5 * n_out, 3 * n_in, requires_grad=True)
    x = torch.randn(4, 3 * n_in)
    wide = F.linear(
        aligned(x.unflatten(-1, (n_in, 3))).flatten(1),
        aligned_weight(weight, n_in=n_in, n_out=n_out),
    ).unflatten(-1, (n_out, 8))
    wanted = F.linear(x, weight).unflatten(-1, (n_out, 5))
    torch.testing.assert_close(wide[..., :5], wanted)
    assert (wide[..., 5:] == 0).all()
    grads = [torch.autograd.grad((y**2).sum(), weight)[0] for y in (wide, wanted)]
    torch.testing.assert_close(*grads)
    fitting = torch.randn(8, 16)
    assert aligned_weight(fitting) is fitting
    assert aligned(fitting) is fitting
