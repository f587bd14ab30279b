"""What is told of gradients that are whole on every rank."""

import pytest
import torch

from trainer.engine.gradients.whole import norms_of


@pytest.mark.parametrize(("scale", "norm"), [(None, 5.0), (2.0, 2.5), (torch.tensor(4.0), 1.25)])
def test_norms_are_those_without_a_loss_scale(
    scale: torch.Tensor | float | None, norm: float
) -> None:
    gradients = [torch.tensor([3.0, -4.0]), None]
    assert norms_of(gradients, scale=scale) == [norm, 0.0]
