"""Our Adam takes PyTorch's steps, and does not import its compiler."""

import subprocess
import sys

import pytest
import torch

from trainer.engine.optimizers.adam import Adam

_STEPS = """
import sys, torch
from trainer.engine.optimizers.adam import Adam
weight = torch.nn.Parameter(torch.ones(3))
adam = Adam([weight], lr=0.1, fused=True, decoupled_weight_decay=True)
weight.sum().backward()
adam.step()
adam.load_state_dict(adam.state_dict())
adam.zero_grad()
print(weight.tolist()[0], "torch._dynamo" in sys.modules)
"""


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("decoupled", [True, False])
def test_steps_equal_those_of_pytorch(fused: bool, decoupled: bool) -> None:
    theirs = torch.optim.AdamW if decoupled else torch.optim.Adam
    weights = [torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
    settings = {"lr": 0.1, "weight_decay": 0.1, "fused": fused}
    adams = [
        Adam([weights[0]], decoupled_weight_decay=decoupled, **settings),
        theirs([weights[1]], **settings),
    ]
    for _ in range(3):
        for weight, adam in zip(weights, adams, strict=True):
            (weight**2).sum().backward()
            adam.step()
            adam.zero_grad()
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.linspace(-1, 1, 5))


def test_no_method_imports_the_compiler() -> None:
    told = subprocess.run(
        [sys.executable, "-c", _STEPS], capture_output=True, text=True, check=True
    )
    weight, has_compiler = told.stdout.split()
    assert float(weight) == pytest.approx(0.9)
    assert has_compiler == "False"
