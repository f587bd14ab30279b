"""The training command line: a recipe, a corpus, and a flag for every field of the experiment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from trainer.config.command_line.flags import Parser, flags_with, given_of, hyphened, leaves
from trainer.config.recipe import OPTIONS, ExperimentConfig, resume_class
from trainer.errors import InputError, did_you_mean
from trainer.shell import typed_path

TRAIN_ABOUT = "Train a language model that carries memory across text."
TRAIN_USAGE = "train.py RECIPE --data CORPUS [--run-dir DIR] [--deepspeed-config FILE] [flags]"

_DEEPSPEED_CONFIG: dict[str, Any] = {
    "metavar": "FILE",
    "help": "packaged DeepSpeed file or JSON; by default by the device",
}

#: Flags besides the experiment's fields, with argparse's arguments for each.
TRAIN_OPTIONS: dict[str, dict[str, Any]] = {
    "--data": {
        "type": typed_path,
        "metavar": "CORPUS",
        "help": "folder made by `txl prepare`; it must be given",
    },
    "--run-dir": {
        "type": typed_path,
        "metavar": "DIR",
        "help": "the run's folder; by default runs/RECIPE-TIME",
    },
    "--deepspeed-config": _DEEPSPEED_CONFIG,
    "--resume": {
        "choices": ("auto", "must", "never"),
        "default": "auto",
        "help": "go on from the newest whole checkpoint of --run-dir: if there is one, or fail",
    },
    "--init-from": {
        "type": typed_path,
        "metavar": "PATH",
        "help": "take the weights alone, and start at step 0: of a run, a checkpoint, or a file "
        ".safetensors of another program",
    },
    "--resume-from": {
        "type": typed_path,
        "metavar": "CHECKPOINT",
        "help": "go on from it in a new --run-dir",
    },
    "--allow-change": {
        "nargs": "+",
        "default": (),
        "metavar": "FIELD",
        "help": "fields, such as train.max_steps, that may differ from the resumed run's",
    },
    "--profile": {"metavar": "FROM:TO", "help": "trace the steps FROM up to TO"},
    "--dry-run": {"action": "store_true", "help": "check everything, say what it needs, and stop"},
    "--beyond-memory": {
        "action": "store_true",
        "help": "start a run that needs more memory than there is",
    },
    "--device": {"choices": ("auto", "cpu", "cuda"), "default": "auto", "help": "where to train"},
    "--local-rank": {"type": int, "metavar": "N", "help": "put there by launchers"},
}


#: The flags besides the experiment's fields of `txl config show`.
SHOW_OPTIONS: dict[str, dict[str, Any]] = {
    "--deepspeed-config": _DEEPSPEED_CONFIG,
    "--world-size": {
        "type": int,
        "default": 1,
        "metavar": "N",
        "help": "ranks that share the batch",
    },
    "--device": {"choices": ("auto", "cpu", "cuda"), "default": "auto", "help": "where to train"},
}


#: The flags of `txl doctor` without a training command.
DOCTOR_OPTIONS: dict[str, dict[str, Any]] = {
    "--json": {"action": "store_true", "help": "print JSON"},
    "--run-dir": TRAIN_OPTIONS["--run-dir"],
    "--device": TRAIN_OPTIONS["--device"],
}


@dataclass(frozen=True)
class TrainArguments:
    """A training command; `experiment` is the recipe with the command's changes."""

    recipe: str
    experiment: ExperimentConfig
    data: Path
    run_dir: Path | None
    deepspeed_config: str | None
    resume: Literal["auto", "must", "never"]
    init_from: Path | None
    resume_from: Path | None
    allow_change: tuple[str, ...]
    profile: tuple[int, int] | None
    dry_run: bool
    beyond_memory: bool
    local_rank: int | None
    device: Literal["auto", "cpu", "cuda"]
    called: str | None = None
    """the call in Python, if there was no command"""


