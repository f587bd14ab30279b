"""A configuration of another trainer is believed as far as its tensors bear it out."""

import json
from pathlib import Path
from typing import Any

import foreign_files
import pytest
import torch
from builders import tiny_model

from trainer.errors import InputError
from trainer.foreign.importing import import_checkpoint

V = 20
WORDS = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_layer", 10**9), ("n_layer", 30), ("d_model", 10**9), ("d_inner", 10**30),
        ("cutoffs", list(range(1, 19))), ("cutoffs", list(range(1, 10**5))), ("div_val", 10**12),
        ("vocab_size", 10**12), ("n_head", 0), ("d_head", -3), ("mem_len", 10**40),
    ],
)  # fmt: skip
def test_nothing_is_built_by_sizes_that_the_tensors_have_not(
    tmp_path: Path, name: str, value: Any
) -> None:
    path = foreign_files.write_huggingface(tmp_path / "theirs", tiny_model(V), WORDS)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(InputError):
        import_checkpoint(path, out=tmp_path / "run")


def test_a_tensor_is_not_a_model_of_a_hundred_layers(tmp_path: Path) -> None:
    path = foreign_files.write_huggingface(
        tmp_path / "theirs", tiny_model(V), WORDS, safetensors=False
    )
    state = torch.load(path / "pytorch_model.bin")
    layer = {name: t for name, t in state.items() if name.startswith("transformer.layers.0.")}
    state |= {
        name.replace(".0.", f".{i}.", 1): tensor
        for i in range(1, 100) for name, tensor in layer.items()
    }  # fmt: skip
    torch.save(state, path / "pytorch_model.bin")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"n_layer": 100}))
    with pytest.raises(InputError, match="its tensors share memory: "):
        import_checkpoint(path, out=tmp_path / "run")
