"""The kinds of models in the package are chosen by name, and are set as a factory's are."""

import json
from pathlib import Path
from typing import get_args

import pytest

from trainer.config.changes import admit
from trainer.config.command_line.arguments import parse_show, parse_train
from trainer.config.command_line.flags import changed
from trainer.config.factory import imported
from trainer.config.kinds import FACTORIES, Kind
from trainer.config.recipe import ModelConfig, load_recipe
from trainer.errors import InputError

LSTM = ["quickstart", "--model.kind", "lstm"]


def test_every_kind_but_ours_has_a_factory_and_a_recipe() -> None:
    assert {*get_args(Kind)} == {"transformer-xl", *FACTORIES}
    for kind, factory in FACTORIES.items():
        assert callable(imported(factory))
        recipe = load_recipe(f"quickstart-{kind}").model
        assert (recipe.kind, recipe.n_layer) == (kind, None)


def test_its_options_are_settings_with_defaults() -> None:
    options = parse_show([*LSTM, "--model.options.n-layer", "3"]).experiment.model.options
    assert options == {"d_model": 256, "n_layer": 3}
    again = changed(load_recipe("quickstart"), {"model.kind": "lstm", "model.options.d_model": 8})
    assert again.model.options == {"d_model": 8, "n_layer": 2}


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model.kind", "gru"], "model.kind: input should be 'transformer-xl'"),
        ([*LSTM[1:], "--model.options.depth", "3"], "--model.options.depth: no such flag"),
        ([*LSTM[1:], "--model.options.n-layer", "0"], "model.options.n_layer: input should be"),
        ([*LSTM[1:], "--model.factory", "json:loads"], "kind lstm and factory 'json:loads'"),
        (["--model.options.n-layer", "3"], "name one with --model.factory, a --model.kind"),
    ],
)
def test_what_does_not_go_together_is_told(flags: list[str], told: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_show(["quickstart", *flags])
    assert told in str(refused.value)


def test_help_lists_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.json"
    values = load_recipe("quickstart").model_dump(mode="json")
    recipe.write_text(json.dumps(values | {"model": {"kind": "lstm", "options": {"n_layer": 5}}}))
    for named in (LSTM, [str(recipe)]):
        with pytest.raises(SystemExit):
            parse_train([*named, "--help"])
        assert "--model.options.n-layer INT" in capsys.readouterr().out
    assert parse_show([str(recipe), "--seed", "3"]).experiment.model.options["n_layer"] == 5


def test_a_resumed_run_has_the_kind_that_it_began_with() -> None:
    recipe = load_recipe("quickstart")
    other = changed(recipe, {"model.kind": "lstm"})
    old = recipe.model_dump(mode="json")
    with pytest.raises(InputError, match=r'model\.kind "transformer-xl", not "lstm"'):
        admit(old, other, allowed=("model.kind",), where="the run")
    del old["model"]["kind"]  # as all runs were saved before there were kinds
    assert admit(old, recipe, allowed=(), where="the run") == []


def test_the_package_s_own_code_is_no_other_s() -> None:
    kind = ModelConfig(kind="lstm")
    assert (kind.builder, kind.factory) == (FACTORIES["lstm"], None)
    other = ModelConfig(factory="package:build")
    assert other.builder == other.factory
