"""The kernel of both queries of an attention equals plain PyTorch in fp64.

On a GPU it is compiled; without one Triton's interpreter runs it.
"""

import pytest
import torch
from triton_device import DEVICE, importing_kernels

with importing_kernels():
    from trainer.model.triton.rows.queries import biased_queries

pytestmark = pytest.mark.usefixtures("interpreted")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3, 2, 8), (1, 1, 3, 5), (3, 7, 10, 48), (2, 20, 1, 16)])
def test_biased_queries_and_their_gradients(
    shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    n_streams, tgt_len, n_head, d_head = shape
    torch.manual_seed(0)
    q_BTX = torch.randn(n_streams, tgt_len, n_head * d_head, dtype=dtype, device=DEVICE)
    biases = torch.randn(2, n_head, d_head, device=DEVICE).to(dtype).float().unbind()
    leaves = [x.requires_grad_() for x in (q_BTX, *(bias.detach() for bias in biases))]
    made = biased_queries(leaves[0], leaves[1], leaves[2], scale=0.3)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    q_BTHE = exact[0].view(shape)
    wanted = [(q_BTHE + bias_HE) * 0.3 for bias_HE in exact[1:]]
    wanted[1] = wanted[1].flatten(0, 1).transpose(0, 1)
    grads = [torch.randn(x.shape, device=DEVICE).to(dtype) for x in made]
    got = torch.autograd.grad(made, leaves, grads)
    expected = torch.autograd.grad(wanted, exact, [grad.double() for grad in grads])
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for x, y in zip((*made, *got), (*wanted, *expected), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance)
