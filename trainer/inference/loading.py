"""Loading a trained model: a checkpoint of a run or an exported folder, and the run's corpus."""

import logging
from pathlib import Path

import torch
from torch import nn

from trainer.checkpoint.contents.tensor_files import refuse_misfit
from trainer.config.precision import Precision, arithmetic_of
from trainer.data.corpus import Corpus, open_corpus
from trainer.data.named import named_corpus
from trainer.errors import InputError
from trainer.inference.source import Source, read_source
from trainer.inference.trained import TrainedModel
from trainer.model.build import build_model
from trainer.model.precision import weight_dtype_of
from trainer.outside import shortened

log = logging.getLogger(__name__)


def open_trained(
    path: Path,
    *,
    which: str,
    precision: Precision | None,
    device: torch.device,
    trust: bool = False,
    second_moments: bool = False,
) -> TrainedModel:
    """Load and verify the checkpoint `which` of a run, or an exported model.

    Args:
        path: directory of a run, or a folder that `txl export` made.
        which: names one of a run's checkpoints: see `trainer.checkpoint.folder.resolve`.
        precision: None means the run's own; fp16, autocast or not, becomes fp32 on a CPU.
        device: the device to load to.
        trust: whether to run the code that a run's directory names as its model.
        second_moments: whether to read the optimizer's second moments too, for `--dynamic rms`.

    Raises:
        InputError: there is no such run or checkpoint, it is not whole, or it names code that is
            not trusted.
    """
    source = read_source(path, which, second_moments=second_moments)
    return load_source(source, precision=precision, device=device, trust=trust)


def load_source(
    source: Source, *, precision: Precision | None, device: torch.device, trust: bool
) -> TrainedModel:
    """Build a source's model with its weights; see `open_trained`."""
    saved, experiment, vocabulary = source.saved, source.experiment, source.vocabulary
    if experiment.model.builder is None:
        _refuse_misfit(source)
    if experiment.model.factory is not None and not trust:
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
        second_moments=source.second_moments,
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
