"""The paper's initialisation."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, *, projections: Iterable[Tensor]) -> None:
    """Draw normal weights, LayerNorm's around one, by torch's global generator; zero the biases."""
    projected = {id(p) for p in projections}
    norms = {id(m.weight) for m in model.modules() if isinstance(m, nn.LayerNorm)}
    for name, parameter in model.named_parameters():
        if id(parameter) in norms:
            parameter.normal_(1.0, config.init_std)
        elif id(parameter) in projected:
            parameter.normal_(0.0, config.projection_init_std)
        elif parameter.dim() == 1 or name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.normal_(0.0, config.init_std)
