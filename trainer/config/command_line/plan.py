"""The command line of ``txl plan``: a recipe with changes, and the devices that it would have."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from trainer.config.command_line.arguments import TRAIN_ABOUT, TRAIN_OPTIONS, TRAIN_USAGE
from trainer.config.command_line.flags import given_of
from trainer.config.recipe import ExperimentConfig
from trainer.errors import InputError
from trainer.shell import typed_path

#: TFLOP/s and GB/s of the estimate of time, unless others are given: a third of what an H200 does
#: in bf16, and NVLink; of a CPU, a core.
_RATES = {"cuda": (240.0, 450.0), "cpu": (0.05, 1.0)}


def _count(text: str) -> int:
    """Read a number of things, which may be written 2e9."""
    try:
        return int(Decimal(text))
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(f"{text} is no number") from None


PLAN_OPTIONS: dict[str, dict[str, Any]] = {
    "--gpus": {"type": int, "default": 1, "metavar": "N", "help": "devices, a rank on each"},
    "--gpu-memory": {"type": float, "metavar": "GIB", "help": "of one device"},
    "--deepspeed-config": {
        "metavar": "FILE",
        "help": "packaged DeepSpeed file or JSON; by default every packaged one",
    },
    "--data": {"type": typed_path, "metavar": "CORPUS", "help": "folder made by `txl prepare`"},
    "--vocabulary": {
        "type": _count,
        "metavar": "N",
        "help": "words, without --data; by default those of the text that a packaged recipe is for",
    },
    "--tokens": {
        "type": _count,
        "metavar": "N",
        "help": "tokens of the train split, without --data",
    },
    "--tflops": {
        "type": float,
        "metavar": "N",
        "help": "TFLOP/s of one device in a step, for the estimate of time; by default 240, of a "
        "CPU 0.05: measure your own",
    },
    "--gb-per-s": {
        "type": float,
        "metavar": "N",
        "help": "GB/s that a rank sends, for the estimate; by default NVLink's 450, of a CPU 1 "
        "(InfiniBand: 50, 10 GbE: 1.25)",
    },
    "--json": {"action": "store_true", "help": "as JSON, in bytes and seconds"},
    "--device": {"choices": ("cuda", "cpu"), "default": "cuda", "help": "what a rank computes on"},
}


@dataclass(frozen=True)
class PlanArguments:
    """A command to plan; `experiment` is the recipe with the command's changes."""

    recipe: str
    experiment: ExperimentConfig
    gpus: int
    gpu_memory: float | None
    deepspeed_config: str | None
    data: Path | None
    vocabulary: int | None
    tokens: int | None
    tflops: float | None
    gb_per_s: float | None
    json: bool
    device: Literal["cuda", "cpu"]

    @property
    def rates(self) -> tuple[float, float]:
        """Return the operations that a device does, and the bytes that a rank sends, a second."""
        tflops, gb_per_s = _RATES[self.device]
        return 1e12 * (self.tflops or tflops), 1e9 * (self.gb_per_s or gb_per_s)


def parse_plan(argv: Sequence[str]) -> PlanArguments:
    """Read the words behind ``txl plan``; ``--help`` prints and exits.

    Raises:
        InputError: a flag or value is unknown or no size, or the experiment is not valid.
    """
    given = given_of(
        argv,
        PLAN_OPTIONS,
        about="Tell what a training needs and sends on other machines, without a corpus or a GPU.",
        usage="txl plan RECIPE [--gpus N] [--gpu-memory GIB] [--deepspeed-config FILE] [flags]",
    )
    for key in ("gpus", "gpu_memory", "vocabulary", "tokens", "tflops", "gb_per_s"):
        value, least = given[key], 2 if key in ("vocabulary", "tokens") else 0
        if value is not None and (value == 0 or not least <= value < 1e15):
            flag = f"--{key.replace('_', '-')}"
            raise InputError(f"{flag} {value:g}: give {'two or more' if least else 'more than 0'}")
    for key in ("vocabulary", "tokens"):
        if given["data"] is not None and given[key] is not None:
            raise InputError(f"--data and --{key}: give one of them, the corpus tells the other")
    return PlanArguments(**given)


def parse_dry_run(argv: Sequence[str], *, n_ranks: int) -> PlanArguments | None:
    """Read a training command that has ``--dry-run`` but no ``--data``; None for any other one.

    Raises:
        InputError: a flag or value is unknown, or the experiment is not valid.
    """
    given = given_of(argv, TRAIN_OPTIONS, about=TRAIN_ABOUT, usage=TRAIN_USAGE)
    if given["data"] is not None or not given["dry_run"]:
        return None
    return PlanArguments(
        recipe=given["recipe"],
        experiment=given["experiment"],
        gpus=n_ranks,
        gpu_memory=None,
        deepspeed_config=given["deepspeed_config"],
        data=None,
        vocabulary=None,
        tokens=None,
        tflops=None,
        gb_per_s=None,
        json=True,
        device="cpu" if given["device"] == "cpu" else "cuda",
    )
