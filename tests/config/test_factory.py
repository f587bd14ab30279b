"""The options of a factory are settings: typed, checked, with defaults, and compared on resume."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from builders import tiny_model_config
from pydantic import BaseModel, Field, field_validator
from torch import nn

from trainer.config.changes import changes
from trainer.config.command_line.arguments import parse_show, parse_train
from trainer.config.command_line.flags import changed
from trainer.config.recipe import ExperimentConfig, ModelConfig, experiment_from, load_recipe
from trainer.errors import InputError
from trainer.model.build import build_model

V = 20


class Options(BaseModel):
    """Every kind of option that there is."""

    width: int = Field(8, ge=1, description="width in % of that")
    rate: float | None = None
    kind: Literal["gru", "lstm"] = "gru"
    sizes: tuple[int, ...] = (1, 2)
    tied: bool = False
    note: str = ""

    @field_validator("sizes")
    @classmethod
    def _ascends(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(sizes):
            raise ValueError("they do not ascend")
        return sizes


@dataclass(frozen=True)
class Plain:
    """Options as a dataclass."""

    depth: int
    rate: Annotated[float, Field(gt=0)] = 0.5

    def __post_init__(self) -> None:
        if self.depth == 7:
            raise ValueError("seven is no depth")


class Model(nn.Module):
    """A model that keeps what it was built with."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, options: Options) -> None:
        super().__init__()
        self.built = (config, vocabulary_size, options)

    empty_memory = predict = nn.Module.forward


def build_plain(config: ModelConfig, vocabulary_size: int, options: Plain) -> Any:
    return Model(config, vocabulary_size, options)  # type: ignore[arg-type]


def build_bare(config: ModelConfig, vocabulary_size: int) -> Any:
    return Model(config, vocabulary_size, None)  # type: ignore[arg-type]


def build_untyped(config: ModelConfig, vocabulary_size: int, options: Any) -> Any: ...


class Nested(BaseModel):
    """Options that no command line can say."""

    part: Options = Options()


def build_nested(config: ModelConfig, vocabulary_size: int, options: Nested) -> Any: ...


def argv(name: str, *flags: str) -> list[str]:
    return ["quickstart", "--model.factory", f"{__name__}:{name}", *flags]


def shown(name: str, *flags: str) -> dict[str, Any]:
    return parse_show(argv(name, *flags)).experiment.model.options


def refusal(name: str, *flags: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_show(argv(name, *flags))
    return str(caught.value)


DEFAULTS = {
    "width": 8,
    "rate": None,
    "kind": "gru",
    "sizes": [1, 2],
    "tied": False,
    "note": "",
}


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        ([], {}),
        (["--model.options.width", "1e3"], {"width": 1000}),
        (["--model.options.width=9", "--model.options.rate", "1"], {"width": 9, "rate": 1.0}),
        (["--model.options.rate", "None"], {}),
        (["--model.options.kind", "lstm"], {"kind": "lstm"}),
        (["--model.options.sizes", "3", "4"], {"sizes": [3, 4]}),
        (["--model.options.tied"], {"tied": True}),
        (["--model.options.note", "12"], {"note": "12"}),
    ],
)
def test_flags_set_options_and_the_others_have_their_defaults(
    flags: list[str], changes: dict[str, Any]
) -> None:
    assert shown("Model", *flags) == DEFAULTS | changes
    by_path = {f"model.options.{name}": value for name, value in changes.items()}
    quickstart = load_recipe("quickstart")
    in_python = changed(quickstart, {"model.factory": f"{__name__}:Model", **by_path})
    assert in_python.model.options == DEFAULTS | changes


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("Model", ["--model.options.widht", "3"], "did you mean '--model.options.width'"),
        ("Model", ["--model.options.width", "x"], "model.options.width: input should be a valid"),
        ("Model", ["--model.options.width", "0"], "greater than or equal to 1, got 0"),
        ("Model", ["--model.options.kind", "LSTM"], "got 'LSTM' (did you mean 'lstm'?)"),
        ("Model", ["--model.options.sizes", "2", "1"], "model.options.sizes: they do not ascend"),
        ("build_plain", [], "model.options.depth is missing"),
        ("build_plain", ["--model.options.depth", "7"], "model.options: seven is no depth"),
        ("build_plain", ["--model.options.depth=1", "--model.options.rate=0"], "greater than 0"),
        ("build_bare", ["--model.options.width", "3"], "takes no options: give it a third"),
        ("build_untyped", [], "does not say what its options are: give it a third"),
        ("build_nested", [], "which a command line cannot say"),
    ],
)
def test_what_is_wrong_with_an_option_is_told_with_the_fix(
    name: str, flags: list[str], told: str
) -> None:
    assert told in refusal(name, *flags)


