"""The command line of ``txl check-model``: a model, with changes of any field of a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trainer.config.command_line.factory_flags import is_flag
from trainer.config.command_line.flags import flag_of, given_of
from trainer.config.kinds import Kind
from trainer.config.recipe import ExperimentConfig
from trainer.errors import InputError

#: The recipe that models without a recipe of their own are checked in, and sizes small enough for
#: checks to take a minute. A factory reads of them what it likes.
_RECIPE = "quickstart"
_SIZES = {
    "model.n_layer": 2,
    "model.d_model": 32,
    "model.n_head": 2,
    "model.d_head": 16,
    "model.d_inner": 48,
}

TARGET: dict[str, dict[str, Any]] = {
    "TARGET": {
        "help": "package:build of a factory, which runs; a packaged model, as transformer-xl; or a "
        "recipe",
        "required": True,
    }
}
CHECK_OPTIONS: dict[str, dict[str, Any]] = {
    "--fast": {"action": "store_true", "help": "leave out trainings in processes of their own"},
    "--json": {"action": "store_true", "help": "print JSON"},
    "--device": {
        "choices": ("auto", "cpu", "cuda"),
        "default": "cpu",
        "help": "where to compute; trainings are on the CPU, and left out elsewhere",
    },
}


@dataclass(frozen=True)
class CheckArguments:
    """A command to check a model; `experiment` has its section `model`."""

    recipe: str
    experiment: ExperimentConfig
    fast: bool
    json: bool
    device: Literal["auto", "cpu", "cuda"]


def recipe_of(target: str) -> tuple[str, dict[str, Any]]:
    """Return the recipe in which a target is checked, and its changes by the paths of fields."""
    if target in get_args(Kind):
        return _RECIPE, _SIZES | {"model.kind": target}
    if ":" in target and not target.endswith(".json"):
        return _RECIPE, _SIZES | {"model.factory": target}
    return target, {}


def parse_check(argv: Sequence[str]) -> CheckArguments:
    """Read the words behind ``txl check-model``; ``--help`` prints and exits.

    Raises:
        InputError: the target is missing, a flag or value is unknown, or the model's section is
            not valid.
    """
    words = list(argv)
    if words and not is_flag(words[0]):
        recipe, changes = recipe_of(words.pop(0))
        flags = [word for path, value in changes.items() for word in (flag_of(path), str(value))]
        words = [recipe, *flags, *words]
    elif not {"-h", "--help"} & set(words):
        raise InputError(
            "txl check-model: the model comes first: package:build of a factory, "
            f"{', '.join(get_args(Kind))}, or a recipe"
        )
    given = given_of(
        words,
        CHECK_OPTIONS,
        about="Check whether a model holds to the Protocol: its state, its rows, its training.",
        usage="txl check-model TARGET [--model.options.NAME VALUE …] [--fast] [--json] [flags]",
    )
    return CheckArguments(**given)
