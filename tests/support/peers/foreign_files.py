"""Checkpoints as other trainers write them: the same classes, module paths and layouts.

The classes are empty modules under the names that a pickle records, so that no other trainer has
to be installed. Their tensors come from a model of ours.
"""

import argparse
import json
import pickle
import sys
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.exchange.names import table_of, to_theirs
from trainer.model.transformer_xl import TransformerXL

#: Module and class of kimiyoung's parts, by the last name of their place in the tree.
CLASSES = {
    "": ("mem_transformer", "MemTransformerLM"),
    "word_emb": ("mem_transformer", "AdaptiveEmbedding"),
    "dec_attn": ("mem_transformer", "RelPartialLearnableMultiHeadAttn"),
    "pos_ff": ("mem_transformer", "PositionwiseFF"),
    "crit": ("proj_adaptive_softmax", "ProjectedAdaptiveLogSoftmax"),
}


def state_of(model: TransformerXL, vocabulary_size: int) -> dict[str, Tensor]:
    """Return weights by Hugging Face's names, all tensors that are shared written out."""
    ours = {name: p.detach().float() for name, p in model.named_parameters()}
    return to_theirs(ours, table_of(model.config, vocabulary_size))


def mem_transformer_state(model: TransformerXL, vocabulary_size: int) -> dict[str, Tensor]:
    """Return weights by kimiyoung's names: clusters the other way around, no copies per layer."""
    state = {}
    for name, tensor in state_of(model, vocabulary_size).items():
        if name.endswith(("r_w_bias", "r_r_bias")) and ".layers." in name:
            continue
        flipped = tensor.flip(0) if name.startswith("crit.cluster") else tensor
        state[name.removeprefix("transformer.")] = flipped
    return state | {"pos_emb.inv_freq": torch.ones(model.config.d_model // 2)}


def write_huggingface(
    folder: Path, model: TransformerXL, symbols: list[str], *, safetensors: bool = True
) -> Path:
    """Write `config.json`, the weights, and `vocab.txt`."""
    folder.mkdir(parents=True)
    state = state_of(model, len(symbols))
    if safetensors:
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save(state, folder / "pytorch_model.bin")
    config = huggingface_config(model.config, len(symbols))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{symbol}\n" for symbol in symbols))
    return folder


def huggingface_config(config: ModelConfig, vocabulary_size: int) -> dict[str, Any]:
    """Return the fields of `TransfoXLConfig` that matter here."""
    return {
        "model_type": "transfo-xl",
        "vocab_size": vocabulary_size,
        "mem_len": 6,
        "clamp_len": -1,
        "same_length": False,
        "cutoffs": list(config.cutoffs),
        "div_val": config.div_val,
        "n_layer": config.n_layer,
        "d_model": config.d_model,
        "n_head": config.n_head,
        "d_head": config.d_head,
        "d_inner": config.d_inner,
        "d_embed": config.d_embed or config.d_model,
        "pre_lnorm": config.norm == "pre",
        "untie_r": config.position_biases == "per_layer",
        "dropout": 0.1,
        "dropatt": 0.2,
    }


def write_kimiyoung(
    folder: Path,
    model: TransformerXL,
    symbols: list[str],
    *,
    legacy: bool = False,
    **attributes: Any,
) -> Path:
    """Write `model.pt`, the module pickled whole, and `cache.pt`, the corpus."""
    folder.mkdir(parents=True)
    config = model.config
    with foreign_classes(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older format wants the sources of classes
        whole = _module(mem_transformer_state(model, len(symbols)), config)
        sizes = {name: getattr(config, name) for name in ("n_layer", "d_model", "n_head", "d_head")}
        whole.__dict__ |= sizes | {
            "n_token": len(symbols),
            "d_embed": config.d_embed or config.d_model,
            "tgt_len": 5,
            "mem_len": 6,
            "ext_len": 0,
            "clamp_len": 3,
            "same_length": True,
            "attn_type": 0,
            "sample_softmax": -1,
            **attributes,
        }
        options = {"_use_new_zipfile_serialization": not legacy}
        torch.save(whole, folder / "model.pt", **options)
        corpus = sys.modules["data_utils"].Corpus()
        corpus.vocab = foreign_vocabulary(symbols)
        corpus.train = torch.arange(9)
        torch.save(corpus, folder / "cache.pt", **options)
    return folder


def write_nvidia(folder: Path, model: TransformerXL, symbols: list[str], **entries: Any) -> Path:
    """Write `checkpoint_best.pt`: a dict with the vocabulary in it."""
    folder.mkdir(parents=True)
    config = model.config
    state = {}
    for name, tensor in mem_transformer_state(model, len(symbols)).items():
        parts = name.split(".")
        if parts[:2] == ["crit", "out_layers"]:
            kind = {"weight": "out_layers_weights", "bias": "out_layers_biases"}[parts[3]]
            name = f"crit.{kind}.{parts[2]}"
        if parts[:2] == ["crit", "out_projs"] and parts[2] != "0":  # tied
            name = f"crit.shared_out_projs.{parts[2]}"
        state[name] = tensor
    settings = huggingface_config(config, len(symbols)) | {
        "n_token": len(symbols),
        "tgt_len": 5,
        "clamp_len": 3,
        "same_length": True,
        "tie_projs": [False] + [True] * len(config.cutoffs),
    }
    with foreign_classes():
        content = {
            "args": argparse.Namespace(lr=0.01, work_dir="LM-TFM"),
            "model_config": settings,
            "model_state": OrderedDict(state),
            "optimizer_state": {"state": {}},
            "vocab": foreign_vocabulary(symbols, module="utils.vocabulary"),
            "train_step": 40000,
            **entries,
        }
        torch.save(content, folder / "checkpoint_best.pt")
    return folder


def write_fairseq(
    folder: Path,
    model: TransformerXL,
    symbols: list[str],
    *,
    argparsed: bool = False,
    **entries: Any,
) -> Path:
    """Write `checkpoint_best.pt` with `cfg`, or with `args` as before 2021; and `dict.txt`."""
    folder.mkdir(parents=True)
    config = model.config
    settings = {
        "cutoffs": [*config.cutoffs, 10**6],
        "d_model": config.d_model,
        "n_head": config.n_head,
        "d_head": config.d_head,
        "d_inner": config.d_inner,
        "div_val": config.div_val,
        "n_layer": config.n_layer,
        "mem_len": 6,
        "clamp_len": 3,
        "same_length": True,
        "dropout": 0.1,
        "dropatt": 0.2,
    }
    state = {
        f"decoder.model.{name}": tensor for name, tensor in state_of(model, len(symbols)).items()
    }
    cfg = {"model": settings, "task": {"tokens_per_sample": 5}}
    args = argparse.Namespace(
        **{**settings, "cutoffs": str(settings["cutoffs"])}, tokens_per_sample=5
    )
    content = {
        "args": args if argparsed else None,
        "cfg": None if argparsed else cfg,
        "model": state,
        "extra_state": {"best": 4.5},
        **entries,
    }
    torch.save(content, folder / "checkpoint_best.pt")
    lines = [f"{symbol} {1000 - i}\n" for i, symbol in enumerate(symbols[4:])]
    (folder / "dict.txt").write_text("".join(lines))
    return folder


def foreign_vocabulary(symbols: list[str], *, module: str = "vocabulary") -> Any:
    """Return a vocabulary object of kimiyoung's and NVIDIA's; needs `foreign_classes` around it."""
    vocabulary = sys.modules[module].Vocab()
    vocabulary.counter = Counter(symbols)
    vocabulary.lower_case = False
    vocabulary.idx2sym = symbols
    vocabulary.sym2idx = OrderedDict((symbol, i) for i, symbol in enumerate(symbols))
    return vocabulary


def write_pickled_vocabulary(path: Path, symbols: list[str]) -> Path:
    """Write `vocab.pkl`, the attributes of Hugging Face's tokenizer."""
    values = {"counter": Counter(symbols), "idx2sym": symbols, "lower_case": False}
    path.write_bytes(pickle.dumps(values))
    return path


class Attack:
    """An object of a poisoned pickle: unpickled as usual, it makes the folder `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (self.marker,)


@contextmanager
def foreign_classes() -> Iterator[None]:
    """Have the modules and classes of the other trainers for as long as a file is written."""
    modules: dict[str, ModuleType] = {}
    names = [*CLASSES.values(), ("mem_transformer", "RelPartialLearnableDecoderLayer")]
    for module_name, class_name in names:
        module = modules.setdefault(module_name, ModuleType(module_name))
        setattr(module, class_name, type(class_name, (nn.Module,), {"__module__": module_name}))
    plain = [("vocabulary", "Vocab"), ("utils.vocabulary", "Vocab"), ("data_utils", "Corpus")]
    for module_name, class_name in plain:
        module = modules.setdefault(module_name, ModuleType(module_name))
        setattr(module, class_name, type(class_name, (), {"__module__": module_name}))
    modules["utils"] = ModuleType("utils")
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _module(state: dict[str, Tensor], config: ModelConfig) -> nn.Module:
    """Return a tree of modules of kimiyoung's classes that holds `state`."""
    root = _of_class("")
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        node = root
        for part in path:
            if part not in node._modules:
                node.add_module(part, _of_class(part))
            node = node._modules[part]  # type: ignore[assignment]
        node.register_parameter(leaf, nn.Parameter(tensor))
    root.add_module("drop", nn.Dropout(0.1))
    root.word_emb.__dict__ |= {"cutoffs": [*config.cutoffs, 99], "div_val": config.div_val}
    for layer in root.layers._modules.values():  # type: ignore[union-attr]
        layer.dec_attn.pre_lnorm = config.norm == "pre"
        layer.dec_attn.add_module("dropatt", nn.Dropout(0.2))
        layer.pos_ff.d_inner = config.d_inner
    return root


def _of_class(part: str) -> Any:
    module_name, class_name = CLASSES.get(part, ("", ""))
    if part.isdigit():
        module_name, class_name = "mem_transformer", "RelPartialLearnableDecoderLayer"
    return getattr(sys.modules[module_name], class_name)() if module_name else nn.Module()
