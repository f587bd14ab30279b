"""A DeepSpeed file is taken whole or refused whole, and the experiment's values always win."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ds_files import changed, parts_of, refusal
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.deepspeed import file
from trainer.config.deepspeed.checks import lookup
from trainer.config.deepspeed.keys import OWN_RULES
from trainer.config.precision import is_autocast
from trainer.config.recipe import ExperimentConfig, load_recipe
from trainer.errors import InputError
from trainer.model.precision import compute_dtype_of

PACKAGED = file.packaged_names()


@pytest.fixture(scope="module")
def experiment() -> ExperimentConfig:
    return load_recipe("wt103-base")


# Packaged files


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_file_is_what_its_name_says(name: str, experiment: ExperimentConfig) -> None:
    raw = file.load_ds_config(name)
    resolved = file.resolve(raw, experiment, world_size=4, where=name)
    stage, precision, offload = parts_of(r"^zero(\d)_(\w+?)(_offload)?$", name)
    assert resolved.zero_stage == int(stage)
    assert resolved.precision == precision
    assert resolved.optimizer.offload == bool(offload)


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_file_is_in_the_readme(name: str) -> None:
    readme = Path(file.__file__).parents[3] / "ds_configs" / "README.md"
    assert f"`{name}`" in readme.read_text()


@pytest.mark.parametrize("name", PACKAGED)
def test_a_resolved_file_resolves_to_itself(name: str, experiment: ExperimentConfig) -> None:
    raw = file.load_ds_config(name)
    once = file.resolve(raw, experiment, world_size=2, where=name)
    written = json.loads(json.dumps(once.values))
    assert file.resolve(written, experiment, world_size=2, where=name) == once
    assert '"auto"' not in json.dumps(once.values)


@pytest.mark.parametrize("name", PACKAGED)
def test_deepspeed_takes_a_resolved_file(name: str, experiment: ExperimentConfig) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    raw = file.load_ds_config(name)
    resolved = file.resolve(raw, experiment, world_size=1, where=name)
    taken = DeepSpeedConfig(resolved.for_deepspeed)
    assert taken.train_batch_size == experiment.train.train_batch_size
    assert taken.gradient_clipping == experiment.optim.gradient_clipping
    assert taken.zero_optimization_stage == resolved.zero_stage
    assert taken.float16_config.enabled == (resolved.precision == "fp16")
    assert taken.bfloat16_config.enabled == (resolved.precision == "bf16")
    assert taken.torch_autocast_enabled == is_autocast(resolved.precision)
    if taken.torch_autocast_enabled:
        assert taken.torch_autocast_dtype == compute_dtype_of(resolved.precision)
    assert taken.optimizer_name is None
    assert taken.scheduler_name is None
    assert not taken.timers_config.enabled


@pytest.mark.parametrize("dtype", ["float16", "fp16", "torch.float16", "half", "bf16", "bfloat16"])
def test_every_name_of_a_dtype_is_deepspeed_s(dtype: str, experiment: ExperimentConfig) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    raw = {"torch_autocast": {"enabled": True, "dtype": dtype}}
    resolved = file.resolve(raw, experiment, world_size=1, where="f")
    taken = DeepSpeedConfig(resolved.for_deepspeed)
    assert taken.torch_autocast_dtype == compute_dtype_of(resolved.precision)


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
@pytest.mark.parametrize("bf16", [True, False])
def test_every_default_is_packaged(accelerator: Any, bf16: bool) -> None:
    assert set(file.default_names(accelerator=accelerator, bf16=bf16)) <= set(PACKAGED)


# Whose value it is


def test_what_a_file_leaves_out_is_the_experiments_not_deepspeeds(
    experiment: ExperimentConfig,
) -> None:
    resolved = file.resolve({"steps_per_print": 5}, experiment, world_size=3, where="f")
    assert resolved.values["gradient_clipping"] == 0.25
    assert resolved.values["optimizer"]["params"] == {
        "lr": 0.00025,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    assert resolved.schedule.params == {"warmup_steps": 0, "min_lr": 0.0, "max_steps": 200000}
    assert resolved.precision == "fp32"
    assert resolved.zero_stage == 0


def test_all_differences_are_in_one_error(experiment: ExperimentConfig) -> None:
    raw = {
        "train_batch_size": 64,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.001, "betas": [0.9, 0.98]}},
        "scheduler": {"params": {"max_steps": 100}},
    }
    message = refusal(raw, changed(experiment, "train", train_micro_batch_size_per_gpu=60))
    for path, here, there in (
        ("train_batch_size", 64, 60),
        ("gradient_accumulation_steps", 2, 1),
        ("gradient_clipping", 1.0, 0.25),
        ("optimizer.type", "AdamW", "Adam"),
        ("optimizer.params.lr", 0.001, 0.00025),
        ("optimizer.params.betas", [0.9, 0.98], [0.9, 0.999]),
        ("scheduler.params.max_steps", 100, 200000),
    ):
        assert re.search(
            rf"{path} is {re.escape(str(here))}, .* is {re.escape(str(there))}", message
        )


def test_equal_values_in_both_are_no_difference(experiment: ExperimentConfig) -> None:
    raw = {"train_batch_size": 60.0, "optimizer": {"params": {"lr": 2.5e-4}}}
    assert file.resolve(raw, experiment, world_size=1, where="f").values["train_batch_size"] == 60


def test_a_misspelt_optimizer_is_no_difference_but_corrected(experiment: ExperimentConfig) -> None:
    message = refusal({"optimizer": {"type": "Lamp"}}, changed(experiment, "optim", type="Lamb"))
    assert "optimizer.type" in message
    assert "got 'Lamp' (did you mean 'Lamb'?)" in message


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.parametrize("rule", ["Adam", "AdamW", *OWN_RULES])
def test_packaged_files_take_every_rule_that_their_devices_have(
    name: str, rule: str, experiment: ExperimentConfig
) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    ruled = changed(experiment, "optim", type=rule)
    raw = file.load_ds_config(name)
    if rule in OWN_RULES and "offload" in name:
        assert "offload_optimizer is for optim.type Adam" in refusal(raw, ruled)
        return
    resolved = file.resolve(raw, ruled, world_size=1, where=name)
    assert resolved.values["optimizer"]["type"] == rule
    assert "zero_allow_untested_optimizer" not in resolved.values
    taken = DeepSpeedConfig(resolved.for_deepspeed)
    assert taken.zero_allow_untested_optimizer == (rule in OWN_RULES)


def test_the_readers_dict_is_left_alone(experiment: ExperimentConfig) -> None:
    raw = file.load_ds_config("zero1_bf16")
    before = json.dumps(raw)
    file.resolve(raw, experiment, world_size=1, where="f")
    assert json.dumps(raw) == before


# How the batch is split


@given(
    micro=st.integers(1, 8),
    slots=st.integers(1, 8),
    ranks=st.integers(1, 8),
    owner=st.sampled_from(["experiment", "file", "accumulation"]),
)
def test_micro_batch_times_accumulation_times_ranks_is_the_batch(
    micro: int, slots: int, ranks: int, owner: str, experiment: ExperimentConfig
) -> None:
    said = {"train_micro_batch_size_per_gpu": micro} if owner == "experiment" else {}
    small = changed(experiment, "train", train_batch_size=micro * slots * ranks, **said)
    raws: dict[str, dict[str, Any]] = {
        "experiment": {},
        "file": {"train_micro_batch_size_per_gpu": micro},
        "accumulation": {"gradient_accumulation_steps": slots},
    }
    resolved = file.resolve(raws[owner], small, world_size=ranks, where="f")
    assert resolved.train_micro_batch_size_per_gpu == micro
    assert resolved.gradient_accumulation_steps == slots
    assert resolved.values["gradient_accumulation_steps"] == slots


def test_without_a_micro_batch_a_rank_reads_its_share_at_once(experiment: ExperimentConfig) -> None:
    resolved = file.resolve({"fp16": {}}, experiment, world_size=4, where="f")
    assert (resolved.train_micro_batch_size_per_gpu, resolved.gradient_accumulation_steps) == (
        15,
        1,
    )


@pytest.mark.parametrize("ranks", [7, 8, 61])
def test_ranks_that_do_not_divide_are_told_those_that_do(
    ranks: int, experiment: ExperimentConfig
) -> None:
    message = refusal({"fp16": {}}, experiment, world_size=ranks)
    counts, sizes = parts_of(r"use ([\d, or]+) ranks, or train.train_batch_size (.*)", message)
    for count in re.findall(r"\d+", counts):
        file.resolve({"fp16": {}}, experiment, world_size=int(count), where="f")
    for size in re.findall(r"\d+", sizes):
        other = changed(experiment, "train", train_batch_size=int(size))
        file.resolve({"fp16": {}}, other, world_size=ranks, where="f")


@pytest.mark.parametrize("key", ["train_micro_batch_size_per_gpu", "gradient_accumulation_steps"])
def test_a_size_that_does_not_divide_is_told_those_that_do(
    key: str, experiment: ExperimentConfig
) -> None:
    message = refusal({key: 4}, experiment, world_size=2)
    for size in re.findall(r"\d+", message.partition("use ")[2]):
        file.resolve({key: int(size)}, experiment, world_size=2, where="f")


# Reading a file


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"fp16": {}, "fp16": {"enabled": true}}', "'fp16' is given twice"),
        ("", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"fp16": ', "not JSON"),
        ("\udcff", "not JSON"),
        ('{"train_batch_size": 1e999}', "not JSON"),
        ('{"a":' * 300 + "1" + "}" * 300, "nested"),
        ('{"a":' * 9000 + "1" + "}" * 9000, "nested too deeply"),
        ('{"a": "' + "b" * 300_000 + '"}', "longer than 262,144 bytes"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_a_broken_file_is_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=f"my.json.*{said}"):
        file.load_ds_config(str(path))


def test_a_file_may_have_comments_as_deepspeeds_do(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text('{\n  # why\n  "zero_optimization": {"stage": 2}\n}')
    assert lookup(file.load_ds_config(str(path)), "zero_optimization.stage") == 2


def test_a_name_that_is_not_packaged_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'zero1_bf16'\?.*zero3_fp16"):
        file.load_ds_config("zero1_bf61")
    with pytest.raises(InputError, match="no such file"):
        file.load_ds_config(str(tmp_path / "none.json"))


def test_show_prints_both_configurations_resolved() -> None:
    shown = json.loads(file.show(load_recipe("enwik8-base"), "zero2_bf16", world_size=2))
    assert shown["experiment"] == load_recipe("enwik8-base").model_dump(mode="json")
    assert shown["deepspeed"]["train_micro_batch_size_per_gpu"] == 11


def test_the_schema_describes_both_configurations() -> None:
    schema = json.loads(file.schema())
    assert "train" in schema["experiment"]["properties"]
    assert "zero_optimization" in schema["deepspeed"]["properties"]


def test_reading_configurations_imports_neither_torch_nor_deepspeed() -> None:
    code = (
        "import sys; from trainer.config.command_line import arguments, foreign_flags\n"
        "from trainer.config.deepspeed import file\n"
        "sys.exit(bool({'torch', 'deepspeed'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
