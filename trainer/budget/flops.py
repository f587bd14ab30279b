"""Floating-point operations that a model needs, counted from sizes alone: two per multiply-add.

Only products of matrices count. The functions here count the forward pass of one pass of one rank.
Training counts three times as much, since the backward pass multiplies twice for each product. All
M+T keys of a query count, hidden ones too; what is computed again in the backward pass, and what
kernels pad, does not. So the counts are those by which the field compares speeds (6 per weight and
token; Chowdhery et al. 2022, appendix B), with attention and the clusters as they are.

B rows · T tgt_len · M mem_len · S = M+T · N = B·T · X = n_head·d_head · D d_model · F d_inner
· V words of a cluster · C its width.
"""

from collections.abc import Iterable, Sequence

from trainer.budget.activations import PassSize
from trainer.config.model_settings import ModelConfig
from trainer.model.matrices import N_QUINTICS, Matrices

#: What a training step counts for each operation of the forward pass.
TRAINING = 3


def attention(model: ModelConfig, size: PassSize) -> int:
    """Return the operations of one layer's attention.

    Queries and results are projected for every token, keys and values for memory too, positions
    once. Queries are multiplied with keys and with positions, weights with values.
    """
    width = model.n_head * model.d_head
    rows = 2 * size.n_positions + 2 * size.n_rows * size.n_keys + size.n_keys
    products = 3 * size.n_positions * size.n_keys
    return 2 * width * (model.d_model * rows + products)


def feed_forward(model: ModelConfig, size: PassSize) -> int:
    """Return the operations of one layer's feed-forward part."""
    return 2 * 2 * size.n_positions * model.d_model * model.d_inner


def softmax(
    model: ModelConfig,
    size: PassSize,
    *,
    tables: Sequence[tuple[int, int]],
    shares: Sequence[float],
) -> float:
    """Return the operations of the softmax: every token's head, and a tail's for its own words.

    Args:
        model: the sizes of the model.
        size: the sizes of the pass.
        tables: words and width of each cluster, the head first.
        shares: each cluster's share of the targets, 1 for the head.
    """
    n_tails = len(tables) - 1
    words = [tables[0][0] + n_tails, *(n_words for n_words, _ in tables[1:])]
    per_token = 0.0
    for n_words, (_, width), share in zip(words, tables, shares, strict=True):
        per_token += share * width * (n_words + (model.d_model if _is_projected(model) else 0))
    return 2 * size.n_positions * per_token


def embedding(
    model: ModelConfig,
    size: PassSize,
    *,
    tables: Sequence[tuple[int, int]],
    shares: Sequence[float],
) -> float:
    """Return the operations of the embedding, which only projects; tokens are shared as targets."""
    if not _is_projected(model):
        return 0.0
    of_tokens = [1 - sum(shares[1:]), *shares[1:]]
    width = sum(share * width for share, (_, width) in zip(of_tokens, tables, strict=True))
    return 2 * size.n_positions * model.d_model * width


def per_token(
    model: ModelConfig,
    size: PassSize,
    *,
    tables: Sequence[tuple[int, int]],
    shares: Sequence[float],
) -> float:
    """Return the operations of training per token of a pass; the arguments are `softmax`'s."""
    layer = attention(model, size) + feed_forward(model, size)
    ends = softmax(model, size, tables=tables, shares=shares)
    ends += embedding(model, size, tables=tables, shares=shares)
    return TRAINING * (model.n_layer * layer + ends) / size.n_positions


def orthogonal(matrices: Iterable[Matrices]) -> int:
    """Return the operations of making matrices orthogonal, as Muon does in each step.

    A quintic is three products: of the shorter side's square twice with the longer side, and once
    with itself.
    """
    count = 0
    for one in matrices:
        short, long = sorted((one.n_rows, one.n_columns))
        count += one.n_matrices * N_QUINTICS * 2 * short**2 * (2 * long + short)
    return count


def _is_projected(model: ModelConfig) -> bool:
    """Return whether tables are of other widths than the model."""
    return model.div_val > 1 or (model.d_embed or model.d_model) != model.d_model
