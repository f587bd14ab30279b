"""Transformer-XL that prints in its first forward pass how long this process's groups may wait."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory waiting_model:build`."""
    model = TransformerXL(config, vocabulary_size)
    handles: list[Any] = []

    def tell(*_: Any) -> None:
        groups = list(dist.distributed_c10d._world.pg_map)
        cpu = torch.device("cpu")
        waits = sorted({g._get_backend(cpu).options._timeout.total_seconds() for g in groups})
        print(f"{len(groups)} groups wait for {waits} s", flush=True)
        handles.pop().remove()

    handles.append(model.register_forward_pre_hook(tell))
    return model
