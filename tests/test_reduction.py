"""Gradients are averaged over ranks, whichever way each of them goes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import empty, segment_of, tiny_model
from torch import nn
from two_ranks import told_by_two_ranks

from trainer import reduction
from trainer.distributed import World
from trainer.reduction import TiedSums, average_gradients

N_WORDS = 60
#: The head, which is too small for the rows of two ranks to pay, and two tails.
CUTOFFS = (5, 20)
MODELS: dict[str, dict[str, Any]] = {
    "one table": {},
    "clusters": {"cutoffs": CUTOFFS},
    "halved": {"cutoffs": CUTOFFS, "div_val": 2},
    "untied": {"cutoffs": CUTOFFS, "tie_embedding": False},
    "plain": {"cutoffs": CUTOFFS, "kernels": "plain"},
}
WAYS = [(kind, slots, passes) for kind in MODELS for slots in (1, 2) for passes in (1, 2)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of both ranks, by model, slots and passes in a backward: tables sent early, and gradients."""
    return told_by_two_ranks(train_every_way, tmp_path_factory.mktemp("reduction"))


def train_every_way(world: World, folder: Path) -> dict[str, Any]:
    reduction.LARGE = 60  # all tables, and a few of the other gradients
    found: dict[str, Any] = {}
    for kind, slots, passes in WAYS:
        for sums in (None, TiedSums(world.world_size)):
            model = tiny_model(N_WORDS, **MODELS[kind])
            model.tied_sums = sums
            train(model, world, slots=slots, passes=passes)
            early = [name for name, p in model.named_parameters() if p.grad is None]
            parameters = list(model.parameters())
            average_gradients(parameters, world_size=world.world_size, sums=sums)
            grads = {n: p.grad.tolist() for n, p in model.named_parameters() if p.grad is not None}
            found[f"{kind} {slots} {passes} {sums is not None}"] = {"early": early, "grads": grads}
    return found


def train(model: nn.Module, world: World, *, slots: int, passes: int) -> None:
    """Backward passes of a step, on text of this rank's own."""
    generator = torch.Generator().manual_seed(world.rank)
    for slot in range(slots):
        loss, memory = torch.zeros((), dtype=torch.float64), empty(model, 1, 4)  # type: ignore[arg-type]
        for _ in range(passes):
            tokens_BT = torch.randint(N_WORDS, (1, 4), generator=generator)
            tokens_BT[0, world.rank :] %= 30  # so that ranks differ in what a cluster holds
            output = model(segment_of(tokens_BT, cutoffs=model.config.cutoffs), memory)
            loss, memory = loss + output.loss_sum, output.memory
        if model.tied_sums is not None:
            model.tied_sums.is_open = slot == slots - 1
        loss.backward()


@pytest.mark.parametrize(("kind", "slots", "passes"), WAYS)
def test_sums_begun_early_are_those_of_the_whole_gradient(
    told: list[dict[str, Any]], kind: str, slots: int, passes: int
) -> None:
    early, late = (told[0][f"{kind} {slots} {passes} {is_early}"] for is_early in (True, False))
    assert early["grads"].keys() == late["grads"].keys()
    for name, grad in late["grads"].items():
        wanted = torch.tensor(grad, dtype=torch.float64)
        found = torch.tensor(early["grads"][name], dtype=torch.float64)
        assert float(wanted.abs().max()) > 0
        torch.testing.assert_close(found, wanted, msg=name)


@pytest.mark.parametrize(("kind", "slots", "passes"), WAYS)
def test_all_ranks_have_the_same_gradients_to_the_last_bit(
    told: list[dict[str, Any]], kind: str, slots: int, passes: int
) -> None:
    key = f"{kind} {slots} {passes} True"
    assert told[0][key] == told[1][key]


def test_large_tied_tables_are_sent_early(told: list[dict[str, Any]]) -> None:
    tails = ["embedding.tables.1", "embedding.tables.2"]
    wanted = {"one table": ["embedding.tables.0"], "clusters": tails, "halved": tails}
    for kind, slots, passes in WAYS:
        assert told[0][f"{kind} {slots} {passes} True"]["early"] == wanted.get(kind, [])
        assert told[0][f"{kind} {slots} {passes} False"]["early"] == []
