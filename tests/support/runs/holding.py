"""What a rank of a real training holds and sends, beside what a plan says of it."""

import gc
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from bare_run import bare_run
from traffic import Traffic

from trainer.budget.check import Budget, words_of
from trainer.budget.held import brought_together, held, sent
from trainer.checkpoint.state import TrainState
from trainer.config.deepspeed.file import resolve
from trainer.config.recipe import ExperimentConfig
from trainer.data.corpus import open_corpus
from trainer.distributed import World
from trainer.training.loop import train_step
from trainer.training.run import Run

Storages = dict[int, int]
"""Bytes by address."""


def storages(tensors: Iterable[Any]) -> Storages:
    """Return where tensors lie; what several share is there once."""
    found = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


def everything() -> Storages:
    """Return where all tensors of this process lie, gradients among them."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    return storages([*tensors, *(t.grad for t in tensors if t.is_leaf)])


def beyond(before: Storages) -> int:
    """Return bytes of tensors that were not there before."""
    now = everything()
    return sum(size for place, size in now.items() if before.get(place) != size)


def parts(run: Run) -> dict[str, int]:
    """Return bytes of weights and of what the optimizer keeps; a storage of both is of weights."""
    module, base = run.engine.ds.module, run.engine.ds.basic_optimizer
    weights = storages(
        tensor for p in module.parameters() for tensor in (p.data, getattr(p, "ds_tensor", None))
    )
    kept = storages([x for state in base.state.values() for x in state.values()])
    kept |= storages(run.engine.full_state._flat())
    own = (size for place, size in kept.items() if place not in weights)
    return {"weights": sum(weights.values()), "optimizer": sum(own)}


def measured(
    world: World, corpus: Path, raw: dict[str, Any], experiment: ExperimentConfig
) -> dict[str, Any]:
    """Return what this rank holds before a second step's update and sends in it, and the plan.

    Collective.
    """
    before = everything()
    run, state = bare_run(world, corpus, raw, experiment), TrainState()
    train_step(run, state)
    found: dict[str, Any] = {}
    step = run.engine.step

    def look_and_step() -> None:
        if run.engine.ds.is_gradient_accumulation_boundary():
            found.update(parts(run) | {"all": beyond(before)})
        step()

    run.engine.step = look_and_step  # type: ignore[method-assign]
    with Traffic(world.world_size) as traffic:
        train_step(run, state)
    found["memory"] = sum(storages(leaf for m in state.memories for leaf in m.layers).values())
    found["sent"] = sum(traffic.bytes_by_collective.values())
    n_parameters = sum(torch.Size(s).numel() for s in run.engine.full_state.shapes().values())
    run.engine.destroy()
    return {"measured": found, "planned": planned(world, corpus, raw, experiment)} | {
        "parameters": n_parameters
    }


def planned(
    world: World, corpus: Path, raw: dict[str, Any], experiment: ExperimentConfig
) -> dict[str, Any]:
    """Return the plan's numbers of the same run."""
    from trainer.model.build import build_in_parts

    words = words_of(experiment.model, open_corpus(corpus))
    model = build_in_parts(experiment.model, vocabulary_size=words.size, seed=0).model
    numels = [p.numel() for p in model.parameters()]
    resolved = resolve(raw, experiment, world_size=world.world_size, where="plan")
    budget = Budget(experiment, words, resolved, world)
    how = budget.how
    zero = resolved.values["zero_optimization"]
    holds = held(numels, how, zero, n_multiplied=budget.weights.multiplied)
    buckets = holds.buckets if how.stage == 3 else 0  # at 1 and 2 only while they are sent
    everything = holds.sum + buckets
    together = brought_together(experiment.optim, model)
    sends = sent(numels, how, zero, together=together)
    return asdict(holds) | {"all": everything, "sent": sends.sum}
