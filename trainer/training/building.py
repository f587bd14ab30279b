"""Building the model and the engine of a plan, and giving them weights."""

from contextlib import nullcontext
from pathlib import Path

from torch import nn

from trainer.checkpoint.contents.foreign import foreign_weights, is_foreign, reading
from trainer.checkpoint.contents.tensors import load_engine
from trainer.distributed import World
from trainer.engine import deepspeed
from trainer.engine.engine import Engine
from trainer.errors import InputError
from trainer.host_cpu import returning_freed
from trainer.model.build import build_in_parts, build_model
from trainer.model.initialise import Fills
from trainer.training.opening.plan import Plan


def built(plan: Plan) -> tuple[nn.Module, Fills | None]:
    """Return the model; with it, at stage 3, what is to fill the parts that each rank keeps.

    Another's model is built whole, since what its constructors draw is not known.
    """
    experiment, n_words = plan.arguments.experiment, plan.corpus.vocabulary.size
    if plan.resolved.zero_stage == 3 and experiment.model.builder is None:
        return build_in_parts(experiment.model, vocabulary_size=n_words, seed=experiment.seed)
    model = build_model(experiment.model, vocabulary_size=n_words, seed=experiment.seed)
    return model, None


def engine_of(plan: Plan, world: World, model: nn.Module, fills: Fills | None) -> Engine:
    """Build the engine; a model in parts leaves no more than its parts in memory. Collective.

    Raises:
        InputError: the length of memory is to change, and the model cannot change it.
    """
    experiment = plan.arguments.experiment
    if experiment.train.mem_len_schedule is not None and not hasattr(model, "resized_memory"):
        raise InputError(
            f"train.mem_len_schedule: {type(model).__name__} has no resized_memory, see "
            "trainer.protocol.RecurrentModel: leave the schedule out"
        )
    in_parts = fills is not None and world.device.type == "cpu"
    with returning_freed() if in_parts else nullcontext():
        return deepspeed.build(
            model,
            optim=experiment.optim,
            max_steps=experiment.train.max_steps,
            resolved=plan.resolved,
            world=world,
            fills=fills,
            unrolls=experiment.train.bptt_segments > 1,
        )


def take_weights(path: Path, engine: Engine) -> None:
    """Give the engine the weights of a checkpoint, or of a file of others. Collective."""
    if is_foreign(path):
        weights = foreign_weights(path, engine.model, shapes=engine.full_state.shapes())
        engine.full_state.write(reading(weights), optimizer_step=0)
    else:
        load_engine(path, engine, optimizer_step=0)
