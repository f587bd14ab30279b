"""The choice of the back end for a forward pass."""

import logging
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from trainer.config.model_settings import ModelConfig
from trainer.model.backend import Backend
from trainer.model.cpu.backend import CpuAttention, CpuBackend

log = logging.getLogger(__name__)

BackendName = Literal["plain", "cpu", "triton"]

#: The compute capability of an A100, the first GPU that multiplies bf16.
_LEAST_CAPABILITY = (8, 0)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def choose_backend(config: ModelConfig, like: Tensor) -> Backend:
    """Return the fastest back end for tensors such as `like`, or the one that `config` asks for."""
    name = backend_name(config.kernels, like.device, like.dtype)
    if name == "cpu" and like.dtype == torch.float16:
        return CpuAttention()
    if name == "cpu":
        return CpuBackend(is_tied=config.tie_embedding)
    if name == "triton":  # imported here: not all machines have Triton
        from trainer.model.triton.backend import TritonBackend

        return TritonBackend(is_tied=config.tie_embedding, n_layer=config.n_layer)
    return Backend()


def backend_name(
    setting: Literal["auto", "plain"], device: torch.device, dtype: torch.dtype
) -> BackendName:
    """Return the name of the back end for tensors of this dtype on this device."""
    if setting == "plain":
        return "plain"
    if device.type == "cpu":
        return "cpu"
    return "triton" if _has_triton(device, dtype) else "plain"


@cache
def _has_triton(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether Triton's kernels run on a device in a dtype; log once why not."""
    obstacle = None
    if device.type != "cuda" or torch.version.cuda is None:
        obstacle = f"they are not for {device.type} without NVIDIA's CUDA"
    elif torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        obstacle = f"{torch.cuda.get_device_name(device)} is older than an A100"
    elif dtype not in _DTYPES:
        obstacle = f"they are not for {dtype}"
    elif find_spec("triton") is None:
        obstacle = "triton is not installed"
    if obstacle is not None:
        log.warning("PyTorch's own operations instead of Triton kernels: %s", obstacle)
    return obstacle is None
