"""The training command line: a recipe, a corpus, and a flag for every field of the experiment."""

import json
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config import foreign_flags, strict
from trainer.config.recipe import (
    ExperimentConfig,
    experiment_from,
    load_recipe,
    recipe_names,
    resume_class,
)
from trainer.errors import InputError, did_you_mean
from trainer.outside import text_argument
from trainer.shell import typed_path

_USAGE = "train.py RECIPE --data CORPUS [--run-dir DIR] [--deepspeed_config FILE] [flags]"
_EPILOG = """\
A number may be written 2e5, a boolean True or False, an absent value None, a list 2000 10000 or
'[2000, 10000]'; --flag=value and underscores for hyphens are the same.
"""

#: Flags beside the experiment's fields, and what argparse does with them.
_OPTIONS: dict[str, dict[str, Any]] = {
    "--data": {"type": typed_path, "metavar": "CORPUS", "help": "folder made by `txl prepare`"},
    "--run-dir": {
        "type": typed_path, "metavar": "DIR",
        "help": "the run's folder; by default runs/RECIPE-TIME",
    },
    "--deepspeed-config": {
        "metavar": "FILE", "help": "packaged DeepSpeed file or JSON; by default by the device",
    },
    "--resume": {
        "choices": ("auto", "must", "never"), "default": "auto",
        "help": "go on from the newest whole checkpoint of --run-dir: if there is one, or fail",
    },
    "--init-from": {
        "type": typed_path, "metavar": "PATH",
        "help": "take the weights alone, and start at step 0",
    },
    "--resume-from": {
        "type": typed_path, "metavar": "CHECKPOINT", "help": "go on from it in a new --run-dir",
    },
    "--allow-change": {
        "nargs": "+", "default": (), "metavar": "FIELD",
        "help": "fields, such as train.max_steps, that may differ from the resumed run's",
    },
    "--profile": {"metavar": "FROM:TO", "help": "trace the steps FROM up to TO"},
    "--dry-run": {"action": "store_true", "help": "check everything, say what it needs, and stop"},
    "--beyond-memory": {
        "action": "store_true", "help": "start a run that needs more memory than there is",
    },
    "--device": {"choices": ("auto", "cpu", "cuda"), "default": "auto", "help": "where to train"},
    "--local-rank": {"type": int, "metavar": "N", "help": "put there by launchers"},
}  # fmt: skip


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


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def train_flags() -> list[str]:
    """Every flag of the training command, in its hyphenated spelling."""
    return ["--help", *_OPTIONS, *(_flag(path) for path, _ in _leaves(ExperimentConfig))]


def parse_train(argv: Sequence[str]) -> TrainArguments:
    """Read a training command, without the program's name; ``--help`` prints and exits.

    Raises:
        InputError: a flag or value is not known, or the experiment it makes is not valid. Flags
            of other systems are all answered at once.
    """
    tokens = [_spelt(token) for token in argv]
    known = train_flags()
    unknown = [t for t, spelt in zip(argv, tokens, strict=True) if _is_unknown(spelt, known)]
    if unknown:
        raise foreign_flags.unknown_flags(unknown, known=known)
    given = vars(_parser(_named_recipe(tokens)).parse_intermixed_args(tokens))
    if given["recipe"] is None:
        raise InputError(
            f"RECIPE is missing: start with one of {', '.join(recipe_names())}, or a JSON file"
        )
    if given["data"] is None:
        raise InputError(
            "--data is missing: it takes a corpus, made of text by `txl prepare` (see its --help)"
        )
    overrides = {path: given.pop(path) for path, _ in _leaves(ExperimentConfig) if path in given}
    given["experiment"] = _overridden(given["recipe"], overrides)
    given["allow_change"] = tuple(_changeable(field) for field in given["allow_change"])
    given["profile"] = _window(given["profile"])
    _refuse_contradictions(given)
    return TrainArguments(**given)


def _spelt(token: str) -> str:
    head, equals, value = token.partition("=")
    return head.replace("_", "-") + equals + value if token.startswith("--") else token


def _is_unknown(token: str, known: list[str]) -> bool:
    """Whether `token` is a flag, not a value such as -1, and not one of ours."""
    flag = token.partition("=")[0]
    is_flag = flag.startswith("--") or (flag[:1] == "-" and flag[1:2].isalpha())
    return is_flag and flag not in (*known, "-h")


