"""Writing a model's folder for transformers from 5.3 on: code, weights, configuration, tokenizer.

The code is that of the four files ``*_txl.py`` beside this one, copied as they are. They import
only torch and transformers, and nothing of this project imports them.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint.contents.tensor_files import save_tensors
from trainer.data.vocabulary.files import VOCABULARY_FILE, save_vocabulary
from trainer.exchange.for_transformers.tokenizer import PAD, ExportedTokenizer, tokenizer_of
from trainer.inference.trained import TrainedModel

CODE = ("configuration_txl.py", "layers_txl.py", "memory_txl.py", "modeling_txl.py")

#: The fields of `ModelConfig` that `TxlConfig` has by the same names.
_OF_THE_MODEL = (
    "n_layer",
    "d_model",
    "n_head",
    "d_head",
    "d_inner",
    "d_embed",
    "cutoffs",
    "div_val",
    "norm",
    "position_biases",
    "tie_embedding",
    "tie_projections",
    "token_tables",
    "pair_rows",
    "dropout",
    "attn_dropout",
    "init_std",
    "projection_init_std",
)
_OF_SCORING = ("tgt_len", "mem_len", "clamp_len", "same_length")


def write_for_transformers(folder: Path, trained: TrainedModel, weights: dict[str, Tensor]) -> None:
    """Write all files but the model card into an empty folder."""
    save_tensors(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name in CODE:
        code = Path(__file__).with_name(name).read_text(encoding="utf-8")
        (folder / name).write_text(code, encoding="utf-8")
    tokenizer = tokenizer_of(trained.vocabulary)
    _write_tokenizer(folder, tokenizer)
    save_vocabulary(trained.vocabulary, folder / VOCABULARY_FILE)
    _write_json(folder / "config.json", _config(trained))
    # Without an end: as with `txl generate`, a text goes on over the ends of lines and documents.
    _write_json(folder / "generation_config.json", {"pad_token_id": tokenizer.pad_id})


def _config(trained: TrainedModel) -> dict[str, Any]:
    experiment = trained.experiment.model_dump(mode="json")
    return {
        "architectures": ["TxlForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_txl.TxlConfig",
            "AutoModelForCausalLM": "modeling_txl.TxlForCausalLM",
        },
        "model_type": "txl",
        "dtype": "float32",
        "vocab_size": trained.vocabulary.size,
        **{name: experiment["model"][name] for name in _OF_THE_MODEL},
        **{name: experiment["eval"][name] for name in _OF_SCORING},
    }


def _write_tokenizer(folder: Path, tokenizer: ExportedTokenizer) -> None:
    _write_json(folder / "tokenizer.json", tokenizer.content)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "pad_token": PAD if tokenizer.pad_id is not None else None,
        "padding_side": "left",
        "eos_token": tokenizer.end,
        "clean_up_tokenization_spaces": False,
        # What a text spells out is ordinary text, also where it looks like a pad or an end.
        "split_special_tokens": True,
    }
    _write_json(folder / "tokenizer_config.json", config)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    told = {name: value for name, value in values.items() if value is not None}
    path.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
