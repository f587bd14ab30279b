"""Train language models that carry memory across text: Transformer-XL on DeepSpeed.

The functions import what they need when they are called: every command reads this file before it
can handle a Ctrl-C. `trainer/calls/README.md` shows them at work.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from trainer.calls.training import TrainResult
    from trainer.config.precision import Precision
    from trainer.config.recipe import ExperimentConfig
    from trainer.conformance.checks import Checked
    from trainer.inference.trained import TrainedModel
    from trainer.track.record.records import Record, RecordKind
    from trainer.track.run_files.results import EvalResult

__all__ = ["check_model", "evaluate", "generate", "load", "read_metrics", "train"]


def train(
    recipe: "str | Path | ExperimentConfig",
    *,
    data: str | Path,
    run_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    deepspeed_config: str | Path | None = None,
    resume: Literal["auto", "must", "never"] = "auto",
    init_from: str | Path | None = None,
    resume_from: str | Path | None = None,
    allow_change: Sequence[str] = (),
    beyond_memory: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> "TrainResult":
    """Train in this process, as the training command does, and leave the process as it was.

    The same call again continues a run that has stopped, and returns the result of one that is
    done. Without a launcher it trains on one device; under one, all ranks call it once. Ctrl-C and
    signals are obeyed once a checkpoint is saved: then Ctrl-C raises `KeyboardInterrupt`.

    Args:
        recipe: name of a packaged recipe, path of a JSON file, or an experiment.
        data: folder of the corpus.
        run_dir: the run's directory; None is runs/RECIPE-TIME.
        overrides: values of the experiment's fields by their paths: {"train.max_steps": 100}.
        deepspeed_config: name of a packaged DeepSpeed file, or a path; None goes by the device.
        resume: go on from the newest whole checkpoint of `run_dir`: if there is one, or fail.
        init_from: a run, a checkpoint or another program's file of safetensors, whose weights
            alone are taken, to start at step 0.
        resume_from: a checkpoint to go on from in a new `run_dir`.
        allow_change: fields that may differ from the resumed run's.
        beyond_memory: start a run that needs more memory than there is.
        device: where to train; one kind of device in the life of a process.

    Raises:
        trainer.errors.InputError: the recipe, corpus, directory or an override cannot be used.
        trainer.errors.ShortageError: memory ran out.
    """
    from trainer.calls import training

    return training.train(
        recipe,
        data=_path(data),
        run_dir=_path_or_none(run_dir),
        overrides=overrides or {},
        deepspeed_config=None if deepspeed_config is None else str(deepspeed_config),
        resume=resume,
        init_from=_path_or_none(init_from),
        resume_from=_path_or_none(resume_from),
        allow_change=tuple(allow_change),
        beyond_memory=beyond_memory,
        device=device,
        environ=os.environ,
    )


def check_model(
    target: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    fast: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "cpu",
) -> "list[Checked]":
    """Check whether a model holds to the Protocol, as `txl check-model` does.

    Each result has `holds`, and `finding` with the smallest input for which it does not.

    Args:
        target: package:build of a factory, the name of a packaged model, or a recipe.
        overrides: values of fields by their paths: {"model.options.width": 32}.
        fast: leave out the trainings in processes of their own.
        device: where to compute; trainings are on the CPU, and left out elsewhere.

    Raises:
        trainer.errors.InputError: the model cannot be built.
    """
    from trainer.calls import checking

    return checking.check_model(
        str(target), overrides=overrides or {}, fast=fast, device=device, environ=os.environ
    )


def evaluate(
    run: str | Path,
    *,
    data: str | Path | None = None,
    split: Literal["train", "valid", "test"] = "test",
    checkpoint: str = "best",
    tgt_len: int | None = None,
    mem_len: int | Sequence[int] | None = None,
    clamp_len: int | None = None,
    same_length: bool | None = None,
    batch_size: int | None = None,
    cache: int | None = None,
    dynamic: Literal["sgd", "rms"] | None = None,
    precision: "Precision | None" = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    trust: bool = False,
) -> "list[EvalResult]":
    """Score a split of a corpus, every token but the first exactly once; file and return results.

    There is a result for each length of memory, in the run's folder `evals` as well. Lengths that
    are None are those of the recipe's evaluations. `txl eval --help` explains the arguments.

    Args:
        run: the run's directory.
        data: folder of the corpus; None is the run's.
        split: part of the corpus.
        checkpoint: best, last, a step, or a path.
        tgt_len: tokens scored per forward pass and row.
        mem_len: tokens of memory, or several lengths to compare.
        clamp_len: distances beyond this share a position.
        same_length: whether every query sees exactly mem_len keys.
        batch_size: rows read side by side; changes no result.
        cache: states of a continuous cache, tuned on valid.
        dynamic: rule of dynamic evaluation, tuned on valid.
        precision: None is the run's.
        device: where to compute.
        trust: whether to run the code that the run names as its model.

    Raises:
        trainer.errors.InputError: the run, corpus, split or a length cannot be used.
        trainer.errors.NonFiniteError: dynamic evaluation made weights that are not finite.
    """
    from trainer.calls import models
    from trainer.inference.eval_options import EvalOptions

    lengths = [mem_len] if isinstance(mem_len, int) else mem_len
    options = EvalOptions(
        run_dir=_path(run),
        data=_path_or_none(data),
        split=split,
        checkpoint=checkpoint,
        tgt_len=tgt_len,
        mem_len=None if lengths is None else ",".join(map(str, lengths)),
        clamp_len=clamp_len,
        same_length=same_length,
        batch_size=batch_size,
        cache=cache,
        dynamic=dynamic,
        precision=precision,
        trust_code=trust,
    )
    return models.evaluate(options, device=device, environ=os.environ)


def generate(
    run: str | Path,
    *,
    prompt: str = "",
    n_tokens: int = 200,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    stop: str | None = None,
    seed: int = 0,
    cache: int | None = None,
    dynamic: Literal["sgd", "rms"] | None = None,
    checkpoint: str = "best",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    trust: bool = False,
) -> str:
    """Return a text that continues `prompt`, as `txl generate` does; the prompt is not in it.

    `trainer.load(run).generate` gives many texts without reading the model for each.

    Args:
        run: a run's directory, or an exported model.
        prompt: text to continue; an empty one means the end of a line or document.
        n_tokens: tokens to make.
        temperature: 0 takes the likeliest token; applied first, then top_k, then top_p.
        top_k: draw from this many of the likeliest tokens; 0 is all.
        top_p: draw from the fewest of the likeliest tokens that reach this probability.
        stop: text before which the output ends.
        seed: seed of the draws.
        cache: states of a continuous cache, with the settings that `evaluate` has tuned.
        dynamic: rule of dynamic evaluation, with the settings that `evaluate` has tuned.
        checkpoint: best, last, a step, or a path.
        device: where to compute.
        trust: whether to run the code that the run names as its model.

    Raises:
        trainer.errors.InputError: the run cannot be used, the vocabulary cannot encode the prompt,
            a value is out of range, or settings were not tuned for this checkpoint.
    """
    from trainer.calls import models
    from trainer.inference.sampling_options import Sampling

    return models.generate(
        _path(run),
        prompt=prompt,
        sampling=Sampling(
            n_tokens=n_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            stop=stop,
            seed=seed,
            cache=cache,
            dynamic=dynamic,
        ),
        checkpoint=checkpoint,
        device=device,
        trust=trust,
        environ=os.environ,
    )


def load(path: str | Path, *, device: str = "cpu", trust: bool = False) -> "TrainedModel":
    """Return the model that `txl export` wrote to `path`, or the best one of a run's directory.

    It computes in fp32, on a GPU with what this process has set: PyTorch multiplies an LSTM's
    weights in TF32 unless `torch.backends.cudnn.allow_tf32` is False.

    Neither deepspeed nor wandb is needed. With `trust`, code that the directory names as its model
    (`model.factory`) is imported and run.

    Raises:
        trainer.errors.InputError: there is no model, it is not whole, or it names code without
            `trust`.
    """
    import torch

    from trainer.inference.loading import open_trained

    at = torch.device(device)
    return open_trained(_path(path), which="best", precision="fp32", device=at, trust=trust)


def read_metrics(run_dir: str | Path, *, kind: "RecordKind | None" = None) -> "list[Record]":
    """Return a run's records by ascending step, each step once per kind, and all events.

    Which record is kept of a step that was done again, says
    `trainer.track.record.metrics.read_metrics`.

    Args:
        run_dir: the run's directory.
        kind: the only kind of record wanted; None means all.

    Raises:
        trainer.errors.InputError: the run has no file of records, or a newer version of the trainer
            wrote it.
    """
    from trainer.track.record import metrics

    return metrics.read_metrics(run_dir, kind=kind)


def _path(text: str | Path) -> Path:
    from trainer.shell import typed_path

    return typed_path(text)


def _path_or_none(text: str | Path | None) -> Path | None:
    return None if text is None else _path(text)
