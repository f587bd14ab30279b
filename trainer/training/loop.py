"""The training loop: run, step, micro step.

Nothing of ours waits for the device inside a step: losses are summed on the device and read once
per record. `trainer.engine.engine` says where a step waits, and where what became of an update
is only learned in the next step.
"""

import time

import numpy as np
import torch

from trainer.checkpoint.state import TrainState
from trainer.engine.passes.usual import How
from trainer.errors import Exit
from trainer.training import due, duties, saving
from trainer.training.bad_losses import recovery
from trainer.training.bad_losses.spikes import handle_spike
from trainer.training.due import is_done
from trainer.training.ending.finishing import finish
from trainer.training.ending.stopping import Wish
from trainer.training.run import Run, StepStats


def train(run: Run, state: TrainState) -> Exit:
    """Train until `max_steps` updates, the end of patience or a request to stop. Collective.

    Validation comes before saving, so that a resumed run logs the same sequence. Checkpoints are
    written while the next steps run.

    Raises:
        NonFiniteError: the loss stayed non-finite after the one rollback.
    """
    state.memories = state.memories or run.empty_memories(state.data_step)
    best_step = state.best_step
    wish = duties.asked(run)  # requests from while the run was built
    if wish is Wish.NONE:  # a parent's weights, or an interrupted validation
        wish = duties.validate_if_due(run, state)
    if state.best_step != best_step:
        saving.save_if_due(run, state)
    while wish is Wish.NONE and not is_done(run.experiment, state):
        run.profiler.before_step(state.step)
        stats = train_step(run, state)
        duties.tell_trace(run, state, run.profiler.after_step(state.step))
        verdict = run.watch.exchange(run.stops.poll(), stats.nats_S, n_tokens=stats.n_tokens)
        run.background.advance()
        if recovery.handle_nonfinite(run, state, verdict) or handle_spike(run, state, verdict):
            continue
        wish = verdict.wish
        if wish is not Wish.NONE or due.anything_is_due(run.experiment, state):
            duties.learn(run, state)
        duties.record(run, state, stats)
        duties.check_corpus_if_due(run, state)
        duties.sample_if_due(run, state)
        if wish is Wish.NONE:
            wish = duties.validate_if_due(run, state)
        if wish is Wish.NONE and not is_done(run.experiment, state):
            saving.save_if_due(run, state)  # `finish` saves the last one
    return finish(run, state, wish)


def train_step(run: Run, state: TrainState) -> StepStats:
    """Attempt one update: run a micro step per slot, each with its own streams and memory."""
    began = time.perf_counter()
    streams, engine, world, config = run.streams, run.engine, run.world, run.experiment.train
    engine.train(True)
    if streams.forgets_memory(state.data_step) or not state.memories:
        state.memories = run.empty_memories(state.data_step)
    n_tokens = streams.n_tokens(state.data_step)
    # The engine divides by slots and averages over ranks: the result is the mean per token.
    weight = world.world_size * engine.slots / n_tokens
    mem_len = streams.lengths(state.data_step).mem_len
    how = How(weight, config.clamp_len, config.same_length, mem_len)
    lr, nats = 0.0, []
    extra: dict[str, torch.Tensor] = {}
    loss_sum = torch.zeros((), dtype=torch.float64, device=world.device)
    for slot, memory in enumerate(state.memories):
        torch.manual_seed(dropout_seed(run.experiment.seed, state.step, slot, world.rank))
        segments = run.reader.segments(state.data_step, slot)
        passed = run.passes(segments, memory, how)
        if slot == engine.slots - 1:
            duties.learn(run, state)  # of the step before, whose rate follows
            lr = engine.lr
        engine.step()
        loss_sum += passed.loss_sum
        for name, loss in passed.extra.items():
            extra[name] = extra.get(name, 0) + loss.double()
        state.memories[slot] = passed.memory
        world.progress.note(f"slot {slot} of step {state.step + 1:,}")
        nats.append(passed.nats_B)
    state.step += 1
    state.data_step += 1
    state.n_tokens += n_tokens
    if (next_len := streams.lengths(state.data_step).mem_len) != mem_len:
        state.memories = [engine.resized(memory, mem_len=next_len) for memory in state.memories]
    world.progress.note_step(state.step)
    if not engine.learns_late:
        duties.learn(run, state)
    return StepStats(
        loss_sum=loss_sum,
        extra=extra,
        n_tokens=n_tokens,
        lr=lr,
        nats_S=run.losses.keep(state.step, nats),
        seconds=time.perf_counter() - began,
    )


def dropout_seed(seed: int, step: int, slot: int, rank: int) -> int:
    """Return a seed for this micro step of this rank alone: a resumed run drops the same."""
    return int(np.random.SeedSequence((seed, step, slot, rank)).generate_state(1, np.uint64)[0])
