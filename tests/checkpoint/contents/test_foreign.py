"""Weights of other programs fit a model by name and shape, or by what the model makes of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.checkpoint.contents.foreign import foreign_weights, is_foreign, reading
from trainer.errors import InputError


class Model(nn.Module):
    """A weight, a bias that it shares with nobody, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mask", torch.ones(4))


class Translating(Model):
    """Knows its weights by another program's names."""

    def translated_weights(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"linear.weight": tensors["w"].T.contiguous(), "linear.bias": tensors["b"]}


W, BIAS = torch.arange(6.0).view(2, 3), torch.tensor([7.0, 8.0])
OURS = {"linear.weight": W, "linear.bias": BIAS}


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file(tensors, path)
    return path


def weights_of(path: Path, model: nn.Module) -> dict[str, Tensor]:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    return foreign_weights(path, model, shapes=shapes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", True),
        ("model.safetensors.index.json", True),
        ("run", False),
        ("run/config.json", False),
    ],
)
def test_a_file_of_weights_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_foreign(Path(name)) is expected


def test_names_that_are_the_model_s_need_no_translation(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", OURS | {"mask": torch.zeros(4)})
    found = weights_of(path, Model())
    assert found.keys() == OURS.keys()
    assert all(torch.equal(found[name], OURS[name]) for name in OURS)


def test_a_model_translates_other_names(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {"w": W.T.contiguous(), "b": BIAS})
    found = weights_of(path, Translating())
    assert all(torch.equal(found[name], OURS[name]) for name in OURS)


def indexed(folder: Path, files: dict[str, dict[str, Tensor]], **more: str) -> Path:
    """Write several files and their index; `more` are further tensors that it lists."""
    listed = {name: file for file, tensors in files.items() for name in tensors} | more
    for file, tensors in files.items():
        written(folder / file, tensors)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return path


def test_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    halves = {"1.safetensors": {"linear.weight": W}, "2.safetensors": {"linear.bias": BIAS}}
    found = weights_of(indexed(tmp_path, halves), Model())
    assert all(torch.equal(found[name], OURS[name]) for name in OURS)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {"linear.weight": W.T.contiguous(), "head": W})
    with pytest.raises(InputError) as refused:
        weights_of(path, Model())
    for said in ("head is 2×3, the model's missing", "linear.bias is missing", "is 3×2"):
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"weight_map": {"w": "../a.safetensors"}}', "does not lie beside it"),
        ('{"weight_map": {"w": 3}}', "has no weight_map"),
        ("[]", "has no weight_map"),
        ('{"weight_map": {"w": "gone.safetensors"}}', "gone.safetensors"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        weights_of(path, Model())


def test_files_that_lack_what_the_index_lists_are_refused(tmp_path: Path) -> None:
    path = indexed(tmp_path, {"1.safetensors": OURS}, lost="1.safetensors")
    with pytest.raises(InputError, match="lack lost: copy all of them"):
        weights_of(path, Model())


@pytest.mark.parametrize("name", ["gone.safetensors", "gone.safetensors.index.json"])
def test_a_file_that_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        weights_of(tmp_path / name, Model())


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(InputError, match="holds no tensors"):
        weights_of(path, Model())


def test_a_translation_that_fails_is_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {"b": BIAS})
    with pytest.raises(InputError, match=r"translated_weights fails on .*KeyError: 'w'"):
        weights_of(path, Translating())


def test_parts_are_read_where_they_begin() -> None:
    read = reading(OURS)
    into_N = torch.zeros(3, dtype=torch.float64)
    read("linear.weight", "weight", 2, into_N)
    assert into_N.tolist() == [2, 3, 4]
