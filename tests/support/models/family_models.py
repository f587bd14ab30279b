"""The packaged kinds of models at toy size."""

from typing import Any

import torch
from builders import CPU

from trainer.config.recipe import ModelConfig
from trainer.model.build import build_model

#: Options of kinds whose heads have matrices.
_MATRICES = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_key": 4, "d_value": 6, "d_inner": 24}
#: Options of each kind.
TOY: dict[str, dict[str, Any]] = {
    "compressive": {
        "d_model": 16,
        "n_layer": 2,
        "n_head": 2,
        "d_head": 6,
        "d_inner": 24,
        "compressed_len": 2,
        "rate": 3,
    },
    "lstm": {"d_model": 16, "n_layer": 2},
    "gla": _MATRICES | {"chunk_len": 3},
    "mlstm": _MATRICES | {"chunk_len": 4},
    "rmt": {  # GPT-2 computes in fp64 where a Llama rounds to fp32
        "architecture": "gpt2",
        "d_model": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_memory": 3,
    },
}

V = 20


def toy(kind: str, **options: Any) -> Any:
    """Return a model of a kind in fp64, with every weight far enough from zero to matter."""
    config = ModelConfig(kind=kind, options=TOY[kind] | options, dropout=0.0, init_std=0.5)
    model = build_model(config, vocabulary_size=V, seed=0).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def unread(model: Any, n_streams: int, dtype: torch.dtype = torch.float64) -> Any:
    """Return a model's empty memory."""
    return model.empty_memory(n_streams, mem_len=0, dtype=dtype, device=CPU)


def flags_of(kind: str) -> list[str]:
    """Return the flags of a kind at toy size."""
    options = TOY[kind].items()
    named = ((f"--model.options.{name.replace('_', '-')}", str(value)) for name, value in options)
    return ["--model.kind", kind, *(word for pair in named for word in pair)]
