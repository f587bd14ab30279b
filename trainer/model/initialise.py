"""The paper's initialisation, of a whole model or of a rank's parts.

Values are drawn parameter by parameter from torch's global generator. A rank that keeps only a part
of each parameter draws all of them a piece at a time, so it needs no memory for the whole model and
gets the values that a whole model has.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model.token_tables import TokenTable

Fill = Callable[[Tensor, int], None]
"""A function that fills a part of a parameter, `[N]`: the elements from a given one on."""

Fills = Iterator[tuple[nn.Parameter, Fill]]
"""Each parameter of a model on `meta` with a function that fills a part of it.

Each function is called once, in this order, and draws the values of the whole parameter.
"""

#: Elements of a piece. PyTorch draws normal numbers by 16, so pieces of so many change no value.
PIECE = 1 << 20
_DRAWN_TOGETHER = 16


class Normal(NamedTuple):
    """A normal distribution."""

    mean: float
    std: float


def beginnings(
    model: nn.Module, config: ModelConfig, *, projections: Iterable[Tensor]
) -> Iterator[tuple[nn.Parameter, Normal | None]]:
    """Yield each parameter with the distribution of its first values; None for zeros."""
    projected = {id(p) for p in projections}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, TokenTable)}
    norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.LayerNorm)}
    for name, parameter in model.named_parameters():
        if id(parameter) in norms:
            yield parameter, Normal(1.0, config.init_std)
        elif id(parameter) in projected:
            yield parameter, Normal(0.0, config.projection_init_std)
        elif parameter.dim() == 1 or id(parameter) in tables or name.endswith("bias"):
            yield parameter, None
        else:
            yield parameter, Normal(0.0, config.init_std)


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, *, projections: Iterable[Tensor]) -> None:
    """Draw normal weights, LayerNorm's around one, by torch's global generator; zero the rest."""
    for parameter, normal in beginnings(model, config, projections=projections):
        if normal is None:
            parameter.zero_()
        else:
            parameter.normal_(*normal)


def fills(model: nn.Module, config: ModelConfig, *, projections: Iterable[Tensor]) -> Fills:
    """Yield what fills a model on `meta`, from torch's global generator."""
    _draw_as_constructors(model)
    piece_N = torch.empty(PIECE + _DRAWN_TOGETHER)
    for parameter, normal in beginnings(model, config, projections=projections):
        yield parameter, _fill_of(parameter.numel(), normal, piece_N)


def _draw_as_constructors(model: nn.Module) -> None:
    """Draw and forget the numbers that linear layers not on `meta` take when they are made."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    n_left = sum(p.numel() for module in linear for p in module.parameters(recurse=False))
    piece = torch.empty(min(n_left, PIECE))
    while n_left > 0:
        n_left -= piece[:n_left].uniform_().numel()


def _fill_of(n_elements: int, normal: Normal | None, piece_N: Tensor) -> Fill:
    def fill(part_N: Tensor, begin: int) -> None:
        """Fill a part with the elements from `begin` on of the parameter's `n_elements`."""
        if normal is None:
            part_N.zero_()
            return
        for low, high in pieces(n_elements):
            drawn_N = piece_N[: high - low].normal_(*normal)
            first, last = max(low, begin), min(high, begin + part_N.numel())
            if first < last:
                part_N[first - begin : last - begin].copy_(drawn_N[first - low : last - low])

    return fill


def pieces(n_elements: int) -> Iterator[tuple[int, int]]:
    """Yield borders of pieces which, drawn one after another, have the values of one draw."""
    return pairwise([*range(0, max(1, n_elements - _DRAWN_TOGETHER + 1), PIECE), n_elements])
