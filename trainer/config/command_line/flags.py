"""Flags for all fields of the experiment: their spelling and values, and lines that have them."""

import json
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config import strict
from trainer.config.command_line import foreign_flags
from trainer.config.command_line.factory_flags import (
    experiment_type_of,
    is_flag,
    named_builder,
    refuse_unknown_options,
)
from trainer.config.factory import OPTIONS_FLAG, experiment_type, with_options
from trainer.config.fields import kinds_of
from trainer.config.recipe import ExperimentConfig, experiment_from, load_recipe, recipe_names
from trainer.errors import InputError, did_you_mean
from trainer.outside import text_argument

_EPILOG = """\
A number may be written 2e5, an absent value None, a list 2000 10000 or '[2000, 10000]'; a boolean
is its flag alone, or with True or False; --flag=value and underscores for hyphens are the same.
"""


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field that is no section, with its path, such as ``train.tgt_len``.

    The options of a factory are fields of its `trainer.config.factory.experiment_type` only.
    """
    for name, field in model.model_fields.items():
        part = strict.model_at(model, name)
        if get_origin(field.annotation) is dict:
            continue
        if part is None:
            yield prefix + name, field
        else:
            yield from leaves(part, f"{prefix}{name}.")


def flag_of(path: str) -> str:
    """Return the flag of the field at `path`."""
    return "--" + path.replace("_", "-")


def value_at(experiment: ExperimentConfig, path: str) -> Any:
    """Return an experiment's value of the field at `path`."""
    value: Any = experiment
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _is_list(field: FieldInfo) -> bool:
    return ... in _types(field) or get_origin(field.annotation) in (tuple, list)


def _is_nested(field: FieldInfo) -> bool:
    """Return whether a field is a list of pairs, which is given as one word of JSON."""
    return _depth(field.annotation) > 1


def _depth(annotation: Any) -> int:
    parts = get_args(annotation)
    return (get_origin(annotation) in (tuple, list)) + max(map(_depth, parts), default=0)


def _types(field: FieldInfo) -> list[Any]:
    return kinds_of(field.annotation)


def metavar(field: FieldInfo) -> str:
    """Return a field's possible values as help shows them."""
    if _is_nested(field):
        return "JSON"
    kinds = [t for t in _types(field) if t is not Ellipsis and t is not type(None)]
    names = [t if isinstance(t, str) else t.__name__.upper() for t in kinds]
    return "|".join(dict.fromkeys(names))


def arity(field: FieldInfo) -> dict[str, Any]:
    """Return how many words follow a field's flag; a boolean's flag may stand alone."""
    if bool in _types(field):
        return {"nargs": "?", "const": "True"}
    return {"nargs": "*" if _is_list(field) and not _is_nested(field) else None}


def overridden(
    recipe: str,
    overrides: dict[str, str | list[str]],
    fields: Mapping[str, FieldInfo],
    imports: bool,
) -> ExperimentConfig:
    """Read a recipe and change it by `overrides`, the text of each value by its field's path.

    `fields` are all fields by their paths. If it `imports`, the factory that the result names
    checks the options and fills them up.

    Raises:
        InputError: the recipe cannot be read, or the resulting experiment is not valid.
    """
    experiment = load_recipe(recipe)
    if not overrides:
        where = f"recipe {recipe}"
        return with_options(experiment, where=where) if imports else experiment
    values = experiment.model_dump(mode="json")
    for path, given in overrides.items():
        *parents, leaf = path.split(".")
        part = values
        for name in parents:
            part = part[name]
        part[leaf] = _read(_as_text(given, name=flag_of(path)), fields[path])
    flags = " ".join(flag_of(path) for path in overrides)
    where = f"{recipe} with {flags}"
    experiment = experiment_from(values, where=where)
    return with_options(experiment, where=where) if imports else experiment


def changed(experiment: ExperimentConfig, changes: Mapping[str, Any]) -> ExperimentConfig:
    """Return an experiment with the values of `changes`, by the paths of their fields.

    A factory that the result names is imported.

    Raises:
        InputError: there is no such field, or the resulting experiment is not valid.
    """
    fields = dict(leaves(experiment_type_of(changes, experiment.model)))
    values = experiment.model_dump(mode="json")
    for path, value in changes.items():
        if path not in fields:
            raise InputError(f"overrides: {path!r} is no field{did_you_mean(path, fields)}")
        *parents, leaf = path.split(".")
        part = values
        for name in parents:
            part = part[name]
        part[leaf] = value
    where = f"overrides {', '.join(changes)}"
    try:
        experiment = experiment_from(values, where=where)
    except (TypeError, ValueError) as error:  # what JSON does not have, such as an array
        raise InputError(f"{where}: {error}") from None
    return with_options(experiment, where=where if changes else "the experiment")


