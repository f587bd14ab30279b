"""Reading settings strictly: by name or path, no key twice, all problems in one line."""

import re
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from trainer.errors import InputError, did_you_mean
from trainer.outside import MAX_JSON_BYTES, printable, read_bytes, shortened
from trainer.shell import typed_path

_Model = TypeVar("_Model", bound=BaseModel)
#: The most problems of a file that an error lists, and the most characters of each.
_TOLD_PROBLEMS, _TOLD_CHARACTERS = 3, 300
#: With more problems than this the file is of another kind, and no problem is listed.
_MAX_PROBLEMS = 1_000


def packaged_names(folder: Traversable) -> list[str]:
    """Return the names of the JSON files in `folder`, sorted."""
    return sorted(
        p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json")
    )


def read_named(name_or_path: str, folder: Traversable, *, kind: str) -> bytes:
    """Read a JSON file of `folder` by name, or any file by path; errors call it a `kind`.

    Raises:
        InputError: the file does not exist, or cannot be read.
    """
    path = typed_path(name_or_path)
    try:
        if path.suffix == ".json" or path.is_file():
            return read_bytes(path, most_bytes=MAX_JSON_BYTES)
    except InputError as error:
        raise InputError(f"{kind} {error}") from None
    names = packaged_names(folder)
    if name_or_path in names:
        return (folder / f"{name_or_path}.json").read_bytes()
    raise InputError(
        f"{kind} {shortened(name_or_path)} is not packaged{did_you_mean(name_or_path, names)}; "
        f"there are {', '.join(names)}, or give the path of a JSON file"
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of `pairs` (an ``object_pairs_hook``).

    Raises:
        ValueError: a key appears twice, so that one of its values would be lost.
    """
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {shortened(key)} is given twice")
        values[key] = value
    return values


def checked(model: type[_Model], values: object, *, where: str, fix: str) -> _Model:
    """Return the values of a file from outside as a `model`.

    Raises:
        InputError: says `where`, the first few problems of `values`, and `fix`, in one line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = describe(error, model)
        shown = [printable(problem, most=_TOLD_CHARACTERS) for problem in problems[:_TOLD_PROBLEMS]]
        if len(problems) > len(shown):
            shown.append(f"{len(problems) - len(shown):,} more")
        raise InputError(f"{where}: {'; '.join(shown)}; {fix}") from None


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return each problem of a failed validation: key path, problem, value, nearest key."""
    if error.error_count() > _MAX_PROBLEMS:
        return [f"{error.error_count():,} values or keys that do not belong there"]
    return [_describe(dict(problem), model) for problem in error.errors(include_url=False)]


def _describe(problem: dict[str, Any], model: type[BaseModel]) -> str:
    """Return one problem that pydantic found, in a line."""
    path = printable(".".join(str(key) for key in problem["loc"]), most=200)
    kind, got = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        owner = model_at(model, *problem["loc"][:-1])
        known = owner.model_fields if owner else ()
        return f"unknown key {path}{did_you_mean(str(problem['loc'][-1]), known)}"
    if kind == "missing":
        return f"{path} is missing"
    if kind == "value_error":  # the validator's message says the value
        message = problem["msg"].removeprefix("Value error, ")
    elif kind == "model_type":
        message = f"input should be an object, got {shortened(got)}"
    elif isinstance(got, dict):
        message = f"{_lower(problem['msg'])}, got an object"
    else:
        choices = re.findall(r"'([^']*)'", problem.get("ctx", {}).get("expected", ""))
        said = got if isinstance(got, str) else shortened(got)
        word = next((c for c in choices if c.lower() == said.lower()), said)
        hint = did_you_mean(word, choices)
        message = f"{_lower(problem['msg'])}, got {shortened(got)}{hint}"
    return f"{path}: {message}" if path else message


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def model_at(model: type[BaseModel], *path: int | str) -> type[BaseModel] | None:
    """Return the model nested at the keys of `path`; None if there is none."""
    for key in path:
        field = model.model_fields.get(str(key))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        model = annotation
    return model
