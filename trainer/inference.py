"""A trained model without DeepSpeed: what `txl eval` and `txl generate` run."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from trainer import checkpoint, checkpoint_files
from trainer.config import ExperimentConfig, experiment_from, parse_experiment
from trainer.data.vocabulary import Vocabulary, load_vocabulary
from trainer.errors import InputError
from trainer.model.build import build_model
from trainer.protocol import Memory, Output, Segment

log = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16", "bf16_autocast"]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A checkpoint's model in evaluation mode; calling it is a `trainer.evaluate.Forward`."""

    module: nn.Module
    experiment: ExperimentConfig
    vocabulary: Vocabulary
    path: Path
    saved: dict[str, Any]
    precision: Precision
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of memory."""
        return {"fp32": torch.float32, "fp16": torch.float16}.get(self.precision, torch.bfloat16)

    def autocast(self) -> torch.autocast:
        """The context that forward passes run in."""
        enabled = self.precision == "bf16_autocast"
        return torch.autocast(self.device.type, torch.bfloat16, enabled)

    def __call__(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> Output:
        """Forward pass in the model's precision."""
        with self.autocast():
            output = self.module(segment, memory, clamp_len=clamp_len, same_length=same_length)
        return cast(Output, output)

    def empty_memory(self, n_rows: int, mem_len: int) -> Memory:
        """Memory of rows that have read nothing."""
        module = cast(Any, self.module)
        memory = module.empty_memory(n_rows, mem_len=mem_len, dtype=self.dtype, device=self.device)
        return cast(Memory, memory)


def open_trained(
    run_dir: Path, *, which: str, precision: Precision | None, device: torch.device
) -> TrainedModel:
    """Load the checkpoint `which` (see `checkpoint_files.resolve`) of a run, verified.

    Args:
        run_dir: of the run.
        which: best, last, a step, or a path.
        precision: None is the run's own; fp16 becomes fp32 on a CPU.
        device: to load to.

    Raises:
        InputError: there is no such run or checkpoint, or it is not whole.
    """
    if not (run_dir / "config.json").is_file():
        raise InputError(f"{run_dir} is no run directory (config.json is missing)")
    path = checkpoint_files.resolve(run_dir, which)
    saved = checkpoint_files.verify(path)
    experiment = experiment_from(saved["experiment"], where=f"{path}/state.json")
    config = run_dir / "config.json"
    configured = parse_experiment(config.read_bytes(), where=str(config)).model.factory
    if experiment.model.factory != configured:  # code is named by a configuration alone
        raise InputError(
            f"{path} is of model.factory {experiment.model.factory}, but {config} says {configured}"
        )
    vocabulary = load_vocabulary(run_dir / "vocabulary.json")
    if vocabulary.hash != saved["vocabulary"]:
        raise InputError(f"{run_dir}/vocabulary.json is not the one that {path} was trained with")
    chosen: Precision = precision or saved["precision"]
    if chosen == "fp16" and device.type == "cpu":
        log.warning("fp16 is slow on a CPU: evaluating in fp32")
        chosen = "fp32"
    module = build_model(experiment.model, vocabulary_size=vocabulary.size, seed=0)
    weights = checkpoint.read_weights(path)
    missing, unexpected = module.load_state_dict(_with_ties(module, weights), strict=False)
    if missing or unexpected:
        raise InputError(f"{path} does not fit its model: lacks {missing}, besides {unexpected}")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(chosen, torch.float32)
    module.to(device=device, dtype=dtype).eval()
    return TrainedModel(
        module=module, experiment=experiment, vocabulary=vocabulary, path=path, saved=saved,
        precision=chosen, device=device,
    )  # fmt: skip


def corpus_of(run_dir: Path) -> Path:
    """Where the run's corpus was.

    Raises:
        InputError: the run does not say.
    """
    file = run_dir / "corpus.json"
    try:
        return Path(json.loads(file.read_bytes())["path"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{file} names no corpus: give one with --data") from None


def _with_ties(module: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under every name of a tied parameter; a checkpoint holds it under its first."""
    first: dict[int, str] = {}
    full = dict(weights)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept in weights:
            full[name] = weights[kept]
    return full
