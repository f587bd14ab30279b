"""An experiment is exactly what its file says, or it is refused with every reason at once."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from trainer.config.recipe import (
    ExperimentConfig,
    experiment_from,
    load_recipe,
    parse_experiment,
    recipe_names,
    resume_class,
)
from trainer.config.strict import model_at
from trainer.errors import InputError


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        part = model_at(model, name)
        if part:
            yield from leaves(part, f"{prefix}{name}.")
        else:
            yield prefix + name, field


FIELDS = dict(leaves(ExperimentConfig))


def values_with(path: str, value: Any) -> dict[str, Any]:
    """Return the quickstart recipe's values, one of them changed."""
    values = load_recipe("quickstart").model_dump(mode="json")
    *parents, leaf = path.split(".")
    part = values
    for key in parents:
        part = part[key]
    part[leaf] = value
    return values


def refusal(values: Any) -> str:
    with pytest.raises(InputError) as caught:
        parse_experiment(json.dumps(values).encode(), where="my.json")
    assert str(caught.value).startswith("my.json: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", FIELDS)
def test_every_field_says_its_meaning_and_its_class_on_resume(path: str) -> None:
    assert FIELDS[path].description
    assert resume_class(path) in ("free", "announced", "refused")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.d_model", "refused"), ("train.tgt_len", "refused"), ("seed", "refused"),
        ("train.train_batch_size", "refused"), ("train.max_steps", "announced"),
        ("optim.lr", "announced"), ("optim.gradient_clipping", "announced"),
        ("optim.type", "refused"), ("expect.ppl", "free"), ("expect.tokens_per_s", "free"),
        ("model.dropout", "announced"), ("checkpoint.keep_last", "free"),
        ("tracking.wandb", "free"), ("valid.interval_steps", "free"),
    ],
)  # fmt: skip
def test_a_change_on_resume_has_the_decided_class(path: str, expected: str) -> None:
    assert resume_class(path) == expected


@pytest.mark.parametrize("path", ["model.width", "nothing.here", "seed.deep"])
def test_a_path_that_is_no_field_has_no_class(path: str) -> None:
    with pytest.raises(KeyError):
        resume_class(path)


def test_an_experiment_cannot_be_edited() -> None:
    recipe = load_recipe("quickstart")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 2
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.max_steps = 2


def test_the_json_schema_describes_every_field_and_closes_every_object() -> None:
    schema = ExperimentConfig.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        for field in part["properties"].values():
            assert field["description"]
            assert "on_resume" in field


SIZES = ("n_layer", "d_model", "n_head", "d_head", "d_inner")


def test_a_factory_s_recipe_may_leave_out_the_sizes_of_transformer_xl() -> None:
    values = load_recipe("quickstart").model_dump(mode="json")
    bare = values | {"model": {"factory": "lstm:build"}}
    experiment = experiment_from(bare, where="bare")
    assert [getattr(experiment.model, name) for name in SIZES] == [None] * 5
    again = parse_experiment(experiment.model_dump_json().encode(), where="copy")
    assert again == experiment
    wrong = bare | {"model": {"factory": "lstm:build", "n_layer": 0, "d_head": 3}}
    assert "model.n_layer: input should be greater than or equal to 1" in refusal(wrong)


def test_transformer_xl_demands_its_sizes() -> None:
    values = load_recipe("quickstart").model_dump(mode="json")
    del values["model"]["factory"]
    expected = "; ".join(f"model.{name} is missing" for name in SIZES)
    for model in ({}, dict.fromkeys(SIZES)):
        assert expected in refusal(values | {"model": model, "seed": -1})


def test_what_is_written_reads_back_the_same() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert parse_experiment(recipe.model_dump_json().encode(), where="copy") == recipe


# What is refused


