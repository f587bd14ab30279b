"""The choice of the optimizer that DeepSpeed is given."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from trainer.config.deepspeed.file import ResolvedDs
from trainer.config.experiment import OptimConfig
from trainer.engine.optimizers.adam import Adam
from trainer.engine.optimizers.lamb import Lamb
from trainer.engine.optimizers.muon import Muon
from trainer.model.precision import compute_dtype_of


def optimizer_of(
    parameters: list[nn.Parameter],
    optim: OptimConfig,
    resolved: ResolvedDs,
    *,
    offloaded: Callable[..., torch.optim.Optimizer],
) -> torch.optim.Optimizer:
    """Return the optimizer of `parameters`; `offloaded` makes an Adam whose moments are offloaded.

    JSON optimizers are not used: DeepSpeed would compile its own.
    """
    choice = resolved.optimizer
    settings: dict[str, Any] = {
        "lr": optim.lr,
        "betas": optim.betas,
        "eps": optim.eps,
        "weight_decay": optim.weight_decay,
    }
    if optim.type == "Lamb":
        return Lamb(parameters, **settings)
    if optim.type == "Muon":
        return Muon(parameters, dtype=compute_dtype_of(resolved.precision), **settings)
    decoupled = {"Adam": False, "AdamW": True}[optim.type]
    if choice.offload:
        return offloaded(parameters, adamw_mode=decoupled, **settings)
    fused = True if choice.fused is None else choice.fused
    if resolved.zero_stage == 0:
        return Adam(parameters, fused=fused, decoupled_weight_decay=decoupled, **settings)
    # DeepSpeed's ZeRO accepts only PyTorch's own class, and imports the compiler anyway.
    adam = torch.optim.AdamW if decoupled else torch.optim.Adam
    return adam(parameters, fused=fused, **settings)
