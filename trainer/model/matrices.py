"""The matrices in the layers of a model, for a rule that updates a matrix as a whole."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import RelativeAttention
from trainer.model.families.blocks import SwiGlu
from trainer.model.token_tables import TokenTable
from trainer.model.triton.alignment import pads_of

#: The most elements of a batch, unless one parameter alone has more.
BATCH = 1 << 24
#: How often a quintic is taken of a matrix to make it orthogonal (Jordan et al. 2024).
N_QUINTICS = 5

#: Modules whose parameters are of words or of places in a text.
_OF_WORDS = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.AdaptiveLogSoftmaxWithLoss,
    AdaptiveEmbedding,
    AdaptiveSoftmax,
    TokenTable,
)


class Matrices(NamedTuple):
    """The matrices of a parameter, which lie one above the other and have one size."""

    n_matrices: int
    n_rows: int
    """Rows of each matrix, with pads."""
    n_columns: int
    """Columns, with pads."""
    longest: int
    """The larger of rows and columns, without pads."""

    @property
    def numel(self) -> int:
        """Return the number of elements of the parameter, with pads."""
        return self.n_matrices * self.n_rows * self.n_columns


class Batch(NamedTuple):
    """Parameters whose matrices have one size, side by side in a buffer."""

    size: Matrices
    """The matrices of one of the parameters."""
    places: dict[str, int]
    """The place of each parameter's first element."""
    numel: int
    """Elements of the buffer."""


def matrices(model: nn.Module) -> dict[str, Matrices]:
    """Return the matrices of a model's layers, by the name of the parameter that they are in.

    A layer is what stands in an `nn.ModuleList`, or is one of PyTorch's recurrent networks. Its
    matrices are the parameters of two dimensions that are a module's `weight`; those that PyTorch's
    recurrent networks and attention name otherwise; and no table of words or places. Parameters
    that are known to be several matrices are cut: keys from values, the halves of SwiGLU, the gates
    of recurrent networks, the projections of PyTorch's attention.

    To be called when weights have their pads, and before ZeRO cuts them.
    """
    of_words = {
        id(p)
        for module in model.modules()
        if isinstance(module, _OF_WORDS)
        for p in module.parameters()
    }
    in_layers = {id(p) for p in _in_layers(model) if p.dim() == 2} - of_words
    several = {id(p): n for p, n in _several(model)}
    return {
        name: _of(p, several.get(id(p), 1))
        for name, p in model.named_parameters()
        if id(p) in in_layers
    }


def _in_layers(model: nn.Module) -> Iterator[Tensor]:
    """Yield the weights of layers, some several times."""
    for layers in model.modules():
        if not isinstance(layers, nn.ModuleList | nn.RNNBase):
            continue
        for module in layers.modules():
            for name, p in module.named_parameters(recurse=False):
                of_torch = isinstance(module, nn.RNNBase) and name.startswith("weight_")
                of_torch |= isinstance(module, nn.MultiheadAttention) and name.endswith("_weight")
                if name == "weight" or of_torch:
                    yield p


def _several(model: nn.Module) -> Iterator[tuple[Tensor, int]]:
    """Yield parameters that are several matrices one above the other, and how many."""
    for module in model.modules():
        if isinstance(module, RelativeAttention):
            yield module.key_value.weight, 2
        elif isinstance(module, SwiGlu):
            yield module.inner.weight, 2
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            yield module.in_proj_weight, 3
        elif isinstance(module, nn.RNNBase):
            for name, p in module.named_parameters():
                if name.startswith(("weight_ih", "weight_hh")):
                    yield p, p.shape[0] // module.hidden_size


def _of(parameter: Tensor, n_matrices: int) -> Matrices:
    pads = pads_of(parameter)
    rows, columns = parameter.shape if pads is None else pads.shape
    n_rows, n_columns = parameter.shape
    longest = max(rows // n_matrices, columns)
    return Matrices(n_matrices, n_rows // n_matrices, n_columns, longest)


def batches_of(matrices: Mapping[str, Matrices]) -> list[Batch]:
    """Return parameters in batches of at most `BATCH` elements; a larger one is alone in its own.

    Parameters keep their order in the batches of a size.
    """
    by_size: dict[tuple[int, int, int], list[Batch]] = {}
    for name, size in matrices.items():
        batches = by_size.setdefault((size.n_rows, size.n_columns, size.longest), [])
        if not batches or batches[-1].numel + size.numel > BATCH:
            batches.append(Batch(size, {}, 0))
        last = batches[-1]
        batches[-1] = last._replace(
            places=last.places | {name: last.numel}, numel=last.numel + size.numel
        )
    return [batch for batches in by_size.values() for batch in batches]
