"""The matrices in the layers of a model, for rules that update a matrix as a whole."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from trainer.model.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from trainer.model.attention import RelativeAttention
from trainer.model.families.blocks import SwiGlu
from trainer.model.triton.alignment import pads_of

#: Modules whose parameters belong to words, or to places, and not to a layer.
_OF_WORDS = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.AdaptiveLogSoftmaxWithLoss,
    AdaptiveEmbedding,
    AdaptiveSoftmax,
)


class Matrices(NamedTuple):
    """A parameter's matrices, which lie in it one above the other and have one size."""

    n_matrices: int
    n_rows: int
    """Rows of each matrix, with its pads."""
    n_columns: int
    """Columns, with pads."""
    longest: int
    """The larger of rows and columns, without pads."""

    @property
    def numel(self) -> int:
        """Return the number of elements of the parameter, with its pads."""
        return self.n_matrices * self.n_rows * self.n_columns


def matrices(model: nn.Module) -> dict[str, Matrices]:
    """Return the matrices of a model's layers, by the name of the parameter that they are in.

    These are the parameters of two dimensions that are named `weight`, of any module in an
    `nn.ModuleList`, and those of PyTorch's recurrent layers and of its attention. Embeddings and
    softmaxes have none, wherever they are. Parameters that we know to be several matrices are cut:
    keys from values, the halves of SwiGLU, the gates of recurrent layers, and the projections of
    PyTorch's attention.

    To be called before ZeRO cuts the model, but after weights were stored with pads.
    """
    of_words = {
        id(p)
        for module in model.modules()
        if isinstance(module, _OF_WORDS)
        for p in module.parameters()
    }
    numbers = {id(p): n for p, n in _in_layers(model) if p.dim() == 2 and id(p) not in of_words}
    return {
        name: _of(p, numbers[id(p)]) for name, p in model.named_parameters() if id(p) in numbers
    }


def _in_layers(model: nn.Module) -> Iterator[tuple[Tensor, int]]:
    """Yield the weights of layers, and the number of matrices in each."""
    for stack in model.modules():
        if not isinstance(stack, nn.ModuleList | nn.RNNBase):
            continue
        for module in stack.modules():
            if isinstance(module, nn.RNNBase):
                yield from _of_recurrent(module)
            elif isinstance(module, nn.MultiheadAttention):
                if module.in_proj_weight is not None:
                    yield module.in_proj_weight, 3
            elif isinstance(weight := getattr(module, "weight", None), nn.Parameter):
                yield weight, 1
        # What a module cuts in two is yielded again, and the last counts.
        for module in stack.modules():
            if isinstance(module, RelativeAttention):
                yield module.key_value.weight, 2
            elif isinstance(module, SwiGlu):
                yield module.inner.weight, 2


def _of_recurrent(module: nn.RNNBase) -> Iterator[tuple[Tensor, int]]:
    for name, p in module.named_parameters():
        if name.startswith("weight_hr"):  # a projection of an LSTM's output
            yield p, 1
        elif name.startswith("weight_"):
            yield p, p.shape[0] // module.hidden_size


def _of(parameter: Tensor, n_matrices: int) -> Matrices:
    n_rows, n_columns = parameter.shape
    pads = pads_of(parameter)
    rows, columns = parameter.shape if pads is None else pads.shape
    longest = max(rows // n_matrices, columns)
    return Matrices(n_matrices, n_rows // n_matrices, n_columns, longest)
