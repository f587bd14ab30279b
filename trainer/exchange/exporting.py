"""`txl export`: writing a trained model to a folder of its own, for use elsewhere.

``txl``: `model.safetensors`, `config.json`, `vocabulary.json`, read by `trainer.load`.
``huggingface``: what transformers 4.35.2 loads as `TransfoXLLMHeadModel`.
``transformers``: what transformers from 5.3 on loads, with the code of the model.
"""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.checkpoint.contents.tensor_files import save_tensors
from trainer.checkpoint.hashing import fingerprint
from trainer.config.factory import named
from trainer.config.recipe import ModelConfig, ScoringConfig
from trainer.data.vocabulary.files import (
    VOCABULARY_FILE,
    TokenizerVocabulary,
    Vocabulary,
    WordVocabulary,
    save_vocabulary,
)
from trainer.errors import InputError
from trainer.exchange.for_transformers.writing import write_for_transformers
from trainer.exchange.model_card import model_card, origin_of, parent_of
from trainer.exchange.names import table_of, to_theirs
from trainer.files import new_folder
from trainer.inference.loading import load_source
from trainer.inference.source import EXPORT_FORMAT, EXPORT_VERSION, EXPORT_WEIGHTS, read_source
from trainer.inference.trained import TrainedModel
from trainer.track.console.progress import working

Form = Literal["txl", "huggingface", "transformers"]


def export(run_dir: Path, *, out: Path, which: str, form: Form) -> None:
    """Write the checkpoint `which` of a run to the folder `out`, whole or not at all.

    Raises:
        InputError: the run or checkpoint cannot be used, its model has no such form, or `out`
            exists already.
    """
    source = read_source(run_dir, which)
    if source.experiment.model.factory is not None:
        raise InputError(
            f"{run_dir} is of model.factory {source.experiment.model.factory}, whose code an "
            f"export cannot carry: pass on the run directory and the code"
        )
    builder = source.experiment.model.builder
    if builder is not None and form != "txl":
        raise InputError(
            f"{run_dir} is of {named(builder)}, which transformers does not have: it is exported "
            "with --as txl"
        )
    model = source.experiment.model
    if form == "huggingface" and (model.token_tables or model.pair_rows):
        raise InputError(
            f"{run_dir} has tables of tokens or pairs (model.token_tables, model.pair_rows), which "
            "transformers' TransfoXL does not know: it is exported with --as txl or --as "
            "transformers"
        )
    cpu = torch.device("cpu")
    with working(f"reading {source.path}"):
        trained = load_source(source, precision="fp32", device=cpu, trust=False)
    try:
        with new_folder(out) as draft, working(f"writing {out}"):
            _WRITE[form](draft, trained)
            card = model_card(run_dir, trained, name=out.resolve().name, form=form)
            (draft / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"--out {out.resolve()} cannot be written: {error}") from None


def _write_txl(folder: Path, trained: TrainedModel) -> None:
    save_tensors(_weights(trained), folder / EXPORT_WEIGHTS)
    save_vocabulary(trained.vocabulary, folder / VOCABULARY_FILE)
    config = {
        "format": EXPORT_FORMAT,
        "version": EXPORT_VERSION,
        "experiment": trained.experiment.model_dump(mode="json"),
        "precision": "fp32",
        "vocabulary": trained.vocabulary.hash,
        "train": trained.saved["train"] | {"parent": parent_of(trained)},
        "weights": fingerprint(folder / EXPORT_WEIGHTS, sync=True),
        **origin_of(trained),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_huggingface(folder: Path, trained: TrainedModel) -> None:
    model, scoring = trained.experiment.model, trained.experiment.eval
    theirs = to_theirs(_weights(trained), table_of(model, trained.vocabulary.size))
    frequencies = torch.arange(0.0, model.d_model, 2.0) / model.d_model
    theirs["transformer.pos_emb.inv_freq"] = 1 / 10000**frequencies
    tensors = {name: tensor.contiguous() for name, tensor in theirs.items()}
    save_tensors(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = _huggingface_config(model, scoring, trained.vocabulary)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    _write_tokenizer(folder, trained.vocabulary)


def _write_transformers(folder: Path, trained: TrainedModel) -> None:
    write_for_transformers(folder, trained, _weights(trained))


_WRITE = {
    "txl": _write_txl,
    "huggingface": _write_huggingface,
    "transformers": _write_transformers,
}


def _weights(trained: TrainedModel) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in trained.module.named_parameters()}


def _huggingface_config(
    model: ModelConfig, scoring: ScoringConfig, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Return the fields of transformers' `TransfoXLConfig`."""
    n_tails = len(model.cutoffs)
    tied = {
        "none": [False] * (n_tails + 1),
        "tails": [False] + [True] * n_tails,
        "all": [True] * (n_tails + 1),
    }[model.tie_projections]
    return {
        "architectures": ["TransfoXLLMHeadModel"],
        "model_type": "transfo-xl",
        "torch_dtype": "float32",
        "vocab_size": vocabulary.size,
        "cutoffs": list(model.cutoffs),
        "d_model": model.d_model,
        "d_embed": model.d_embed or model.d_model,
        "n_head": model.n_head,
        "d_head": model.d_head,
        "d_inner": model.d_inner,
        "n_layer": model.n_layer,
        "div_val": model.div_val,
        "pre_lnorm": model.norm == "pre",
        "untie_r": model.position_biases == "per_layer",
        "tie_projs": tied,
        "tie_word_embeddings": model.tie_embedding,
        "dropout": model.dropout,
        "dropatt": model.attn_dropout,
        "mem_len": scoring.mem_len,
        "clamp_len": scoring.clamp_len or -1,
        "same_length": scoring.same_length,
        "attn_type": 0,
        "sample_softmax": -1,
        "adaptive": True,
        "layer_norm_epsilon": 1e-5,
        "init_std": model.init_std,
        "proj_init_std": model.projection_init_std,
        "eos_token_id": vocabulary.eos_id,
    }


def _write_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    """Write the files of transformers' tokenizer; it has none for bytes and characters."""
    config: dict[str, Any] = {}
    if isinstance(vocabulary, WordVocabulary):
        text = "".join(f"{word}\n" for word in vocabulary.words)
        (folder / "vocab.txt").write_text(text, encoding="utf-8")
        config = {
            "tokenizer_class": "TransfoXLTokenizer",
            "lower_case": vocabulary.lowercase,
            "special": ["<eos>"],
        }
    elif isinstance(vocabulary, TokenizerVocabulary):
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary.to_json()["tokenizer"]))
        config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    save_vocabulary(vocabulary, folder / VOCABULARY_FILE)
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
