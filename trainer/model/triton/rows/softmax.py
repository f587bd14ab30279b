"""Nats of words under a softmax, and the gradient of the logits in their place, in Triton.

N positions · V stored columns, of which the first `n_words` are words.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.protocol import IGNORED

#: Logits that a program holds at a time, at most.
_MAX_BLOCK = 4096


def softmax_error_(
    logits_NV: Tensor, targets_N: Tensor, *, n_words: int, keep: bool = True, scale: float = 1.0
) -> Tensor:
    """Return the nats of each target, `[N]` in fp32 at least; 0 where it is `IGNORED`.

    The gradient of the nats, times `scale`, takes the place of the logits: the probabilities, less
    1 at the target. It is zero in the rows of ignored targets and in columns that are no words.

    Args:
        logits_NV: any distance between rows; the elements of a row lie side by side.
        targets_N: int64 words, or `IGNORED`.
        n_words: the number of columns that are words.
        keep: whether to write the gradient; without it the logits stay as they are.
        scale: keeps the small gradients of many words in the range of fp16.
    """
    assert logits_NV.stride(1) == 1, "the elements of a row lie side by side"
    n_rows, n_columns = logits_NV.shape
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    nll_N = logits_NV.new_empty(n_rows, dtype=wide)
    block = min(_MAX_BLOCK, max(256, triton.next_power_of_2(n_columns)))
    _softmax_error_kernel[(n_rows,)](
        logits_NV,
        targets_N.contiguous(),
        nll_N,
        n_words,
        scale,
        PITCH=logits_NV.stride(0),
        COLUMNS=n_columns,
        BLOCK=block,
        IGNORED=IGNORED,
        KEEP=keep,
        num_warps=max(1, block // 512),
    )
    return nll_N


@triton.jit
def _softmax_error_kernel(
    logits,
    targets,
    nll,
    n_words,
    scale,
    PITCH: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    IGNORED: tl.constexpr,
    KEEP: tl.constexpr,
):
    """Write the nats of a row; with `KEEP`, the gradient over its logits."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * PITCH
    wide = nll.dtype.element_ty
    target = tl.load(targets + row)
    known = target != IGNORED
    chosen = tl.load(logits + target, mask=known, other=0.0).to(wide)
    # Nothing of an ignored row is read: a total of 1 has a finite logarithm.
    total = tl.where(known, 0.0, 1.0).to(wide)
    # The lowest finite number: -inf less itself would be NaN.
    highest = tl.full((), -3.4e38, wide)
    for first in range(0, tl.where(known, n_words, 0), BLOCK):
        x_C = _load_words(logits, first + tl.arange(0, BLOCK), n_words, known, COLUMNS, wide)
        higher = tl.maximum(highest, tl.max(x_C, axis=0))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(x_C - higher), axis=0)
        highest = higher
    tl.store(nll + row, tl.where(known, tl.log(total) + (highest - chosen), 0.0))
    if KEEP:
        factor = scale / total
        for first in range(0, COLUMNS, BLOCK):
            at_C = first + tl.arange(0, BLOCK)
            x_C = _load_words(logits, at_C, n_words, known, COLUMNS, wide)
            error_C = tl.exp(x_C - highest) * factor - tl.where(at_C == target, scale, 0.0)
            tl.store(logits + at_C, error_C, mask=at_C < COLUMNS)


@triton.jit
def _load_words(logits, at_C, n_words, known, COLUMNS: tl.constexpr, WIDE: tl.constexpr):
    """Load a block of logits, with -inf where there is no word."""
    x_C = tl.load(logits + at_C, mask=known & (at_C < COLUMNS), other=-float("inf"))
    return tl.where(at_C < n_words, x_C.to(WIDE), -float("inf"))
