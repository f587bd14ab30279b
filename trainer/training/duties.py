"""Duties of a run between its steps: record, sample, validate.

All functions are called by all ranks at the same step.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.budget.machine import peak_bytes
from trainer.checkpoint.state import TrainState
from trainer.data.corpus import Corpus
from trainer.data.guard import check_blocks, sampled
from trainer.data.streams import Streams
from trainer.distributed import gather_objects, largest, sum_floats
from trainer.errors import Exit
from trainer.inference.generate import generate
from trainer.inference.sampling_options import Sampling
from trainer.inference.score import score
from trainer.outside import printable
from trainer.protocol import reach_of
from trainer.track.perplexity import perplexity
from trainer.track.run_files.status import (
    STATUS_FILE,
    RunState,
    Status,
    write_last_status,
    write_status,
)
from trainer.track.run_files.stream_files import FIELDS, write_losses
from trainer.track.throughput import rates
from trainer.training import due, saving
from trainer.training.ending.stopping import Wish
from trainer.training.run import Run, StepStats

log = logging.getLogger(__name__)


def record(run: Run, state: TrainState, stats: StepStats) -> None:
    """Add the step to the window of steps; at the window's end log its mean loss and metrics."""
    loss = window_loss(run, state, stats)
    if loss is None:
        return
    extra = run.window_extra(state)
    grad_norm = run.engine.grad_norm
    values: dict[str, float | int | str | None] = {
        "train/loss": loss,
        "train/ppl": perplexity(loss),
        **{f"train/extra/{name}": x / state.window_tokens for name, x in extra.items()},
        "train/epoch": run.streams.epochs(state.data_step),
        "optim/lr": stats.lr,
        "optim/grad_norm": None if grad_norm is None else float(grad_norm),
        "optim/loss_scale": run.engine.loss_scale,
        "optim/skipped_steps": state.skipped_steps,
        **_rates(run, state.window_tokens, state.window_seconds),
        "memory/peak_gib": peak_gib(run.world.device),
    }
    run.tracker.log("train", values=values, **state.counters)
    state.last_loss = loss
    clear_window(state)
    set_status(run, state, "running")


def window_loss(run: Run, state: TrainState, stats: StepStats) -> float | None:
    """Add the step to the window of steps; at the window's end return its mean loss."""
    state.window_loss_sum += stats.loss_sum
    for name, loss in stats.extra.items():
        state.window_extra[name] = state.window_extra.get(name, 0) + loss
    state.window_tokens += stats.n_tokens
    state.window_seconds += stats.seconds
    state.seconds += stats.seconds
    if not due.record_is_due(run.experiment, state):
        return None
    (loss_sum,) = sum_floats([float(state.window_loss_sum)], run.world)
    return loss_sum / state.window_tokens


def learn(run: Run, state: TrainState) -> None:
    """Count what became of the last update, if that is not known yet."""
    if run.engine.learned() is False:
        state.skipped_steps += 1
        event(run, state, "skip", loss_scale=run.engine.loss_scale)


def asked(run: Run) -> Wish:
    """Return the strongest request to stop of any rank so far. Collective."""
    return Wish(largest(run.stops.poll(), run.world))


def validate_if_due(run: Run, state: TrainState, *, at_end: bool = False) -> Wish:
    """Validate if it is due and the corpus has a valid split.

    Returns:
        A request to stop that came meanwhile, for which the validation was given up.
    """
    if "valid" in run.corpus.splits and due.validation_is_due(run.experiment, state, at_end=at_end):
        return _validate(run, state)
    return Wish.NONE


def _validate(run: Run, state: TrainState) -> Wish:
    """Score the valid split with a memory of its own, and note a new best loss."""
    wishes = [Wish.NONE]

    def should_stop() -> bool:
        wishes.append(asked(run))
        return wishes[-1] is not Wish.NONE

    experiment, engine, split = run.experiment, run.engine, run.corpus.splits["valid"]
    engine.train(False)
    with pause(run, state, "validating") as on_share:
        result = score(
            engine,
            split,
            scoring=experiment.valid,
            reach=reach_of(engine.model, n_layer=experiment.model.n_layer),
            first_memory=lambda rows, mem_len: engine.reading_memory(rows, mem_len=mem_len),
            cutoffs=experiment.model.cutoffs,
            world=run.world,
            should_stop=should_stop,
            on_share=on_share,
            cut_documents=experiment.data.memory_reset == "document",
        )
    if result is None:
        return wishes[-1]
    state.validated_step = state.step
    state.evals_since_best += 1
    if due.is_new_best(state, result.loss):
        state.best_loss, state.best_step, state.evals_since_best = result.loss, state.step, 0
        state.best_of = run.valid_of
        if state.saved_step == state.step:  # saved before a stop interrupted the validation
            saving.mark_best(run, state.step)
    values = {f"valid/{name}": value for name, value in result.metrics(split).items()}
    values_and_best = {**values, "valid/best_loss": state.best_loss}
    run.tracker.log("valid", values=values_and_best, of=run.valid_of, **state.counters)
    return Wish.NONE


