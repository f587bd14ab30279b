"""Settings of the reference: fields of recipes, and keys of DeepSpeed files."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from trainer.commands.reference.tables import Table, code
from trainer.config import strict
from trainer.config.command_line.flags import flag_of, leaves, metavar
from trainer.config.deepspeed.checks import REFUSED
from trainer.config.deepspeed.file import owners
from trainer.config.deepspeed.keys import SCHEDULE_PARAMS, DsFile
from trainer.config.recipe import ExperimentConfig, resume_class

_FIELD_HEADS = ("flag", "value", "default", "on resume", "meaning")
_KEY_HEADS = ("key", "value", "owner", "meaning")


def recipe_tables() -> list[Table]:
    """Return the fields of recipes, a table per section."""
    sections: dict[str, list[tuple[str, ...]]] = {}
    for path, field in leaves(ExperimentConfig):
        section = path.rpartition(".")[0]
        row = (
            code(flag_of(path)),
            code(metavar(field) + " …" * (getattr(field.annotation, "__origin__", None) is tuple)),
            "the recipe's" if field.validate_default else _default(field.default),
            resume_class(path),
            field.description or "",
        )
        sections.setdefault(section, []).append(row)
    return [
        Table(
            section or "the whole recipe",
            _FIELD_HEADS,
            rows,
            text=_capital(_about(section)),
        )
        for section, rows in sections.items()
    ]


def _about(section: str) -> str:
    field = ExperimentConfig.model_fields.get(section)
    return f"{field.description}." if field and field.description else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "the recipe's"
    if value is None or value in ("", ()):
        return "none"
    return code(" ".join(map(str, value)) if isinstance(value, tuple) else value)


def deepspeed_tables() -> list[Table]:
    """Return the keys of DeepSpeed files, a table per block, and those that are refused."""
    keys = owners(None)
    tables = [
        Table(block or "the whole file", _KEY_HEADS, rows, text=_first_line(model))
        for block, model in _blocks(DsFile)
        if (rows := _key_rows(model, prefix=block, keys=keys))
    ]
    for kind, params in SCHEDULE_PARAMS.items():
        prefix = "scheduler.params"
        rows = _key_rows(params, prefix=prefix, keys=owners(kind))
        tables.append(Table(f"{prefix} of {kind}", _KEY_HEADS, rows))
    return [*tables, _refused()]


def _blocks(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield a block and the blocks inside it, each with its dotted path."""
    yield prefix, model
    for name in model.model_fields:
        inner = strict.model_at(model, name)
        if inner is not None:
            yield from _blocks(inner, f"{prefix}.{name}".lstrip("."))


def _key_rows(
    model: type[BaseModel], *, prefix: str, keys: dict[str, str]
) -> list[tuple[str, ...]]:
    schema = model.model_json_schema()["properties"]
    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        if strict.model_at(model, name) is not None or schema[name].get("type") == "object":
            continue
        owner = keys.get(f"{prefix}.{name}".lstrip("."), "")
        rows.append((code(name), code(_values(schema[name])), code(owner), field.description or ""))
    return rows


def _values(schema: dict[str, Any]) -> str:
    """Return the possible values of a key from its JSON Schema; null, which all take, is left."""
    kinds = [part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"]
    return "|".join(map(_value, kinds))


def _value(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    if schema["type"] == "boolean":
        return "true|false"
    if schema["type"] == "array":
        return f"[{_value(schema['items'])}, …]"
    least, most = schema.get("minimum"), schema.get("maximum")
    limits = ("" if least is None else f" ≥ {least:g}") + ("" if most is None else f" ≤ {most:g}")
    return f"{schema['type']}{limits}"


def _first_line(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").partition("\n\n")[0].split())


def _refused() -> Table:
    reasons: dict[str, list[str]] = {}
    for key, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(code(key))
    rows = [(" ".join(keys), reason) for reason, keys in reasons.items()]
    text = "Keys of DeepSpeed that are refused, and why."
    return Table("refused keys", ("keys", "reason"), rows, text=text)
