"""Gradients are averaged over ranks, whichever way each of them goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import told_by_ranks
from torch import Tensor, nn

from trainer.distributed import World
from trainer.engine.gradients import reduction
from trainer.engine.gradients.reduction import average_gradients

#: Two that are messages of their own, and two that go together.
SHAPES = {"table": (20, 3), "matrix": (8, 8), "bias": (8,), "scale": ()}
#: What the second rank has no gradient of.
MISSING = ("matrix", "bias")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return of both ranks the elements of every gradient, and those that moved."""
    return told_by_ranks(average, tmp_path_factory.mktemp("reduction"))


def average(world: World, folder: Path) -> dict[str, Any]:
    reduction.LARGE = 60
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in SHAPES.items()}
    for name, grad in gradients_of(world.rank).items():
        if world.rank == 0 or name not in MISSING:
            parameters[name].grad = grad
    places = {name: p.grad.data_ptr() for name, p in parameters.items() if p.grad is not None}
    average_gradients(list(parameters.values()), world_size=world.world_size)
    grads = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    moved = [name for name, place in places.items() if grads[name].data_ptr() != place]
    return {"grads": {name: grad.tolist() for name, grad in grads.items()}, "moved": moved}


def gradients_of(rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("name", SHAPES)
def test_all_ranks_have_the_mean_in_which_what_is_missing_is_zero(
    told: list[dict[str, Any]], name: str
) -> None:
    first, second = (gradients_of(rank)[name] for rank in range(2))
    mean = first / 2 if name in MISSING else (first + second) / 2
    for rank in told:
        torch.testing.assert_close(torch.tensor(rank["grads"][name]), mean)
    assert told[0]["grads"][name] == told[1]["grads"][name]


def test_gradients_stay_where_they_are(told: list[dict[str, Any]]) -> None:
    assert [rank["moved"] for rank in told] == [[], []]
