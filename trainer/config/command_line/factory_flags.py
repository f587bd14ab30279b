"""The flags of a factory's options, which a command line has only if it names the factory."""

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from trainer.config.command_line import foreign_flags
from trainer.config.factory import OPTIONS_FLAG, TAKES_OPTIONS, experiment_type, named
from trainer.config.kinds import FACTORIES
from trainer.config.recipe import ExperimentConfig, ModelConfig, load_recipe
from trainer.errors import InputError


def experiment_type_of(
    changes: Mapping[str, Any], like: ModelConfig | None
) -> type[ExperimentConfig]:
    """Return the class of the experiments of the model that changes of `like` name.

    What names no factory and no kind is left for validation.
    """
    return experiment_type(builder_of(changes, like))


def builder_of(changes: Mapping[str, Any], like: ModelConfig | None) -> str | None:
    """Return the factory that changes of a model's settings name; None of Transformer-XL."""
    factory = changes.get("model.factory", like and like.factory)
    if isinstance(factory, str) and factory.count(":") == 1:
        return factory
    kind = changes.get("model.kind", like and like.kind)
    return FACTORIES.get(kind) if isinstance(kind, str) else None


def is_flag(token: str) -> bool:
    """Return whether `token` is a flag, not a value such as -1."""
    return token.startswith("--") or (token[:1] == "-" and token[1:2].isalpha())


def named_builder(parser: ArgumentParser, tokens: list[str]) -> str | None:
    """Return the factory that a command line or its recipe names, itself or by its kind.

    Which words belong to a factory's options is not known yet, but for the first of each.
    """
    words, is_option = [], False
    for token in tokens:
        if is_flag(token):
            is_option = token.startswith(OPTIONS_FLAG)
        if not is_option and token not in ("-h", "--help"):
            words.append(token)
        if "=" in token:
            is_option = False
    given = vars(parser.parse_known_intermixed_args(words)[0])
    return builder_of(given, load_recipe(given["recipe"]).model if given["recipe"] else None)


def refuse_unknown_options(tokens: list[str], factory: str | None, known: list[str]) -> None:
    """Refuse options that the factory does not take."""
    given = [token.partition("=")[0] for token in tokens if token.startswith(OPTIONS_FLAG)]
    unknown = [flag for flag in dict.fromkeys(given) if flag not in known]
    if not unknown:
        return
    own = [flag for flag in known if flag.startswith(OPTIONS_FLAG)]
    if own:
        raise foreign_flags.unknown_flags(unknown, known=own)
    flags = " ".join(unknown)
    if factory is None:
        raise InputError(
            f"{flags}: a factory's option, and there is no factory: name one with --model.factory, "
            "a --model.kind, or either in the recipe, which then comes first"
        )
    raise InputError(f"{flags}: {named(factory)} takes no options: {TAKES_OPTIONS}")
