"""Overwriting some rows of a tensor, without touching the others, in Triton.

B rows, of N elements each.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def overwrite_rows(rows_BN: Tensor, keep_B: Tensor, with_1N: Tensor) -> None:
    """Copy a row over those for which `keep_B` is false, in place.

    Args:
        rows_BN: `[B, …]`, contiguous.
        keep_B: bool.
        with_1N: `[1, …]`, of the same dtype.
    """
    n_elements = with_1N.numel()
    if rows_BN.numel() == 0:
        return
    _overwrite_kernel[(triton.cdiv(n_elements, _BLOCK), len(rows_BN))](
        rows_BN, keep_B, with_1N.contiguous(), n_elements, BLOCK=_BLOCK
    )


@triton.jit
def _overwrite_kernel(rows, keep, new, n_elements, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    if tl.load(keep + row) == 0:
        at_N = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside_N = at_N < n_elements
        new_N = tl.load(new + at_N, mask=inside_N, other=0)
        tl.store(rows + row * n_elements + at_N, new_N, mask=inside_N)
