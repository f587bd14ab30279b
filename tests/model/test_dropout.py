"""Dropout zeroes as many elements as it says, scales the rest by what that leaves, and repeats."""

import pytest
import torch

from trainer.model.dropout import dropout


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1001, 997), (3,), (0, 4)])
def test_as_many_are_dropped_as_it_says(probability: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    y = dropout(x, probability)
    kept = y[y != 0]
    exact = round(probability * 65536) / 65536
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - exact)))
    n = x.numel()
    assert abs(len(kept) - (1 - exact) * n) <= 1 + 5 * (exact * (1 - exact) * n) ** 0.5
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, y.detach())


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = dropout(torch.ones(400_000), 0.25) != 0
    for distance in (1, 2, 3, 4):
        both = (kept[distance:] & kept[:-distance]).double().mean()
        assert both == pytest.approx(0.75**2, abs=0.004)


def test_the_same_seed_drops_the_same_and_nothing_is_dropped_outside_of_training() -> None:
    x = torch.randn(50, 7)
    torch.manual_seed(3)
    first = dropout(x, 0.3)
    other = dropout(x, 0.3)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.3), first)
    assert not torch.equal(other, first)
    assert dropout(x, 0.3, training=False) is x
    assert dropout(x, 0.0) is x
    assert dropout(x.bfloat16(), 0.3).dtype == torch.bfloat16
