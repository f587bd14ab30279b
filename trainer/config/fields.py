"""Kinds of fields of the settings, by what a change on resume means.

A change of a `free` field is accepted silently, a change of an `announced` field needs
``--allow-change FIELD``, and a change of a `refused` field is an error.
"""

from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

OnResume = Literal["free", "announced", "refused"]


class Section(BaseModel):
    """A section of the settings: frozen, and strict about what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="after")
    def _counts_are_exact(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > 2**53:
                raise ValueError(f"{name} is beyond 2**53, where JSON's numbers are not exact")
        return self


def kinds_of(annotation: Any) -> list[Any]:
    """Return the types of a field, or of its entries if it is a list; a Literal gives strings."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    parts = get_args(annotation)
    return [kind for part in parts for kind in kinds_of(part)] if parts else [annotation]


def refused(default: Any, meaning: str, **limits: Any) -> Any:
    """Make a field that no resumed run may change; `limits` are pydantic's."""
    return _field(default, meaning, "refused", limits)


def announced(default: Any, meaning: str, **limits: Any) -> Any:
    """Make a field that a resumed run may change with ``--allow-change``."""
    return _field(default, meaning, "announced", limits)


def free(default: Any, meaning: str, **limits: Any) -> Any:
    """Make a field that a resumed run may change."""
    return _field(default, meaning, "free", limits)


def _field(default: Any, meaning: str, resume: OnResume, limits: dict[str, Any]) -> Any:
    return Field(
        default=default, description=meaning, json_schema_extra={"on_resume": resume}, **limits
    )