def sample_if_due(run: Run, state: TrainState) -> None:
    """Record a sample of text if it is due, drawn with a generator and a memory of its own."""
    if not due.sample_is_due(run.experiment, state):
        return
    sample = run.experiment.sample
    sampling = Sampling(
        n_tokens=sample.n_tokens,
        temperature=sample.temperature,
        seed=run.experiment.seed + state.step,
    )
    with pause(run, state, "sampling"), run.engine.predicting() as model:
        pieces = generate(
            model,
            run.corpus.vocabulary,
            prompt=sample.prompt,
            sampling=sampling,
            scoring=run.experiment.valid,
            cutoffs=run.experiment.model.cutoffs,
            dtype=run.engine.dtype,
            device=run.world.device,
        )
        text = sample.prompt
        for piece in pieces:
            text += piece
            run.world.progress.note("a token of a sample")
    run.tracker.log("sample", values={"sample/text": text}, **state.counters)


def check_corpus(corpus: Corpus, streams: Streams) -> None:
    """Hash some blocks of the splits that a run reads; each rank draws its own.

    Raises:
        CorpusError: a block was changed since the corpus was prepared.
    """
    for split in corpus.splits.values():
        if split.name in ("train", "valid"):
            own = streams.split is split
            also = streams.begins(0, 0)[:1].tolist() if own else ()
            check_blocks(split.path, split.header, sampled(split.header, also=also))


def check_corpus_if_due(run: Run, state: TrainState) -> None:
    """Hash the block that one of this rank's streams reads now, if it is due: of each in turn.

    Raises:
        CorpusError: the block was changed since the corpus was prepared.
    """
    if due.corpus_check_is_due(state):
        begins_B = run.streams.begins(state.data_step, 0)
        place = int(begins_B[state.step // due.CHECKED_STEPS % len(begins_B)])
        header = run.streams.split.header
        check_blocks(run.streams.split.path, header, sampled(header, also=[place], n=0))


def file_losses(run: Run, state: TrainState, *, bad_step: int) -> None:
    """Write the kept losses into the run's directory, called by what happened. Collective.

    A full disk does not end the run.
    """
    steps, nats = run.losses.read()
    ids = np.concatenate([run.streams.stream_ids(slot) for slot in range(run.streams.slots)])
    everyones = gather_objects((ids, nats), run.world)
    if not run.world.is_main:
        return
    streams = np.concatenate([own for own, _ in everyones])
    order = np.argsort(streams)
    table = np.empty((len(steps), len(streams)), FIELDS)
    table["attempt"], table["step"] = state.attempt, np.array(steps, np.int64)[:, None]
    table["stream"] = streams[order]
    table["nats"] = np.concatenate([found for _, found in everyones], axis=1)[:, order]
    try:
        write_losses(run.run_dir, table.ravel(), step=bad_step)
    except OSError as error:
        run.failures.tell("losses of streams", f"the losses of streams were not filed: {error}")


def tell_trace(run: Run, state: TrainState, trace: Path | None) -> None:
    """Record the path of the profiled steps' trace, if `trace` was written."""
    if trace is not None:
        event(run, state, "profile", path=str(trace), opens_in="ui.perfetto.dev")


def pause(
    run: Run, state: TrainState, name: str
) -> AbstractContextManager[Callable[[float], None]]:
    """Show what the run does at this step instead of training; see `due.pauses`."""
    return run.tracker.pause(name, step=state.step, update=state.update)


def event(run: Run, state: TrainState, name: str, **details: Any) -> None:
    """Record an event at this step."""
    run.tracker.event(name, **state.counters, **details)


def set_status(
    run: Run,
    state: TrainState,
    run_state: RunState,
    *,
    reason: str | None = None,
    code: Exit | None = None,
) -> Status | None:
    """Rewrite `status.json` and return the status; a full disk does not end the run.

    Ranks other than 0 do nothing, and return None.
    """
    if not run.world.is_main:
        return None
    status = Status.of_this_process(
        state=run_state,
        step=state.step,
        update=state.update,
        max_steps=run.experiment.train.max_steps,
        eta_s=run.tracker.eta_s,
        attempt=state.attempt,
        reason=None if reason is None else printable(reason),
        exit_code=code,
        result=result(run, state),
        best_of=state.best_of,
    )
    write = write_status if run_state in ("starting", "running") else write_last_status
    try:
        write(run.run_dir, status)
    except OSError as error:
        run.failures.tell(STATUS_FILE, f"{STATUS_FILE} is not of this step: {error}")
    return status


def result(run: Run, state: TrainState) -> dict[str, float | int | str | None]:
    """Return the result of the run so far, for `status.json`."""
    return {
        "corpus": run.corpus.name,
        "corpus_hash": run.corpus.hash,
        "precision": run.identity["precision"],
        "train/loss": state.last_loss,
        "valid/best_loss": state.best_loss,
        "valid/best_step": state.best_step,
        "tokens": state.n_tokens,
        **_rates(run, state.n_tokens, state.seconds),
    }


def _rates(run: Run, n_tokens: int, seconds: float) -> dict[str, float]:
    n_devices, peak = run.world.world_size, run.peak_tokens_per_s
    return rates(n_tokens, seconds, n_devices=n_devices, peak_tokens_per_s=peak)


def peak_gib(device: torch.device) -> float:
    """Return the most memory held so far: by tensors on a GPU, otherwise by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_bytes() / 2**30


def clear_window(state: TrainState) -> None:
    """Begin a new window of steps for the next record."""
    state.window_loss_sum.zero_()
    state.window_extra.clear()
    state.window_tokens, state.window_seconds = 0, 0.0