def _named_recipe(tokens: list[str]) -> ExperimentConfig | None:
    """The recipe whose values ``--help`` shows; None without one, or where none is asked for."""
    names = [token for token in tokens if not token.startswith("-")]
    asked = {"-h", "--help"} & set(tokens)
    return load_recipe(names[0]) if asked and names else None


def _parser(recipe: ExperimentConfig | None) -> ArgumentParser:
    parser = _Parser(
        usage=_USAGE, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
        description="Train a language model that carries memory across text.",
    )  # fmt: skip
    names = ", ".join(recipe_names())
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help=f"a JSON file, or one of {names}"
    )
    for flag, settings in _OPTIONS.items():
        parser.add_argument(flag, **settings)
    groups = {
        name: parser.add_argument_group(f"--{name}", field.description)
        for name, field in ExperimentConfig.model_fields.items()
        if strict.model_at(ExperimentConfig, name)
    }
    for path, field in _leaves(ExperimentConfig):
        value = f" [{_value_at(recipe, path)}]" if recipe else ""
        groups.get(path.partition(".")[0], parser).add_argument(
            _flag(path), dest=path, default=SUPPRESS, help=f"{field.description}{value}",
            metavar=_metavar(field), nargs="*" if _is_list(field) else None,
        )  # fmt: skip
    return parser


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        part = strict.model_at(model, name)
        if part is None:
            yield prefix + name, field
        else:
            yield from _leaves(part, f"{prefix}{name}.")


def _flag(path: str) -> str:
    return "--" + path.replace("_", "-")


def _value_at(experiment: ExperimentConfig, path: str) -> Any:
    value: Any = experiment
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _is_list(field: FieldInfo) -> bool:
    return getattr(field.annotation, "__origin__", None) is tuple


def _types(field: FieldInfo) -> list[Any]:
    """What a field, or each entry of a list, may be: types, and the strings of a Literal."""
    return list(get_args(field.annotation)) or [field.annotation]


def _metavar(field: FieldInfo) -> str:
    names = [t if isinstance(t, str) else t.__name__ for t in _types(field) if t is not Ellipsis]
    return "|".join(dict.fromkeys(names)).replace("NoneType", "None")


def _overridden(recipe: str, overrides: dict[str, str | list[str]]) -> ExperimentConfig:
    experiment = load_recipe(recipe)
    if not overrides:
        return experiment
    values = experiment.model_dump(mode="json")
    fields = dict(_leaves(ExperimentConfig))
    for path, given in overrides.items():
        *parents, leaf = path.split(".")
        part = values
        for name in parents:
            part = part[name]
        part[leaf] = _read(_as_text(given, name=_flag(path)), fields[path])
    flags = " ".join(_flag(path) for path in overrides)
    return experiment_from(values, where=f"{recipe} with {flags}")


def _as_text(given: str | list[str], *, name: str) -> str | list[str]:
    if isinstance(given, str):
        return text_argument(given, name=name)
    return [text_argument(one, name=name) for one in given]


def _read(given: str | list[str], field: FieldInfo) -> Any:
    """Turn the text of a flag into a JSON value; what it cannot read is left for validation."""
    if isinstance(given, str):
        return _read_one(given, _types(field))
    if len(given) == 1 and given[0].startswith("["):
        try:
            return json.loads(given[0])
        except ValueError:
            return given[0]
    return [_read_one(text, _types(field)) for text in given]


def _read_one(text: str, types: list[Any]) -> Any:
    if type(None) in types and text in ("None", "null"):
        return None
    if bool in types:
        return {"true": True, "false": False}.get(text.lower(), text)
    if not {int, float} & set(types):
        return text
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if int in types and number.is_integer() else number


def _changeable(field: str) -> str:
    path = field.removeprefix("--").replace("-", "_")
    paths = [path for path, _ in _leaves(ExperimentConfig)]
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


def _refuse_contradictions(given: dict[str, Any]) -> None:
    if given["init_from"] and given["resume_from"]:
        raise InputError("--init-from and --resume-from: give one of them")
    if given["resume_from"] and not given["run_dir"]:
        raise InputError("--resume-from needs --run-dir, the folder of the new run")
    if given["resume"] == "must" and not given["run_dir"]:
        raise InputError("--resume must needs --run-dir, the folder of the run to resume")
