"""Trained models without DeepSpeed, for `trainer.load`, `txl eval` and `txl generate`."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from trainer.checkpoint.tensor_files import refuse_misfit
from trainer.config.precision import Precision, arithmetic_of
from trainer.config.recipe import ExperimentConfig
from trainer.data.corpus import Corpus, open_corpus
from trainer.data.named import named_corpus
from trainer.data.rows import one_row
from trainer.data.vocabulary.files import Vocabulary, encode_given
from trainer.errors import InputError
from trainer.inference.generate import generate
from trainer.inference.sampling_options import Sampling
from trainer.inference.source import Source, read_source
from trainer.model.build import build_model
from trainer.model.memory import LayerInputs
from trainer.model.precision import autocast_of, compute_dtype_of, weight_dtype_of
from trainer.outside import shortened
from trainer.protocol import Memory, Output, Segment, reading_memory

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A checkpoint's model in evaluation mode; it is a `trainer.inference.score.Forward`."""

    module: nn.Module
    experiment: ExperimentConfig
    vocabulary: Vocabulary
    path: Path
    saved: dict[str, Any]
    weights_hash: dict[str, str]
    """The hash of each file of weights, by name."""
    precision: Precision
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of memory."""
        return compute_dtype_of(self.precision)

    def autocast(self) -> torch.autocast:
        """Return the context in which forward passes run."""
        return autocast_of(self.precision, self.device)

    def __call__(
        self, segment: Segment, memory: Memory, *, clamp_len: int | None, same_length: bool
    ) -> Output:
        """Run a forward pass in the model's precision."""
        with self.autocast():
            output = self.module(segment, memory, clamp_len=clamp_len, same_length=same_length)
        return cast(Output, output)

    def reading_memory(self, n_rows: int, mem_len: int) -> Memory:
        """Return memory of rows that have read nothing."""
        return reading_memory(
            self.module, n_rows, mem_len=mem_len, dtype=self.dtype, device=self.device
        )

    def zero_memory(self, n_rows: int, mem_len: int) -> Memory:
        """Return the memory that fairseq begins with: inputs of zero, all of them valid."""
        module = cast(Any, self.module)
        memory: LayerInputs = module.empty_memory(
            n_rows, mem_len=mem_len, dtype=self.dtype, device=self.device
        )
        valid_B = torch.full_like(memory.valid_B, mem_len)
        return memory._replace(valid_B=valid_B, valid_min=mem_len)

    def nats(self, text: str) -> list[float]:
        """Return the nats of every token of `text` but the first, by the recipe's eval settings.

        Raises:
            InputError: the vocabulary cannot encode the text, or the model returns no nats per
                token.
        """
        scoring, cutoffs = self.experiment.eval, self.experiment.model.cutoffs
        ids = np.array(encode_given(self.vocabulary, text, what="the text"), np.int64)
        memory, nats = self.reading_memory(1, scoring.mem_len), list[float]()
        for begin in range(0, len(ids) - 1, scoring.tgt_len):
            piece = ids[begin : begin + scoring.tgt_len + 1]
            segment = one_row(piece[:-1], piece[1:], cutoffs=cutoffs).to(self.device)
            with torch.no_grad():
                output = self(
                    segment, memory, clamp_len=scoring.clamp_len, same_length=scoring.same_length
                )
            if output.nll_BT is None:
                raise InputError("this model does not tell the nats of single tokens")
            memory = output.memory
            nats += output.nll_BT[0].tolist()
        return nats

    def generate(self, prompt: str, *, n_tokens: int = 200, **sampling: Any) -> str:
        """Return a text that continues `prompt`; `sampling` takes the fields of `Sampling`.

        Raises:
            InputError: the vocabulary cannot encode the prompt, or a setting is out of range.
        """
        return "".join(self.stream(prompt, Sampling(n_tokens=n_tokens, **sampling)))

    def stream(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """Yield what `generate` returns, piece by piece; raise its errors at once."""
        pieces = generate(
            self.module,
            self.vocabulary,
            prompt=prompt,
            sampling=sampling,
            scoring=self.experiment.eval,
            cutoffs=self.experiment.model.cutoffs,
            dtype=self.dtype,
            device=self.device,
        )
        return self._in_precision(pieces)

    def _in_precision(self, pieces: Iterator[str]) -> Iterator[str]:
        with self.autocast():
            yield from pieces


def open_trained(
    path: Path,
    *,
    which: str,
    precision: Precision | None,
    device: torch.device,
    trust: bool = False,
) -> TrainedModel:
    """Load and verify the checkpoint `which` of a run, or an exported model.

    Args:
        path: directory of a run, or a folder that `txl export` made.
        which: names one of a run's checkpoints: see `trainer.checkpoint.folder.resolve`.
        precision: None means the run's own; fp16, autocast or not, becomes fp32 on a CPU.
        device: the device to load to.
        trust: whether to run the code that a run's directory names as its model.

    Raises:
        InputError: there is no such run or checkpoint, it is not whole, or it names code that is
            not trusted.
    """
    return load_source(read_source(path, which), precision=precision, device=device, trust=trust)


def load_source(
    source: Source, *, precision: Precision | None, device: torch.device, trust: bool
) -> TrainedModel:
    """Build a source's model with its weights; see `open_trained`."""
    saved, experiment, vocabulary = source.saved, source.experiment, source.vocabulary
    if experiment.model.factory is None:
        _refuse_misfit(source)
    elif not trust:
        raise InputError(
            f"{source.path} names code as its model, model.factory "
            f"{shortened(experiment.model.factory)}: it runs only with --trust-code (trust=True "
            f"in Python), for those who trust the folder and what is imported by that name"
        )
    chosen: Precision = precision or saved["precision"]
    if arithmetic_of(chosen) == "fp16" and device.type == "cpu":
        log.warning("fp16 is slow on a CPU: evaluating in fp32")
        chosen = "fp32"
    module = build_model(experiment.model, vocabulary_size=vocabulary.size, seed=0)
    full = _with_ties(module, source.weights)
    try:
        module.load_state_dict(full)
    except RuntimeError as error:  # lists weights that are missing, unknown or misshapen
        listed = " ".join(str(error).split())
        raise InputError(f"{source.path} does not fit its model: {listed}") from None
    module.to(device=device, dtype=weight_dtype_of(chosen)).eval()
    return TrainedModel(
        module=module,
        experiment=experiment,
        vocabulary=vocabulary,
        path=source.path,
        saved=saved,
        weights_hash=source.weights_hash,
        precision=chosen,
        device=device,
    )


def _refuse_misfit(source: Source) -> None:
    """Refuse weights that do not fit the configuration, before a model of its sizes is built."""
    config, weights = source.experiment.model, source.weights
    if max(config.n_layer, len(config.cutoffs)) > len(weights):
        raise InputError(
            f"{source.path} does not fit its model: n_layer is {config.n_layer:,}, but there are "
            f"{len(weights)} tensors"
        )
    with torch.device("meta"):
        model = build_model(config, vocabulary_size=source.vocabulary.size, seed=0)
    refuse_misfit(
        {name: tuple(tensor.shape) for name, tensor in weights.items()},
        {name: tuple(p.shape) for name, p in model.named_parameters()},
        where=source.path,
    )
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32:
            raise InputError(f"{source.path}: {shortened(name)} is {tensor.dtype}, not fp32")


def open_corpus_of(run_dir: Path) -> Corpus:
    """Open the run's corpus, at its place during training.

    Raises:
        InputError: the run does not say where, or the corpus has moved or is not whole.
    """
    path = corpus_of(run_dir)
    if not path.exists():
        raise InputError(
            f"{path} is not there any more, where {run_dir} had its corpus: say with --data where "
            f"it is now"
        )
    return open_corpus(path)


def corpus_of(run_dir: Path) -> Path:
    """Return the folder of the run's corpus during training.

    Raises:
        InputError: the run does not say.
    """
    return Path(named_corpus(run_dir).path)


def _with_ties(module: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights under all names of tied parameters; a checkpoint has only the first."""
    first: dict[int, str] = {}
    full = dict(weights)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept in weights:
            full[name] = weights[kept]
    return full