@dataclass(frozen=True)
class ShowArguments:
    """A command to show settings; `experiment` is the recipe with the command's changes."""

    recipe: str
    experiment: ExperimentConfig
    deepspeed_config: str | None
    world_size: int
    device: Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class DoctorArguments:
    """A command to try what a run would need; `train` is the run, if one is named."""

    train: TrainArguments | None
    run_dir: Path | None
    device: Literal["auto", "cpu", "cuda"]
    as_json: bool


def train_flags() -> list[str]:
    """Return every flag of the training command, spelt with hyphens."""
    return flags_with(TRAIN_OPTIONS)


def parse_train(argv: Sequence[str]) -> TrainArguments:
    """Read a training command, without the program's name; ``--help`` prints and exits.

    Raises:
        InputError: a flag or value is unknown, or the experiment is not valid. All flags of other
            systems are answered at once.
    """
    given = given_of(argv, TRAIN_OPTIONS, about=TRAIN_ABOUT, usage=TRAIN_USAGE)
    if given["data"] is None:
        raise InputError(
            "--data is missing: it takes a corpus, made of text by `txl prepare` (see its --help); "
            "what a run would need, `txl plan` tells without one"
        )
    given["profile"] = _window(given["profile"])
    return checked(TrainArguments(**given))


def checked(arguments: TrainArguments) -> TrainArguments:
    """Return arguments whose fields that may change are spelt as in the experiment.

    Raises:
        InputError: a field of `allow_change` may not change, or arguments contradict each other.
    """
    if arguments.init_from and arguments.resume_from:
        raise InputError("--init-from and --resume-from: give one of them")
    if arguments.resume_from and not arguments.run_dir:
        raise InputError("--resume-from needs --run-dir, the folder of the new run")
    if arguments.resume == "must" and not arguments.run_dir:
        raise InputError("--resume must needs --run-dir, the folder of the run to resume")
    return replace(arguments, allow_change=tuple(map(_changeable, arguments.allow_change)))


def parse_show(argv: Sequence[str]) -> ShowArguments:
    """Read the words behind ``txl config show``; ``--help`` prints and exits.

    Raises:
        InputError: for the reasons of `parse_train`.
    """
    given = given_of(
        argv,
        SHOW_OPTIONS,
        about="Print a recipe and a DeepSpeed file as a run would use them.",
        usage="txl config show RECIPE [--deepspeed-config FILE] [--world-size N] [flags]",
        only_reads=True,
    )
    return ShowArguments(**given)


def parse_doctor(argv: Sequence[str]) -> DoctorArguments:
    """Read the words behind ``txl doctor``: ``--json``, and a training command or its beginnings.

    Raises:
        InputError: for the reasons of `parse_train`.
    """
    parser = Parser(
        usage="txl doctor [--json] [--run-dir DIR] [--device DEVICE] [RECIPE --data CORPUS …]",
        description="Try what a run here would need; of a whole training command, compare ranks.",
        allow_abbrev=False,
    )
    for flag, keywords in DOCTOR_OPTIONS.items():
        parser.add_argument(flag, **keywords)
    given, rest = parser.parse_known_args([hyphened(word) for word in argv])
    train = None
    if rest:
        train = parse_train([word for word in argv if word != "--json"])
    return DoctorArguments(train, given.run_dir, given.device, given.json)


def _changeable(field: str) -> str:
    path = field.removeprefix("--").replace("-", "_")
    paths = [path for path, _ in leaves(ExperimentConfig)]
    if path not in paths and not path.startswith(f"{OPTIONS}."):
        raise InputError(f"--allow-change {field}: no such field{did_you_mean(path, paths)}")
    if resume_class(path) == "refused":
        raise InputError(f"--allow-change {field}: a resumed run cannot change it")
    return path


def _window(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise InputError(f"--profile {text}: give two steps, the first below the last, as 10:15")
    return int(first), int(last)
