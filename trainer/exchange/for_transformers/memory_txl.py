"""The memory of Transformer-XL for transformers from 5.3 on, and what tokens see of it.

See `modeling_txl.py`. B rows · T new tokens · S keys · H heads · E d_head · D d_model.

Part of txl-trainer, under the MIT license.
"""

import torch
from torch import Tensor
from transformers import Cache

from .configuration_txl import TxlConfig


class TxlMemory(Cache):
    """Memory of the text so far, of every layer: the cache of `generate` and `forward`.

    `layers` would hold transformers' own kind of cache; this memory has none of them.
    """

    def __init__(self, n_layer: int, *, projected: bool) -> None:
        """Remember nothing.

        Args:
            n_layer: the number of layers.
            projected: whether to keep keys and values, which is faster, or the layers' inputs,
                through which weights of keys and values get gradients.
        """
        super().__init__(layers=[])
        self.projected = projected
        self.kept: list[Tensor | None] = [None] * n_layer
        """Per layer `[B, n, 2, H, E]` or `[B, n, D]`, newest last."""
        self.distances: list[Tensor] = []
        """Per layer the projected distances n-1 … 0, `[n, H, E]`; empty where none are kept."""
        self.n_read = 0
        self.pads_B: Tensor | None = None
        """The number of pads on the left of each row; None without pads."""
        self.last_B: Tensor | None = None
        """The token that each row has read last; None before the first."""

    def before(self, tokens_BT: Tensor, *, none: int) -> Tensor:
        """Return the token before each of the next ones, `none` where a row begins; note the last.

        Called once with the next tokens, before `n_read` counts them.
        """
        last_B = (
            self.last_B
            if self.last_B is not None
            else tokens_BT.new_full(tokens_BT[:, 0].shape, none)
        )
        before_BT = torch.cat([last_B[:, None], tokens_BT[:, :-1]], dim=1)
        self.last_B = tokens_BT[:, -1]
        if self.pads_B is None:
            return before_BT
        token_T = torch.arange(
            self.n_read, self.n_read + tokens_BT.shape[1], device=tokens_BT.device
        )
        return before_BT.masked_fill(token_T <= self.pads_B[:, None], none)

    def join(self, layer: int, new: Tensor, *, n_keys: int, most: int) -> Tensor:
        """Return the newest `n_keys` of what a layer keeps and `new`; keep the newest `most`."""
        old = self.kept[layer]
        joined = new if old is None else torch.cat([old, new], dim=1)
        n_held = joined.shape[1]
        self.kept[layer] = joined[:, max(0, n_held - most) :].detach()
        return joined[:, n_held - n_keys :]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens read, of which the newest are remembered."""
        return self.n_read

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the memory of these rows, in this order."""
        self.kept = [None if x is None else x.index_select(0, beam_idx) for x in self.kept]
        self.pads_B = None if self.pads_B is None else self.pads_B.index_select(0, beam_idx)
        self.last_B = None if self.last_B is None else self.last_B.index_select(0, beam_idx)

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        n_rows = next((len(x) for x in self.kept if x is not None), 0)
        device = next((x.device for x in self.kept if x is not None), None)
        self.reorder_cache(torch.arange(n_rows, device=device).repeat_interleave(repeats))

    def reset(self) -> None:
        """Forget everything."""
        self.kept, self.n_read = [None for _ in self.kept], 0
        self.pads_B = self.last_B = None

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: what is forgotten does not come back."""
        raise ValueError("a TxlMemory cannot be cropped: read the text again from its beginning")

    @property
    def is_croppable(self) -> bool:
        """Return False."""
        return False


class Sight:
    """The keys that the next tokens see; all tokens of a row are counted from 0, its pads too."""

    def __init__(self, memory: TxlMemory, n_new: int, n_alone: int, config: TxlConfig) -> None:
        self.begin, self.n_new, self.n_alone, self.config = memory.n_read, n_new, n_alone, config
        self.pads_B = memory.pads_B
        self.oldest = max(0, self.begin - most_kept(config))
        if self.pads_B is None:
            self.oldest = int(self.first_seen(torch.arange(self.begin, self.begin + 1)).item())
        self.n_keys = self.begin + n_new - self.oldest

    def first_seen(self, token_n: Tensor) -> Tensor:
        """Return the first key that each of these tokens sees, `[B, n]`, or `[1, n]` without pads.

        A pad sees itself, since a softmax needs something.
        """
        config, pads_B1 = self.config, 0 if self.pads_B is None else self.pads_B[:, None]
        text_Bn = token_n[None] - pads_B1  # counted from the row's first token
        segment_Bn = text_Bn - text_Bn % config.tgt_len
        is_alone = token_n >= self.begin + self.n_new - self.n_alone
        segment_Bn = torch.where(is_alone, text_Bn, segment_Bn)
        first_Bn = (text_Bn + 1 if config.same_length else segment_Bn) - config.mem_len
        return torch.minimum(first_Bn.clamp_min(0) + pads_B1, token_n)

    def hidden_keys(self, device: torch.device) -> Tensor:
        """Return which of the `n_keys` newest keys each new token may not see, `[B, T, n_keys]`."""
        token_T = torch.arange(self.begin, self.begin + self.n_new, device=device)
        key_S = torch.arange(self.oldest, self.begin + self.n_new, device=device)
        return (key_S > token_T[:, None]) | (key_S < self.first_seen(token_T)[:, :, None])


def most_kept(config: TxlConfig) -> int:
    """Return how many tokens before the next one may be seen from it or later."""
    return config.mem_len + config.tgt_len - 1