def _as_text(given: str | list[str], *, name: str) -> str | list[str]:
    if isinstance(given, str):
        return text_argument(given, name=name)
    return [text_argument(one, name=name) for one in given]


def _read(given: str | list[str], field: FieldInfo) -> Any:
    """Return the JSON value of a flag's text; text that cannot be read is left for validation."""
    if isinstance(given, str):
        return _read_json(given) if _is_nested(field) else _read_one(given, _types(field))
    if len(given) == 1 and given[0].startswith("["):
        return _read_json(given[0])
    return [_read_one(text, _types(field)) for text in given]


def _read_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "None" else text


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


class Parser(ArgumentParser):
    """A parser that raises what is wrong as an `InputError`."""

    def error(self, message: str) -> NoReturn:
        """Raise an `InputError`."""
        raise InputError(message)


def flags_with(
    options: dict[str, dict[str, Any]], schema: type[ExperimentConfig] = ExperimentConfig
) -> list[str]:
    """Return the flags of a command: its `options`, and one for every field."""
    return ["--help", *options, *(flag_of(path) for path, _ in leaves(schema))]


def given_of(
    argv: Sequence[str],
    options: dict[str, dict[str, Any]],
    *,
    usage: str,
    about: str,
    only_reads: bool = False,
) -> dict[str, Any]:
    """Return the values of `options` and the experiment from a command line.

    A factory that the command line or its recipe names is imported: what flags there are depends
    on the options that it takes. A command that `only_reads` builds no model, and imports none
    unless the command line speaks of a factory or of options: what the recipe says of options is
    then taken as it is.
    """
    tokens = [hyphened(token) for token in argv]
    known = flags_with(options)
    unknown = [t for t, spelt in zip(argv, tokens, strict=True) if _is_unknown(spelt, known)]
    if unknown:
        raise foreign_flags.unknown_flags(unknown, known=known)
    parser = _parser(_named_recipe(tokens), options, usage=usage, about=about)
    speaking = (OPTIONS_FLAG, "--model.factory", "--model.kind")
    speaks = any(token.startswith(speaking) for token in tokens)
    imports = speaks or not only_reads
    builder = named_builder(parser, tokens) if imports else None
    fields = dict(leaves(experiment_type(builder)))
    refuse_unknown_options(tokens, builder, list(map(flag_of, fields)))
    _add_options(parser, fields)
    given = vars(parser.parse_intermixed_args(tokens))
    if given["recipe"] is None:
        raise InputError(
            f"RECIPE is missing: start with one of {', '.join(recipe_names())}, or a JSON file"
        )
    overrides = {path: given.pop(path) for path in fields if path in given}
    return given | {"experiment": overridden(given["recipe"], overrides, fields, imports)}


def hyphened(token: str) -> str:
    """Return a word of a command line; a flag is spelt with hyphens, its value as it is."""
    head, equals, value = token.partition("=")
    return head.replace("_", "-") + equals + value if token.startswith("--") else token


def _is_unknown(token: str, known: list[str]) -> bool:
    """Return whether `token` is a flag, and neither one of ours nor a factory's option."""
    flag = token.partition("=")[0]
    return is_flag(flag) and not flag.startswith(OPTIONS_FLAG) and flag not in (*known, "-h")


def _named_recipe(tokens: list[str]) -> ExperimentConfig | None:
    """Return the recipe whose values ``--help`` shows; None without a recipe or ``--help``."""
    names = [token for token in tokens if not token.startswith("-")]
    asked = {"-h", "--help"} & set(tokens)
    return load_recipe(names[0]) if asked and names else None


def _parser(
    recipe: ExperimentConfig | None, options: dict[str, dict[str, Any]], *, usage: str, about: str
) -> ArgumentParser:
    """Return a parser of a command with all fields of an experiment as flags."""
    parser = Parser(
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
        _add_field(groups.get(path.partition(".")[0], parser), path, field, value)
    return parser


def _add_options(parser: ArgumentParser, fields: Mapping[str, FieldInfo]) -> None:
    """Add the flags of a factory's options; help shows their defaults."""
    options = {path: field for path, field in fields.items() if path.count(".") > 1}
    if not options:
        return
    group = parser.add_argument_group(
        OPTIONS_FLAG.rstrip("."), "the options of the factory or kind"
    )
    for path, field in options.items():
        value = "" if field.is_required() else f" [{field.get_default(call_default_factory=True)}]"
        _add_field(group, path, field, value)


def _add_field(group: Any, path: str, field: FieldInfo, value: str) -> None:
    """Add the flag of a field to a parser, or to a group of one."""
    group.add_argument(
        flag_of(path),
        dest=path,
        default=SUPPRESS,
        help=f"{field.description or ''}{value}".strip().replace("%", "%%"),
        metavar=metavar(field),
        **arity(field),
    )
