"""What other trainers' configurations say is taken in the meaning that it has there."""

import json
from pathlib import Path

import foreign_files
import pytest
from builders import tiny_model
from foreign_models import V, source

from trainer.config.recipe import load_recipe
from trainer.errors import InputError
from trainer.exchange.importing import import_checkpoint, nearest_recipe
from trainer.exchange.settings import ForeignConfig, of_nvidia


def test_a_configuration_of_the_first_releases_is_taken_by_what_its_keys_say(
    tmp_path: Path,
) -> None:
    """Hugging Face's files of 2019 have no model_type, and call the vocabulary's size n_token."""
    path, _ = source(tmp_path / "theirs", "huggingface, pickled")
    values = json.loads((path / "config.json").read_text())
    plain = import_checkpoint(path, out=tmp_path / "plain")
    del values["model_type"]
    values |= {"n_token": values.pop("vocab_size"), "adaptive": True, "attn_type": 0}
    (path / "config.json").write_text(json.dumps(values))
    old = import_checkpoint(path, out=tmp_path / "old")
    assert (old.n_parameters, old.recipe) == (plain.n_parameters, plain.recipe)
    del values["d_model"]
    (path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="d_model is missing"):
        import_checkpoint(path, out=tmp_path / "none")


@pytest.mark.parametrize(("same_length", "mem_len"), [(False, 6), (True, 7)])
def test_nvidia_s_same_length_sees_one_key_more(same_length: bool, mem_len: int) -> None:
    model = tiny_model(V)
    sizes = foreign_files.huggingface_config(model.config, V) | {"n_token": V}
    lengths = {"same_length": same_length, "mem_len": 6}
    tensors = foreign_files.mem_transformer_state(model, V)
    found = of_nvidia({"model_config": sizes | lengths}, tensors, where="theirs")
    assert (found.mem_len, found.same_length) == (mem_len, same_length)


def test_what_nvidia_s_words_mean_here_is_told(tmp_path: Path) -> None:
    for layout in ("nvidia", "kimiyoung"):
        path, _ = source(tmp_path / f"{layout}'s", layout)
        lines = import_checkpoint(path, out=tmp_path / layout).lines()
        assert any("mem_len + 1 keys" in line for line in lines) == (layout == "nvidia")


def test_of_recipes_of_the_same_sizes_that_with_the_same_clusters_is_taken() -> None:
    for name in ("wt103-large", "wt103-nvidia-large"):
        config = ForeignConfig(
            model=load_recipe(name).model,
            vocabulary_size=267_735,
            tgt_len=None,
            mem_len=0,
            clamp_len=None,
            same_length=False,
        )
        assert nearest_recipe(config) == name
