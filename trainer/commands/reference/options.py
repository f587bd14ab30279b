"""Options of the commands of `txl`, read from their classes: names, values, defaults, meanings."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from trainer.commands.reference.tables import Table, code

_HEADS = ("option", "value", "default", "meaning")
_PLACEHOLDERS = {str: "TEXT", Path: "PATH", int: "INT", float: "FLOAT"}


def command_table(name: str, command: Any) -> Table:
    """Return the options of a command of `txl`, a class of options that can be run."""
    rows = list(_rows(command))
    first, _, rest = (inspect.getdoc(command) or "").partition("\n")
    text = " ".join([first, *rest.split()])
    if rows and any(row[0][1] != "-" for row in rows):
        rows.sort(key=lambda row: row[0][1] == "-")  # positional words first
    return Table(f"txl {name}", _HEADS, rows, text=text)


def meanings(kind: type) -> dict[str, str]:
    """Return the text below each field of a class and of the classes that it extends."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not is_dataclass(owner):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(body, ast.ClassDef)
        for statement, below in zip(body.body, body.body[1:], strict=False):
            match statement, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


def _rows(kind: type, given: object = None) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row per option; `given` has the defaults of options that belong together."""
    hints, texts = get_type_hints(kind, include_extras=True), meanings(kind)
    for field in fields(kind):
        default = _default(field) if given is None else getattr(given, field.name)
        hint = hints[field.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _rows(hint, given=default)
            continue
        name, is_word, inner = _unwrapped(hint, name=field.name)
        values = _values(inner)
        option = code(name if is_word else f"--{name}")
        yield option, code(values), _shown(default), texts.get(field.name, "")


def _unwrapped(hint: Any, *, name: str) -> tuple[str, bool, Any]:
    """Return an option's name, whether it is a word without a flag, and its bare type."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    inner = get_args(hint)[0] if marks else hint
    named = [mark.name for mark in marks if getattr(mark, "name", None)]
    (positional,) = get_args(tyro.conf.Positional[int])[1:]
    return (named or [name])[0].strip("_").replace("_", "-"), positional in marks, inner


def _values(kind: Any) -> str:
    """Return how a value is typed; nothing for a flag that stands alone."""
    inner = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_values(inner[0])} …"
    if NoneType in get_args(kind):
        return "True|False" if inner == [bool] else _values(inner[0])
    return "" if kind is bool else _PLACEHOLDERS[kind]


def _default(field: "Field[Any]") -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _shown(default: Any) -> str:
    """Return a default as the table shows it: nothing for an option that is off without it."""
    if default is MISSING:
        return "required"
    return "" if default is None or default is False or default in ((), "") else code(default)


def flag_table(title: str, options: Mapping[str, Mapping[str, Any]], *, text: str = "") -> Table:
    """Return a table of flags from argparse's arguments for each."""
    rows = [
        (
            code(flag),
            code(_typed(given)),
            "required" if given.get("required") else _shown(given.get("default")),
            str(given.get("help", "")),
        )
        for flag, given in options.items()
    ]
    return Table(title, _HEADS, rows, text=text)


def _typed(given: Mapping[str, Any]) -> str:
    """Return how the value of a flag is typed, from argparse's arguments."""
    typed = "|".join(given.get("choices", ())) or str(given.get("metavar", ""))
    return f"{typed} …" if given.get("nargs") == "+" else typed
