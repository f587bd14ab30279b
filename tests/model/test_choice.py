"""Which back end a forward pass takes."""

import torch
from builders import CPU, tiny_model_config

from trainer.model.backend import Backend
from trainer.model.choice import backend_name, choose_backend
from trainer.model.cpu.backend import CpuAttention, CpuBackend


def test_a_cpu_has_its_own_back_end_and_plain_is_plain() -> None:
    assert backend_name("auto", CPU, torch.float32) == "cpu"
    assert backend_name("plain", CPU, torch.float32) == "plain"
    like = torch.empty((), dtype=torch.bfloat16)
    assert type(choose_backend(tiny_model_config(), like)) is CpuBackend
    assert type(choose_backend(tiny_model_config(), like.half())) is CpuAttention
    assert type(choose_backend(tiny_model_config(kernels="plain"), like)) is Backend


def test_another_device_has_the_plain_operations() -> None:
    assert backend_name("auto", torch.device("mps"), torch.float32) == "plain"