@pytest.mark.parametrize("path", FIELDS)
def test_a_misspelt_field_is_named_with_the_right_one(path: str) -> None:
    message = refusal(values_with(path + "q", 1))
    assert f"unknown key {path}q (did you mean '{path.rpartition('.')[2]}'?)" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.max_steps", "12"), ("train.max_steps", 12.5), ("train.max_steps", True),
        ("train.max_steps", None), ("train.tgt_len", 0), ("train.mem_len", -1),
        ("optim.lr", "0.1"), ("optim.lr", 0),
        ("optim.type", "Lamp"), ("expect.ppl", 0.5), ("expect.tokens_per_s", 0),
        ("optim.betas", [0.9]), ("optim.betas", [0.9, 1.0]),
        ("model.cutoffs", [20, 10]), ("model.cutoffs", [0, 10]), ("model.cutoffs", [1.5]),
        ("model.d_model", 191), ("model.norm", "Post"), ("model.dropout", 1),
        ("model.factory", "package.build"), ("model", None), ("model", []),
        ("valid.same_length", "yes"), ("valid.same_length", 1), ("tracking.tags", "one"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_or_range_is_named(path: str, value: Any) -> None:
    message = refusal(values_with(path, value))
    assert path.partition(".")[0] in message
    assert path.rpartition(".")[2] in message


def test_a_whole_number_is_a_number() -> None:
    values = values_with("optim.gradient_clipping", 1)
    assert parse_experiment(json.dumps(values).encode(), where="f").optim.gradient_clipping == 1.0


@pytest.mark.parametrize("part", ["train", "valid", "eval"])
def test_same_length_without_memory_is_refused(part: str) -> None:
    values = values_with(f"{part}.mem_len", 0)
    parse_experiment(json.dumps(values).encode(), where="f")
    values[part]["same_length"] = True
    assert f"{part}: same_length with mem_len 0" in refusal(values)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"epoch_order": "documents", "memory_reset": "never"},
            "data: memory_reset never with epoch_order documents",
        ),
        ({"piece_tokens": 64}, "data: piece_tokens 64 cuts pieces of epoch_order documents"),
    ],
)
def test_an_order_of_documents_ends_memory_with_them_and_alone_has_pieces(
    data: dict[str, Any], said: str
) -> None:
    assert said in refusal(load_recipe("quickstart").model_dump(mode="json") | {"data": data})


def test_values_that_do_not_go_together_are_refused() -> None:
    values = values_with("optim.warmup_steps", 1001)
    told = refusal(values)
    assert "optim.warmup_steps 1001 exceeds train.max_steps 1000" in told
    assert "set --optim.warmup-steps" in told
    values = values_with("optim.min_lr", 1.0)
    assert "min_lr 1.0 exceeds lr" in refusal(values)
    values = values_with("train.train_micro_batch_size_per_gpu", 5)
    assert "does not divide train.train_batch_size 32: use 1, 2, 4, 8, 16 or 32" in refusal(values)
    values = values_with("model.cutoffs", [10, 100])
    values["model"]["div_val"] = 14
    assert "lower --model.div-val" in refusal(values)


def test_a_perplexity_is_not_expected_of_a_run_that_never_validates() -> None:
    values = values_with("expect.ppl", 30)
    parse_experiment(json.dumps(values).encode(), where="f")
    values["valid"]["interval_steps"] = 0
    assert "expect.ppl 30 needs validations: set valid.interval_steps" in refusal(values)


def test_there_is_no_patience_with_a_run_that_never_validates() -> None:
    values = values_with("valid.patience", 2)
    parse_experiment(json.dumps(values).encode(), where="f")
    values["valid"]["interval_steps"] = 0
    assert "valid.patience 2 counts validations, and there are none" in refusal(values)


def test_all_problems_are_in_one_error() -> None:
    values = values_with("train.max_steps", "12")
    values["optim"]["rl"] = 1
    del values["model"]["n_layer"]
    message = refusal(values)
    for part in ("train.max_steps", "unknown key optim.rl", "model.n_layer is missing"):
        assert part in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"seed": 1, "seed": 2}', "'seed' is given twice"),
        (b"", "not JSON"), (b'{"seed":', "not JSON"), (b"\xff", "not JSON"),
        (b"[]", "should be an object"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_by_name(text: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=f"my.json: .*{said}"):
        load_recipe(str(path))


def test_a_recipe_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'wt103-base'\?.*enwik8-large"):
        load_recipe("wt103base")
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        load_recipe(str(tmp_path / "none.json"))


def test_a_recipe_by_path_is_read_as_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(load_recipe("text8-base").model_dump_json())
    assert load_recipe(str(path)) == load_recipe("text8-base")