def test_options_without_a_factory_are_refused() -> None:
    with pytest.raises(InputError, match="there is no factory: name one with"):
        parse_show(["quickstart", "--model.options.width", "3"])
    with pytest.raises(InputError, match="options width are a factory's, and there is no factory"):
        recipe_with({"options": {"width": 3}})


def recipe_with(model: dict[str, Any]) -> ExperimentConfig:
    values = load_recipe("quickstart").model_dump(mode="json")
    values["model"] |= model
    return experiment_from(values, where="recipe")


@pytest.mark.parametrize("flag", ["--model.options.width=5", "--seed=3"])
def test_a_recipe_names_a_factory_and_its_options(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "mine.json"
    experiment = recipe_with({"factory": f"{__name__}:Model", "options": {"kind": "lstm"}})
    path.write_text(experiment.model_dump_json())
    expected = DEFAULTS | {"kind": "lstm"} | ({"width": 5} if "width" in flag else {})
    for words in ([str(path), flag], [flag, str(path)]):
        assert parse_train([*words, "--data", "c"]).experiment.model.options == expected
    path.write_text(path.read_text().replace('"kind":"lstm"', '"kidn":"lstm"'))
    with pytest.raises(InputError, match=r"unknown key model\.options\.kidn \(did you mean 'kind'"):
        parse_train([str(path), flag, "--data", "c"])


def test_what_only_shows_a_recipe_imports_no_code_that_the_recipe_names(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    experiment = recipe_with({"factory": "no_such_module:build", "options": {"kind": "lstm"}})
    path.write_text(experiment.model_dump_json())
    assert parse_show([str(path), "--seed", "3"]).experiment.model == experiment.model
    for flag in ("--model.options.kind=gru", "--model.factory=no_such_module:other"):
        with pytest.raises(InputError, match="cannot be imported"):
            parse_show([str(path), flag])


def test_a_factory_gets_its_options_as_it_declares_them() -> None:
    given = {"sizes": [3, 4], "rate": 0.25}
    config = tiny_model_config(factory=f"{__name__}:Model", options=given)
    built: Any = build_model(config, vocabulary_size=V, seed=0)
    assert built.built[:2] == (config, V)
    assert isinstance(built.built[2], Options)
    assert built.built[2].model_dump() == Options(sizes=(3, 4), rate=0.25).model_dump()
    config = tiny_model_config(factory=f"{__name__}:build_plain", options={"depth": 3})
    built = build_model(config, vocabulary_size=V, seed=0)
    assert built.built[2] == Plain(3)


def test_options_that_a_folder_holds_are_checked_before_they_are_used() -> None:
    config = tiny_model_config(factory=f"{__name__}:Model", options={"width": "wide"})
    with pytest.raises(InputError, match="width: input should be a valid integer, got 'wide'"):
        build_model(config, vocabulary_size=V, seed=0)
    config = tiny_model_config(factory=f"{__name__}:build_bare", options={"width": 3})
    with pytest.raises(InputError, match=r"takes no options, and model\.options\.width is given"):
        build_model(config, vocabulary_size=V, seed=0)


def test_another_option_on_resume_is_refused_by_name() -> None:
    old = parse_train(argv("Model", "--data", "c", "--model.options.width", "3")).experiment
    new = parse_train(argv("Model", "--data", "c", "--model.options.tied")).experiment
    found = changes(old.model_dump(mode="json"), new)
    assert [str(change) for change in found] == [
        "model.options.width 3, not 8",
        "model.options.tied false, not true",
    ]
    assert {change.on_resume for change in found} == {"refused"}


def test_an_option_that_is_newer_than_the_run_counts_with_its_default() -> None:
    old = parse_train(argv("Model", "--data", "c")).experiment.model_dump(mode="json")
    del old["model"]["options"]["rate"]
    new = parse_train(argv("Model", "--data", "c")).experiment
    assert changes(old, new) == []
    del old["model"]["options"]
    assert changes(old, new) == []


def test_help_shows_the_options_of_the_factory(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_show(argv("Model", "--help"))
    text = " ".join(capsys.readouterr().out.split())
    assert "--model.options.width INT width in % of that [8]" in text
    assert "--model.options.kind gru|lstm [gru]" in text


def test_without_a_factory_torch_is_not_imported() -> None:
    code = (
        "import sys; from trainer.config.command_line.arguments import parse_show\n"
        "parse_show(['quickstart'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
