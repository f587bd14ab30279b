"""The training command line: a recipe, a corpus, and a flag for every field of the experiment."""

from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from trainer.config import foreign_flags, strict
from trainer.config.flags import arity, flag_of, leaves, metavar, overridden, value_at
from trainer.config.recipe import (
    ExperimentConfig,
    load_recipe,
    recipe_names,
    resume_class,
)
from trainer.errors import InputError, did_you_mean
from trainer.shell import typed_path

_EPILOG = """\
A number may be written 2e5, an absent value None, a list 2000 10000 or '[2000, 10000]'; a boolean
is its flag alone, or with True or False; --flag=value and underscores for hyphens are the same.
"""

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
        "help": "take the weights alone, and start at step 0",
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


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def train_flags() -> list[str]:
    """Return every flag of the training command, spelt with hyphens."""
    return _flags(TRAIN_OPTIONS)


def _flags(options: dict[str, dict[str, Any]]) -> list[str]:
    return ["--help", *options, *(flag_of(path) for path, _ in leaves(ExperimentConfig))]


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
    )
    return ShowArguments(**given)


def parse_doctor(argv: Sequence[str]) -> DoctorArguments:
    """Read the words behind ``txl doctor``: ``--json``, and a training command or its beginnings.

    Raises:
        InputError: for the reasons of `parse_train`.
    """
    parser = _Parser(
        usage="txl doctor [--json] [--run-dir DIR] [--device DEVICE] [RECIPE --data CORPUS …]",
        description="Try what a run here would need; of a whole training command, compare ranks.",
        allow_abbrev=False,
    )
    for flag, keywords in DOCTOR_OPTIONS.items():
        parser.add_argument(flag, **keywords)
    given, rest = parser.parse_known_args([_spelt(word) for word in argv])
    train = None
    if rest:
        train = parse_train([word for word in argv if word != "--json"])
    return DoctorArguments(train, given.run_dir, given.device, given.json)


def given_of(
    argv: Sequence[str], options: dict[str, dict[str, Any]], *, usage: str, about: str
) -> dict[str, Any]:
    """Return the values of `options` and the experiment from a command line."""
    tokens = [_spelt(token) for token in argv]
    known = _flags(options)
    unknown = [t for t, spelt in zip(argv, tokens, strict=True) if _is_unknown(spelt, known)]
    if unknown:
        raise foreign_flags.unknown_flags(unknown, known=known)
    parser = _parser(_named_recipe(tokens), options, usage=usage, about=about)
    given = vars(parser.parse_intermixed_args(tokens))
    if given["recipe"] is None:
        raise InputError(
            f"RECIPE is missing: start with one of {', '.join(recipe_names())}, or a JSON file"
        )
    overrides = {path: given.pop(path) for path, _ in leaves(ExperimentConfig) if path in given}
    return given | {"experiment": overridden(given["recipe"], overrides)}


def _spelt(token: str) -> str:
    head, equals, value = token.partition("=")
    return head.replace("_", "-") + equals + value if token.startswith("--") else token


def _is_unknown(token: str, known: list[str]) -> bool:
    """Return whether `token` is a flag, not a value such as -1, and not one of ours."""
    flag = token.partition("=")[0]
    is_flag = flag.startswith("--") or (flag[:1] == "-" and flag[1:2].isalpha())
    return is_flag and flag not in (*known, "-h")


def _named_recipe(tokens: list[str]) -> ExperimentConfig | None:
    """Return the recipe whose values ``--help`` shows; None without a recipe or ``--help``."""
    names = [token for token in tokens if not token.startswith("-")]
    asked = {"-h", "--help"} & set(tokens)
    return load_recipe(names[0]) if asked and names else None


def _parser(
    recipe: ExperimentConfig | None, options: dict[str, dict[str, Any]], *, usage: str, about: str
) -> ArgumentParser:
    """Return a parser of a command with all fields of an experiment as flags."""
    parser = _Parser(
        usage=usage,
        epilog=_EPILOG,
        allow_abbrev=False,
        description=about,
        formatter_class=RawDescriptionHelpFormatter,
    )
    names = ", ".join(recipe_names())
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help=f"a JSON file, or one of {names}"
    )
    for flag, keywords in options.items():
        parser.add_argument(flag, **keywords)
    groups = {
        name: parser.add_argument_group(f"--{name}", field.description)
        for name, field in ExperimentConfig.model_fields.items()
        if strict.model_at(ExperimentConfig, name)
    }
    for path, field in leaves(ExperimentConfig):
        value = f" [{value_at(recipe, path)}]" if recipe else ""
        groups.get(path.partition(".")[0], parser).add_argument(
            flag_of(path),
            dest=path,
            default=SUPPRESS,
            help=f"{field.description}{value}",
            metavar=metavar(field),
            **arity(field),
        )
    return parser


def _changeable(field: str) -> str:
    path = field.removeprefix("--").replace("-", "_")
    paths = [path for path, _ in leaves(ExperimentConfig)]
    if path not in paths:
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
