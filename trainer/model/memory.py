"""Memory's arithmetic: what is kept of a segment, and which keys a query may see.

B streams · T tgt_len · M mem_len · S = M+T · L layers · D d_model.
"""

import torch
from torch import Tensor

from trainer.protocol import Memory, Segment


def empty_memory(
    n_layer: int,
    n_streams: int,
    mem_len: int,
    d_model: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Memory:
    """Memory of streams that have read nothing: truly empty, no zeros are attended."""
    return Memory(
        hidden_LBMD=torch.zeros(n_layer, n_streams, mem_len, d_model, dtype=dtype, device=device),
        valid_B=torch.zeros(n_streams, dtype=torch.int64, device=device),
        valid_min=0,
    )


@torch.no_grad()
def remember(memory: Memory, segment: Segment, inputs_LBTD: list[Tensor]) -> Memory:
    """The memory after a segment; padding never enters it.

    Args:
        memory: before the segment.
        segment: what was read.
        inputs_LBTD: per layer, the segment as the layer saw it, or what it made of it.
    """
    hidden_LBMD = _newest(memory, segment, inputs_LBTD)
    mem_len, tgt_len = hidden_LBMD.shape[2], segment.tokens_BT.shape[1]
    read_B = memory.valid_B + segment.lengths_B
    if segment.starts_BT is not None:
        last_B = segment.starts_BT.gather(1, (segment.lengths_B - 1).clamp_min(0)[:, None])[:, 0]
        began_B = (last_B >= 0) & (segment.lengths_B > 0)
        read_B = torch.where(began_B, segment.lengths_B - last_B, read_B)
    sure = segment.starts_BT is None and segment.whole
    n_read = memory.valid_min + tgt_len if sure else 0
    return memory._replace(
        hidden_LBMD=hidden_LBMD,
        valid_B=read_B.clamp_max(mem_len),
        valid_min=min(mem_len, n_read),
    )


def _newest(memory: Memory, segment: Segment, inputs_LBTD: list[Tensor]) -> Tensor:
    """The last M of memory and segment, `[L, B, M, D]`."""
    old_LBMD = memory.hidden_LBMD
    _, n_streams, mem_len, _ = old_LBMD.shape
    hidden_LBMD = torch.empty_like(old_LBMD)
    if segment.whole:
        n_new = min(mem_len, segment.tokens_BT.shape[1])
        hidden_LBMD[:, :, : mem_len - n_new] = old_LBMD[:, :, n_new:]
        for layer, x_BTD in enumerate(inputs_LBTD):
            hidden_LBMD[layer, :, mem_len - n_new :] = x_BTD[:, x_BTD.shape[1] - n_new :]
        return hidden_LBMD
    device = memory.valid_B.device
    row_B1 = torch.arange(n_streams, device=device)[:, None]
    kept_BM = segment.lengths_B[:, None] + torch.arange(mem_len, device=device)
    for layer, x_BTD in enumerate(inputs_LBTD):
        x_BSD = torch.cat([old_LBMD[layer], x_BTD.to(hidden_LBMD.dtype)], dim=1)
        hidden_LBMD[layer] = x_BSD[row_B1, kept_BM]
    return hidden_LBMD


def forget_rows(memory: Memory, keep_B: Tensor) -> Memory:
    """Zero and forget the rows where `keep_B` is false, without waiting for the device.

    0·NaN is NaN: masking a row that went non-finite is not enough.
    """
    return Memory(
        hidden_LBMD=torch.where(keep_B[:, None, None], memory.hidden_LBMD, 0.0),
        valid_B=torch.where(keep_B, memory.valid_B, 0),
        valid_min=0,
    )


def visible_from(memory: Memory, segment: Segment, *, same_length: bool) -> Tensor | None:
    """The first key that each query sees: int64 `[1, T]` or `[B, T]`, or None where it is key 0.

    Key j of S is seen by query i iff visible_from <= j <= i + M, where visible_from is the largest
    of M - valid, the start of the query's document, and with `same_length` i + 1.
    """
    mem_len, tgt_len = memory.hidden_LBMD.shape[2], segment.tokens_BT.shape[1]
    first_1T = None
    if same_length:
        first_1T = torch.arange(1, tgt_len + 1, device=memory.valid_B.device)[None]
    if segment.starts_BT is None and memory.valid_min == mem_len:
        return first_1T
    first_BT = (mem_len - memory.valid_B)[:, None].expand(-1, tgt_len)
    if segment.starts_BT is not None:
        starts_BT = segment.starts_BT
        first_BT = torch.where(starts_BT >= 0, mem_len + starts_BT, first_BT)
    return first_BT if first_1T is None else torch.maximum(first_BT, first_1T)


def hidden_keys(memory: Memory, segment: Segment, *, same_length: bool) -> Tensor:
    """Which of the newest keys a query may not see: bool `[T, n]`, or `[B, 1, T, n]`.

    These are the segment's own, n = T, where all of memory is seen, and else all, n = S.
    """
    first_BT = visible_from(memory, segment, same_length=same_length)
    mem_len, tgt_len = memory.hidden_LBMD.shape[2], segment.tokens_BT.shape[1]
    device = memory.valid_B.device
    query_T1 = torch.arange(mem_len, mem_len + tgt_len, device=device)[:, None]
    oldest = mem_len if first_BT is None else 0
    key_n = torch.arange(oldest, mem_len + tgt_len, device=device)
    hidden_Tn = key_n > query_T1
    if first_BT is None:
        return hidden_Tn
    hidden_BTn = hidden_Tn | (key_n < first_BT[:, :, None])
    return hidden_BTn[:, None] if len(hidden_BTn) > 1 else hidden_BTn[0]
