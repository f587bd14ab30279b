"""Recognising and reading the checkpoints of other trainers, under Hugging Face's names.

================  =====================================================================
huggingface       a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`
kimiyoung         `model.pt`: the whole module pickled, class `mem_transformer.MemTransformerLM`
nvidia            `checkpoint_*.pt`: a dict with `model_config` and `model_state`
fairseq           `checkpoint_*.pt`: a dict with `args` or `cfg`, and `model`
================  =====================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import InputError, first_few
from trainer.exchange.pickles import read_pickled
from trainer.exchange.settings import (
    ForeignConfig,
    of_fairseq,
    of_huggingface,
    of_kimiyoung,
    of_nvidia,
)
from trainer.exchange.stand_ins import Opaque, as_dict, module_tensors, plain
from trainer.outside import printable, read_json, shortened

Layout = Literal["huggingface", "kimiyoung", "nvidia", "fairseq"]

#: Files to look for in a folder; the first that exists is taken.
FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.pt",
    "checkpoint_best.pt",
    "checkpoint_last.pt",
)
_MODULE = "MemTransformerLM"
#: The most tensors of a state dict, which has 14 per layer.
_MAX_TENSORS = 100_000


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A checkpoint of another trainer."""

    layout: Layout
    file: Path
    config: ForeignConfig
    tensors: dict[str, Tensor]
    """Tensors by Hugging Face's names, with clusters in its order."""
    vocabulary: Any
    """The object in the file that holds the vocabulary, if any."""


def read_foreign(path: Path) -> Foreign:
    """Read the checkpoint at `path`: a file, or a folder with one of `FILES`.

    Raises:
        InputError: there is no checkpoint, it is damaged or unsafe, or its layout is unknown; the
            message lists what was found.
    """
    file = _file_at(path)
    if file.suffix == ".safetensors" or _config_beside(file).is_file():
        return _huggingface(file)
    content = read_pickled(file)
    if isinstance(content, Opaque):
        parallel = as_dict(content.attributes.get("_modules")).get("module")
        module = parallel if isinstance(parallel, Opaque) else content
        if module.path.endswith(f".{_MODULE}"):
            return _kimiyoung(file, module)
    if isinstance(content, dict) and _is_tensors(content.get("model_state")):
        return _nvidia(file, content)
    if isinstance(content, dict) and _is_tensors(content.get("model")):
        return _fairseq(file, content)
    raise InputError(
        f"{file}: unknown layout, found {_outline(content)}; known are Hugging Face's folder with "
        f"config.json, kimiyoung's model.pt (a pickled {_MODULE}), NVIDIA's checkpoint_*.pt "
        f"(model_config, model_state) and fairseq's (args or cfg, model)"
    )


def _file_at(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    for name in FILES:
        if (path / name).is_file():
            return path / name
    names = sorted(inner.name for inner in path.iterdir())
    there = first_few(names, separator=", ", most=20) or "nothing"
    raise InputError(f"{path}: no checkpoint here, found {there}; looked for {', '.join(FILES)}")


def _config_beside(file: Path) -> Path:
    return file.with_name("config.json")


def _huggingface(file: Path) -> Foreign:
    """Return a checkpoint of Hugging Face's TransfoXL, with the `config.json` beside it."""
    config_file = _config_beside(file)
    if not config_file.exists():
        raise InputError(f"{config_file} is missing: it says what model {file.name} is of")
    values = read_json(config_file)
    if not isinstance(values, dict):
        raise InputError(f"{config_file}: should be an object, got {type(values).__name__}")
    # The first releases wrote no model_type; the sizes then show which model it is.
    kind = values.get("model_type", "transfo-xl")
    if kind != "transfo-xl":
        raise InputError(f"{config_file}: model_type is {shortened(kind)}, not 'transfo-xl'")
    if file.suffix == ".safetensors":
        try:
            content: Any = load_file(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} cannot be read: {printable(error)}") from None
    else:
        content = read_pickled(file)
    if not _is_tensors(content):
        raise InputError(f"{file}: no state dict, found {_outline(content)}")
    named = {
        name if name.startswith(("transformer.", "crit.")) else f"transformer.{name}": tensor
        for name, tensor in content.items()
    }
    tensors = _without_buffers(named)
    config = of_huggingface(values, tensors, where=str(config_file))
    return Foreign(layout="huggingface", file=file, config=config, tensors=tensors, vocabulary=None)


def _kimiyoung(file: Path, module: Opaque) -> Foreign:
    tensors = _from_mem_transformer(dict(module_tensors(module)))
    config = of_kimiyoung(module, tensors, where=str(file))
    return Foreign(layout="kimiyoung", file=file, config=config, tensors=tensors, vocabulary=None)


def _nvidia(file: Path, content: dict[str, Any]) -> Foreign:
    tensors = _from_mem_transformer(content["model_state"])
    config = of_nvidia(_revealed(content), tensors, where=str(file))
    return Foreign(
        layout="nvidia",
        file=file,
        config=config,
        tensors=tensors,
        vocabulary=content.get("vocab"),
    )


def _fairseq(file: Path, content: dict[str, Any]) -> Foreign:
    tensors = {
        name.removeprefix("module.").removeprefix("decoder.model."): tensor
        for name, tensor in content["model"].items()
        if not name.endswith("decoder.version")
    }
    tensors = _without_buffers(tensors)
    config = of_fairseq(_revealed(content), tensors, where=str(file))
    return Foreign(layout="fairseq", file=file, config=config, tensors=tensors, vocabulary=None)


def _from_mem_transformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of kimiyoung's and NVIDIA's module to Hugging Face's names.

    Both modules read the clusters' logits from the last column backwards (`head_logprob[:, -i]`).
    """
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        if name.startswith("crit.shared_out_projs."):  # the embedding has the same ones
            continue
        for theirs, kind in (("out_layers_weights", "weight"), ("out_layers_biases", "bias")):
            if name.startswith(f"crit.{theirs}."):
                name = f"crit.out_layers.{name.rpartition('.')[2]}.{kind}"
        if name in ("crit.cluster_weight", "crit.cluster_bias"):
            tensor = tensor.flip(0)
        renamed[name if name.startswith("crit.") else f"transformer.{name}"] = tensor
    return _without_buffers(renamed)


def _without_buffers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors but the position embedding's frequencies, the same in every model."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("inv_freq")}


def _is_tensors(value: Any) -> bool:
    """Return whether a value is a state dict: tensors by name, and nothing else."""
    return (
        isinstance(value, dict)
        and 0 < len(value) <= _MAX_TENSORS
        and all(
            isinstance(name, str) and isinstance(inner, Tensor) for name, inner in value.items()
        )
    )


def _revealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint with its configuration objects as plain values."""
    kept = {key: content.get(key) for key in ("args", "cfg", "model_config")}
    shown: dict[str, Any] = plain(kept)
    return shown


def _outline(content: Any) -> str:
    if isinstance(content, Opaque):
        return f"an object of class {content.path}"
    if isinstance(content, dict):
        keys = ", ".join(sorted(key for key in content if isinstance(key, str))[:20])
        return f"a dict of {len(content)} keys: {keys}{' …' if len(content) > 20 else ''}"
    return f"a {type(content).__name__}"
