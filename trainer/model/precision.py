"""PyTorch's terms for a precision: dtypes, and the context of a forward pass."""

import torch

from trainer.config.precision import Precision, arithmetic_of, is_autocast


def compute_dtype_of(precision: Precision) -> torch.dtype:
    """Return the dtype of matrix products, in which memory is kept."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return dtypes[arithmetic_of(precision)]


def weight_dtype_of(precision: Precision) -> torch.dtype:
    """Return the dtype of a model's weights."""
    return torch.float32 if is_autocast(precision) else compute_dtype_of(precision)


def autocast_of(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which forward passes run that DeepSpeed does not run."""
    if not is_autocast(precision):
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, compute_dtype_of(precision))
