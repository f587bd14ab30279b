"""Problems of fused attention, what solves them, and plain solutions to compare with.

B streams · T tgt_len · M mem_len · S = M+T · H heads · E d_head.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.model.attention import rel_shift, relative_attention

Fused = Callable[..., list[Tensor]]


def fused(
    *inputs: Tensor,
    d_out_BTHE: Tensor | None,
    cut: tuple[int, int] | None = (16, 16),
    visible_from_BT: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    recompute: bool = False,
    autocast: bool = False,
    tf32: bool = False,
) -> list[Tensor]:
    """Return the output and, given its own, the gradients; what is not written is NaN."""
    from trainer.model.triton.attention import Blocks, Cut, fused_attention

    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    device = inputs[0].device
    leaves = [x.detach().requires_grad_() for x in inputs]

    def attend(*leaves: Tensor) -> Tensor:
        query_BTHE, kv_BS2HE, position_BHTS = leaves
        return fused_attention(
            query_BTHE,
            *kv_BS2HE.split([kv_BS2HE.shape[1] - query_BTHE.shape[1], query_BTHE.shape[1]], 1),
            position_BHTS,
            dropout=dropout,
            visible_from_BT=visible_from_BT,
            seed=None if seed is None else torch.tensor([seed], device=device),
            cut=cut and Cut(*[Blocks(*cut, num_warps=4, num_stages=1)] * 3),
        )

    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            out = checkpoint(attend, *leaves, use_reentrant=False) if recompute else attend(*leaves)
        grads = () if d_out_BTHE is None else torch.autograd.grad(out, leaves, d_out_BTHE)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")
    return [out.detach(), *grads]


def multiply_in_tf32(*, asked: bool) -> set[bool]:
    """Return whether kernels for fp32 multiply in TF32, in a process that compiles."""
    from triton.runtime import JITFunction
    from triton_processes import compile_launch

    kernels = []

    def compiled(*args: Any, **keywords: Any) -> None:
        kernels.extend(compile_launch(*args, **keywords))

    problem = Problem(Sizes(B=1, T=16, M=16, H=2, E=64), torch.float32)
    inputs = [x.detach() for x in problem.parts]
    with mock.patch.object(JITFunction, "run", compiled):
        fused(*inputs, d_out_BTHE=problem.d_out_BTHE, cut=None, tf32=asked)
    return {kernel.in_tf32 for kernel in kernels}


class Sizes(NamedTuple):
    B: int
    T: int
    M: int
    H: int
    E: int


class Problem:
    """Leaves of plain attention, and what fused attention takes that is made of them."""

    def __init__(self, sizes: Sizes, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(sum(sizes))
        B, T, M, H, E = sizes
        shapes = [(B, T, H, E), (B, M + T, 2, H, E), (M + T, H, E), (H, E), (H, E)]
        self.leaves = [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]
        q_BTHE, self.kv_BS2HE, r_SHE, u_HE, v_HE = self.leaves
        self.query_BTHE = (q_BTHE + u_HE) / E**0.5
        position_BTHE = (q_BTHE + v_HE) / E**0.5
        self.position_BHTS = torch.einsum("bthe,she->bhts", position_BTHE, r_SHE)
        self.d_out_BTHE = torch.randn(q_BTHE.shape, dtype=dtype)

    @property
    def parts(self) -> list[Tensor]:
        return [self.query_BTHE, self.kv_BS2HE, self.position_BHTS]

    def plain(self, hidden_keys: Tensor) -> list[Tensor]:
        """Return `relative_attention` and its gradients by the leaves."""
        q_BTHE, kv_BS2HE, r_SHE, u_HE, v_HE = self.leaves
        out_BTHE = relative_attention(
            q_BTHE,
            kv_BS2HE,
            r_SHE,
            content_bias_HE=u_HE,
            position_bias_HE=v_HE,
            hidden_keys=hidden_keys,
            dropout=0.0,
        )
        return [
            out_BTHE,
            *torch.autograd.grad(out_BTHE, self.leaves, self.d_out_BTHE, retain_graph=True),
        ]

    def fused(self, run: Fused, **keywords: Any) -> list[Tensor]:
        """Return what `plain` does, by `fused_attention`, its gradients taken on to the leaves."""
        parts = [x.detach() for x in self.parts]
        out_BTHE, *grads = run(*parts, d_out_BTHE=self.d_out_BTHE, **keywords)
        return [out_BTHE, *torch.autograd.grad(self.parts, self.leaves, grads, retain_graph=True)]


def visible_from(kind: str, sizes: Sizes) -> Tensor | None:
    """Return first visible keys `[B, T]` or `[1, T]`, as memories and documents make them."""
    B, T, M, *_ = sizes
    query_T = torch.arange(T)
    if kind == "everything":
        return None
    if kind == "same_length":
        return (query_T + 1)[None]
    from_BT = (M - torch.arange(B)[:, None] * 7 % (M + 1)).expand(B, T).clone()
    if kind == "documents":
        for row in range(B):
            start = (T // 2 + row) % T
            from_BT[row, start:] = M + start
    return from_BT.to(torch.int32 if T % 2 else torch.int64)


def hidden_keys(from_BT: Tensor | None, sizes: Sizes) -> Tensor:
    """Return hidden keys, `[B or 1, 1, T, S]`, by their definition."""
    _, T, M, *_ = sizes
    key_S, query_T1 = torch.arange(M + T), torch.arange(T)[:, None]
    hidden_TS = key_S > query_T1 + M
    if from_BT is None:
        return hidden_TS[None, None]
    return (hidden_TS | (key_S < from_BT[:, :, None]))[:, None]


def naive(
    parts: list[Tensor], d_out_BTHE: Tensor, hidden: Tensor, kept_BHTS: Tensor | float = 1.0
) -> list[Tensor]:
    """Return the output and the gradients of the parts, with weights multiplied by `kept_BHTS`."""
    leaves = [x.detach().clone().requires_grad_() for x in parts]
    query_BTHE, kv_BS2HE, position_BHTS = leaves
    key_BSHE, value_BSHE = kv_BS2HE.unbind(2)
    score_BHTS = torch.einsum("bthe,bshe->bhts", query_BTHE, key_BSHE) + rel_shift(position_BHTS)
    weight_BHTS = score_BHTS.masked_fill(hidden, -torch.inf).softmax(-1) * kept_BHTS
    out_BTHE = torch.einsum("bhts,bshe->bthe", weight_BHTS, value_BSHE)
    return [out_BTHE.detach(), *torch.autograd.grad(out_BTHE, leaves, d_out_BTHE)]
