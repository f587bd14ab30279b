"""Steps keep gradients of tables apart where nobody sums or sees them, and forget them after."""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from builders import random_documents, tiny_experiment, write_corpus
from ranks import told_by_ranks
from torch import Tensor

from trainer.config import deepspeed as ds_config
from trainer.data.corpus import open_corpus
from trainer.data.read_ahead import SegmentReader
from trainer.data.streams import Streams
from trainer.distributed import World
from trainer.engine import deepspeed as engine
from trainer.model.build import build_model
from trainer.model.transformer_xl import TransformerXL
from trainer.train.loop import TrainState, train_step
from trainer.train.run import Run

N_WORDS, CUTOFFS = 60, (5, 20)


class ByOthers(TransformerXL):
    """Of which nobody knows what it does with its tables."""


class Case(NamedTuple):
    """What is unlike a step in one slot."""

    slots: int = 1
    factor: float = 1.0
    """Of one gradient."""
    kind: type = TransformerXL
    penalty: float = 0.0
    """Of the squares of a table's biases."""


CASES = {
    "whole step": Case(),
    "not finite": Case(factor=float("nan")),
    "two slots": Case(slots=2),
    "by others": Case(kind=ByOthers),
    "penalised": Case(penalty=3.0),
    "penalised, by others": Case(penalty=3.0, kind=ByOthers),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """By number of ranks what the first one did in each case."""
    folder = tmp_path_factory.mktemp("engine")
    documents = random_documents(200, vocabulary_size=N_WORDS)
    write_corpus(folder / "corpus", vocabulary_size=N_WORDS, train=documents)
    return {n: told_by_ranks(train_with_all, folder, n_ranks=n)[0] for n in (1, 2)}


def train_with_all(world: World, folder: Path) -> dict[str, Any]:
    world = engine.connect(world, timeout_s=60)
    return {name: train(world, folder / "corpus", case) for name, case in CASES.items()}


def train(world: World, corpus: Path, case: Case) -> dict[str, Any]:
    """One step; which tables' gradients were apart before the update, and what it did."""
    experiment = tiny_experiment(
        model={"cutoffs": CUTOFFS, "d_model": 32},
        train={"train_micro_batch_size_per_gpu": 4 // case.slots // world.world_size},
        optim={"lr": 0.1, "gradient_clipping": 0.5},
    )
    resolved = ds_config.resolve({}, experiment, world_size=world.world_size, where="test")
    model = build_model(experiment.model, vocabulary_size=N_WORDS, seed=0)
    model.__class__ = case.kind
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    built = engine.build(model, optim=experiment.optim, max_steps=9, resolved=resolved, world=world)
    streams = Streams(
        split=open_corpus(corpus).splits["train"],
        train_batch_size=4,
        tgt_len=4,
        slots=case.slots,
        rank=world.rank,
        world_size=world.world_size,
        cutoffs=CUTOFFS,
    )
    used = {
        "experiment": experiment,
        "streams": streams,
        "engine": built,
        "world": world,
        "reader": SegmentReader(streams, world.device, n_ahead=0),
    }
    apart: list[str] = []
    step, backward = built.step, built.backward
    module: Any = built.ds.module

    def spy() -> bool | None:
        apart.extend(kept_apart(module))
        module.layers[0].attention.out.weight.grad.mul_(case.factor)
        return step()

    def penalised(loss: Tensor) -> None:
        backward(loss + case.penalty * (module.softmax.biases[0] - 1).square().sum())

    built.step, built.backward = spy, penalised  # type: ignore[method-assign]
    train_step(cast(Any, Run)(**{f.name: used.get(f.name) for f in fields(Run)}), TrainState())
    left = kept_apart(module)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    built.destroy()
    return {"apart": apart, "left": left, "moved": moved, "norm": float(built.grad_norm or 0)}


def kept_apart(module: Any) -> list[str]:
    """Names of the parameters whose gradients are."""
    kept = {p for gradient in module.table_gradients or () for p in gradient.parameters}
    return [name for name, p in module.named_parameters() if p in kept]


TABLES = {f"{name}.{c}" for name in ("embedding.tables", "softmax.biases") for c in range(3)}


def test_one_rank_and_slot_keep_them_apart_until_the_update(told: dict[int, Any]) -> None:
    found = told[1]["whole step"]
    assert set(found["apart"]) == TABLES
    assert found["left"] == []
    assert set(found["moved"]) > TABLES


def test_what_is_to_be_summed_is_not_kept_apart_and_is_the_same(told: dict[int, Any]) -> None:
    on_one, on_two = told[1], told[2]
    for found in (on_one["two slots"], on_two["whole step"], on_two["two slots"]):
        assert found["apart"] == []
        assert set(found["moved"]) > TABLES
        assert found["norm"] == pytest.approx(told[1]["whole step"]["norm"], rel=1e-5)


def test_a_model_by_others_has_its_gradients_to_itself(told: dict[int, Any]) -> None:
    found = told[1]["by others"]
    assert found["apart"] == []
    assert set(found["moved"]) > TABLES
    assert found["norm"] == pytest.approx(told[1]["whole step"]["norm"], rel=1e-5)


def test_what_else_a_loss_has_of_a_table_joins_it(told: dict[int, Any]) -> None:
    found, wanted = told[1]["penalised"], told[1]["penalised, by others"]
    assert set(found["apart"]) == TABLES
    assert found["left"] == []
    assert found["norm"] == pytest.approx(wanted["norm"], rel=1e-5)
    assert found["norm"] != pytest.approx(told[1]["whole step"]["norm"], rel=0.1)


def test_a_step_that_is_not_finite_forgets_them(told: dict[int, Any]) -> None:
    found = told[1]["not finite"]
    assert set(found["apart"]) == TABLES
    assert found["left"] == found["moved"] == []
