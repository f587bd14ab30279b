"""What is measured: sizes of model and batch, and the text that all implementations read."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Dims:
    """One configuration; names as in Hugging Face's `TransfoXLConfig`."""

    vocab_size: int
    cutoffs: tuple[int, ...]
    n_layer: int
    d_model: int
    n_head: int
    d_head: int
    d_inner: int
    tgt_len: int
    mem_len: int
    n_streams: int
    clamp_len: int = -1
    same_length: bool = False
    div_val: int = 1
    attn_dropout: float = 0.0
    """Of ours."""
    n_steps: int = 2
    """Steps of one timing; long enough for the clock, short enough for many rounds."""

    def huggingface(self, *, dropout: float) -> dict[str, Any]:
        """Return the peer's configuration; one bias for all layers, as kimiyoung's."""
        return {
            "vocab_size": self.vocab_size,
            "cutoffs": list(self.cutoffs),
            "d_model": self.d_model,
            "d_embed": self.d_model,
            "n_head": self.n_head,
            "d_head": self.d_head,
            "d_inner": self.d_inner,
            "n_layer": self.n_layer,
            "mem_len": self.mem_len,
            "clamp_len": self.clamp_len,
            "same_length": self.same_length,
            "div_val": self.div_val,
            "untie_r": False,
            "dropout": dropout,
            "dropatt": 0.0,
            "pre_lnorm": False,
        }


TINY = Dims(
    vocab_size=10_000,
    cutoffs=(),
    n_layer=4,
    d_model=128,
    n_head=4,
    d_head=32,
    d_inner=512,
    tgt_len=64,
    mem_len=64,
    n_streams=16,
)
WT103 = Dims(
    vocab_size=267_735,
    cutoffs=(20_000, 40_000, 200_000),
    n_layer=16,
    d_model=410,
    n_head=10,
    d_head=41,
    d_inner=2100,
    tgt_len=150,
    mem_len=150,
    n_streams=4,
    n_steps=1,
)

CONFIGS = {
    "tiny": TINY,
    "small": replace(TINY, vocab_size=267_735, cutoffs=(20_000, 40_000, 200_000), n_steps=1),
    "wt103-base": WT103,
    "wt103-base-60": replace(WT103, n_streams=60, n_steps=10),
    # A quarter of the recipe's streams, whose both passes and their graph fit a card of 80 GB.
    "wt103-large-32": replace(
        WT103,
        n_layer=18,
        d_model=1024,
        n_head=16,
        d_head=64,
        d_inner=4096,
        div_val=4,
        attn_dropout=0.2,
        tgt_len=384,
        mem_len=384,
        n_streams=32,
        n_steps=3,
    ),
    # As many layers, tables and tensors as the recipe's, but narrow: what is left is the host's
    # work, which no width changes. No width is a multiple of 8, as there.
    "wt103-narrow": replace(
        WT103,
        vocab_size=400,
        cutoffs=(50, 100, 200),
        d_model=20,
        n_head=2,
        d_head=10,
        d_inner=42,
        tgt_len=8,
        mem_len=8,
        n_steps=20,
    ),
    "toy": Dims(
        vocab_size=300,
        cutoffs=(50, 100),
        n_layer=2,
        d_model=10,
        n_head=2,
        d_head=5,
        d_inner=21,
        tgt_len=6,
        mem_len=7,
        n_streams=13,  # whose segments are whole rows of tgt_len + mem_len, too
    ),
    "eval-64/640": replace(
        WT103,
        tgt_len=64,
        mem_len=640,
        n_streams=1,
        clamp_len=400,
        same_length=True,
        n_steps=8,  # read at once: see `trainer.inference.score.fastest`
    ),
}

#: What `compare.py` measures unless told otherwise.
COMPARED = ("tiny", "small", "wt103-base", "eval-64/640")

#: b and γ of the law in `frequencies`.
RARE_RANK, RARE_POWER = 7_740, 1.698


def frequencies(dims: Dims) -> npt.NDArray[np.float64]:
    """Return the share of every word in the text, `[vocab_size]`; words are in order of it.

    The law is that of Gerlach and Altmann (Phys. Rev. X 3, 021006, 2013): the share of the word of
    rank r falls as 1/r up to a rank b, and as r^-γ beyond b. In English books b is 7,873 and γ is
    1.77. Here b and γ are those that give WikiText-103 two numbers of its own: 5.7 % of the targets
    lie beyond the first 20,000 of 267,735 words, and the rarest word occurs 3 times in 103,227,021
    targets (Merity et al. 2016). The law shares out the 5.7 % on the three tails of wt103-base as
    2.6, 2.8 and 0.25 %. A smaller vocabulary is the frequent end of the same text.
    """
    ranks = np.arange(1, dims.vocab_size + 1, dtype=np.float64)
    weights = 1 / (ranks * np.maximum(1, ranks / RARE_RANK) ** (RARE_POWER - 1))
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares


def clusters(dims: Dims) -> list[tuple[int, float]]:
    """Return the number of words of each cluster, head first, and their share of all targets."""
    shares = frequencies(dims)
    bounds = pairwise((0, *dims.cutoffs, dims.vocab_size))
    return [(high - low, float(shares[low:high].sum())) for low, high in bounds]


def text(dims: Dims, *, n_segments: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return ids `[n_streams, n_segments·tgt_len]`, as frequent as words are."""
    draws = np.random.default_rng(seed)
    shape = (dims.n_streams, n_segments * dims.tgt_len)
    return draws.choice(dims.vocab_size, size=shape, p=frequencies(dims)).astype(np.int64)
