"""The keys that a query may see: those of memory that are valid, and those before it.

B streams · T tgt_len · M mem_len · S = M+T.
"""

import torch
from torch import Tensor

from trainer.model.memory.seen import Seen
from trainer.protocol import Segment


def visible_from(memory: Seen, segment: Segment, *, same_length: bool) -> Tensor | None:
    """Return the first key that each query sees, int64 `[1, T]` or `[B, T]`; None if all see key 0.

    Query i sees key j of S iff visible_from <= j <= i + M. Here visible_from is the largest of
    M - valid, the key at which the query's document starts, and, with `same_length`, i + 1.
    """
    mem_len, tgt_len = memory.mem_len, segment.tokens_BT.shape[1]
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


def hidden_keys(memory: Seen, segment: Segment, *, same_length: bool) -> Tensor:
    """Return which of the n newest keys a query may not see, bool `[T, n]` or `[B, 1, T, n]`.

    n is T, the segment's own keys, where every query sees all of memory; otherwise n is S.
    """
    first_BT = visible_from(memory, segment, same_length=same_length)
    mem_len, tgt_len = memory.mem_len, segment.tokens_BT.shape[1]
    device = memory.valid_B.device
    query_T1 = torch.arange(mem_len, mem_len + tgt_len, device=device)[:, None]
    oldest = mem_len if first_BT is None else 0
    key_n = torch.arange(oldest, mem_len + tgt_len, device=device)
    hidden_Tn = key_n > query_T1
    if first_BT is None:
        return hidden_Tn
    hidden_BTn = hidden_Tn | (key_n < first_BT[:, :, None])
    return hidden_BTn[:, None] if len(hidden_BTn) > 1 else hidden_BTn[0]
