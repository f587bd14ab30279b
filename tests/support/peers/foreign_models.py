"""Small models in the layouts of other trainers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_files
from builders import tiny_model

from trainer.model.transformer_xl import TransformerXL

V = 20


WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]


FAIRSEQ_WORDS = ["<s>", "<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, V))]


Writer = Callable[..., Path]


WRITERS: dict[str, tuple[Writer, dict[str, Any]]] = {
    "huggingface": (foreign_files.write_huggingface, {}),
    "huggingface, pickled": (foreign_files.write_huggingface, {"safetensors": False}),
    "kimiyoung": (foreign_files.write_kimiyoung, {}),
    "kimiyoung, as PyTorch wrote before 1.6": (foreign_files.write_kimiyoung, {"legacy": True}),
    "nvidia": (foreign_files.write_nvidia, {}),
    "fairseq": (foreign_files.write_fairseq, {}),
    "fairseq, argparse": (foreign_files.write_fairseq, {"argparsed": True}),
}


def source(folder: Path, layout: str, **model: Any) -> tuple[Path, TransformerXL]:
    """Return a checkpoint in a layout, and the model whose weights it has."""
    if layout.startswith("fairseq"):
        model = {**model, "position_biases": "per_layer"}
    built = tiny_model(V, **model)
    write, options = WRITERS[layout]
    symbols = FAIRSEQ_WORDS if layout.startswith("fairseq") else WORDS
    return write(folder, built, symbols, **options), built
