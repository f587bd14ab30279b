"""What DeepSpeed would take silently is refused, with the reason and the nearest key."""

import inspect
from collections.abc import KeysView
from typing import Any

import pytest
from ds_files import BLOCKS, changed, keys_spoken_of, nested, refusal
from pydantic import BaseModel

from trainer.config.deepspeed import keys
from trainer.config.deepspeed.checks import REFUSED
from trainer.config.deepspeed.file import resolve
from trainer.config.deepspeed.keys import OWN_RULES
from trainer.config.recipe import ExperimentConfig, load_recipe


@pytest.fixture(scope="module")
def experiment() -> ExperimentConfig:
    return load_recipe("wt103-base")


# What is refused


@pytest.mark.parametrize(
    "path", [f"{block}{key}" for block, model in BLOCKS.items() for key in model.model_fields]
)
def test_a_misspelt_key_of_any_block_is_named_with_the_right_one(
    path: str, experiment: ExperimentConfig
) -> None:
    message = refusal(nested(path + "q", 1), experiment)
    assert f"unknown key {path}q (did you mean '{path.rpartition('.')[2]}'?)" in message


@pytest.mark.parametrize(
    "path",
    [
        "fp16.enabled",
        "bf16.enabled",
        "zero_optimization.stage",
        "torch_autocast.dtype",
        "zero_optimization.reduce_bucket_size",
        "fp16.loss_scale",
        "scheduler.type",
        "zero_optimization.offload_optimizer.device",
        "steps_per_print",
    ],
)
def test_auto_is_refused_where_deepspeed_would_drop_it(
    path: str, experiment: ExperimentConfig
) -> None:
    assert f"{path}: DeepSpeed ignores 'auto' here" in refusal(nested(path, "auto"), experiment)


@pytest.mark.parametrize("path", REFUSED)
def test_a_refused_key_is_answered_with_its_reason(path: str, experiment: ExperimentConfig) -> None:
    message = refusal(nested(path, {"enabled": False}), experiment)
    assert message == f"my.json: {path} is refused: {REFUSED[path]}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train_batch_size", "60"),
        ("gradient_clipping", True),
        ("fp16", None),
        ("bf16", True),
        ("bf16.enabled", 1),
        ("fp16.loss_scale", -1),
        ("fp16.loss_scale_window", 0),
        ("zero_optimization.stage", 4),
        ("zero_optimization.stage", True),
        ("zero_optimization.stage", "2"),
        ("zero_optimization.reduce_bucket_size", 5e8 + 0.5),
        ("optimizer", "Adam"),
        ("optimizer.type", "Lamp"),
        ("scheduler.type", "cosin"),
        ("torch_autocast.dtype", "float8"),
        ("fp16.initial_scale_power", 128),
        ("communication_data_type", "int8"),
        ("zero_optimization.offload_optimizer.device", "nvme"),
        ("optimizer.params.betas", [0.9]),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named(
    path: str, value: Any, experiment: ExperimentConfig
) -> None:
    assert path in refusal(nested(path, value), experiment)


IN_FLOAT16 = {"torch_autocast": {"enabled": True, "dtype": "float16"}}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"fp16": {"enabled": True}}, "stage 0 trains wrongly"),
        ({"bf16": {"enabled": True}}, "as zero1_bf16 does"),
        (
            {
                "fp16": {"enabled": True},
                "bf16": {"enabled": True},
                "zero_optimization": {"stage": 1},
            },
            "fp16 and bf16 are both enabled",
        ),
        ({"torch_autocast": {"enabled": True}}, "dtype is missing"),
        (IN_FLOAT16 | {"fp16": {"enabled": True}}, "fp16 and torch_autocast are both enabled"),
        (IN_FLOAT16 | {"zero_optimization": {"stage": 2}}, "as zero2_fp16 does"),
        (IN_FLOAT16 | {"fp16": {"loss_scale": 8}}, "fp16.loss_scale can only be 0"),
        (IN_FLOAT16 | {"fp16": {"hysteresis": 2}}, "fp16.hysteresis can only be 1"),
        (
            IN_FLOAT16 | {"fp16": {"consecutive_hysteresis": True}},
            "fp16.consecutive_hysteresis can only be false",
        ),
        (nested("zero_optimization.offload_optimizer.device", "cpu"), "needs stage 1, 2 or 3"),
        (nested("zero_optimization.offload_param.device", "cpu"), "needs stage 3"),
        (nested("data_types.grad_accum_dtype", "fp32"), "needs stage 2 or 3"),
        (nested("scheduler.type", "WarmupCosineLR"), "warm up for at least 2 updates"),
    ],
)
def test_blocks_that_do_not_go_together_are_refused(
    raw: dict[str, Any], said: str, experiment: ExperimentConfig
) -> None:
    assert said in refusal(raw, experiment)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("zero_optimization.offload_optimizer.device", "cpu"),
        ("optimizer.params.fused", True),
        ("zero_optimization.sub_group_size", 10**6),
    ],
)
@pytest.mark.parametrize("rule", OWN_RULES)
def test_what_only_adam_has_is_refused_with_rules_of_ours(
    path: str, value: Any, rule: str, experiment: ExperimentConfig
) -> None:
    file = {"zero_optimization": {"stage": 3}}
    block, _, rest = path.partition(".")
    file[block] = file.get(block, {}) | nested(rest, value)
    resolve(file, experiment, world_size=1, where="f")
    ours = changed(experiment, "optim", type=rule)
    assert f"{path.removesuffix('.device')} is for optim.type Adam and AdamW" in refusal(file, ours)


def test_all_kinds_of_problem_are_in_one_error(experiment: ExperimentConfig) -> None:
    raw = {
        "wandb": {},
        "fp61": {},
        "gradient_clipping": 2.0,
        "fp16": {"enabled": "auto"},
        "steps_per_print": "often",
    }
    message = refusal(raw, experiment, world_size=7)
    for part in (
        "7 ranks",
        "wandb",
        "fp61",
        "gradient_clipping",
        "fp16.enabled",
        "steps_per_print",
    ):
        assert part in message


# DeepSpeed's schedules


@pytest.mark.parametrize("kind", ["WarmupLR", "WarmupDecayLR", "WarmupCosineLR", "OneCycle"])
def test_deepspeeds_schedules_take_the_experiments_rates(
    kind: str, experiment: ExperimentConfig
) -> None:
    warm = changed(experiment, "optim", warmup_steps=10, min_lr=0.000025)
    resolved = resolve(nested("scheduler.type", kind), warm, world_size=1, where="f")
    params = resolved.for_deepspeed["scheduler"]["params"]
    expected = {
        "warmup_num_steps": 10,
        "total_num_steps": 200000,
        "warmup_max_lr": 0.00025,
        "warmup_min_lr": 0.000025,
        "warmup_min_ratio": 0.1,
        "cos_min_ratio": 0.1,
        "cycle_min_lr": 0.000025,
        "cycle_max_lr": 0.00025,
    }
    assert params
    assert params == {key: pytest.approx(expected[key]) for key in params}
    assert "optimizer" not in resolved.for_deepspeed


@pytest.mark.parametrize("kind", [k for k in keys.SCHEDULE_PARAMS if k != "cosine"])
def test_schedule_params_are_deepspeeds(kind: Any, experiment: ExperimentConfig) -> None:
    from deepspeed.runtime import lr_schedules

    known = set(inspect.signature(getattr(lr_schedules, kind)).parameters)
    ours = set(keys.SCHEDULE_PARAMS[kind].model_fields)
    assert ours == known - {"optimizer", "last_batch_iteration"}
    message = refusal({"scheduler": {"type": kind, "params": {"max_stepz": 1}}}, experiment)
    assert "scheduler.params: unknown key max_stepz" in message


# Every key that DeepSpeed knows is spoken of here


def test_every_key_of_deepspeeds_own_blocks_is_taken_or_refused() -> None:
    from deepspeed.comm.config import CommsLoggerConfig
    from deepspeed.profiling.config import DeepSpeedFlopsProfilerConfig
    from deepspeed.runtime import precision_config
    from deepspeed.runtime.config import _REMOVED_ZERO_CONFIG_KEYS
    from deepspeed.runtime.zero import offload_config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    def keys(model: type[BaseModel]) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    zero = "zero_optimization."
    assert keys_spoken_of(zero) == keys(DeepSpeedZeroConfig) | set(_REMOVED_ZERO_CONFIG_KEYS)
    for block, model in (
        ("fp16.", precision_config.DeepSpeedFP16Config),
        ("bf16.", precision_config.DeepSpeedBF16Config),
        (f"{zero}offload_optimizer.", offload_config.DeepSpeedZeroOffloadOptimizerConfig),
        (f"{zero}offload_param.", offload_config.DeepSpeedZeroOffloadParamConfig),
        ("comms_logger.", CommsLoggerConfig),
        ("timers.throughput.", DeepSpeedThroughputTimerConfig),
    ):
        assert keys_spoken_of(block) == keys(model)
    assert keys_spoken_of("flops_profiler.") == set(vars(DeepSpeedFlopsProfilerConfig({})))


def test_every_top_level_key_that_deepspeed_reads_is_taken_or_refused() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    read: set[str] = set()

    class Spy(dict[str, Any]):
        def __contains__(self, key: object) -> bool:
            read.add(str(key))
            return super().__contains__(key)

        def get(self, key: str, default: Any = None) -> Any:
            read.add(key)
            return super().get(key, default)

        def keys(self) -> Any:
            return KeysView(self)

    DeepSpeedConfig(Spy(train_batch_size=1))
    assert read <= keys_spoken_of("")
    taken = set(keys.DsFile.model_fields)
    assert taken <= read
