"""Checking a `vocabulary.json` or `tokenizer.json` before a vocabulary is made from it."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.config.strict import checked
from trainer.errors import InputError

#: The most bytes of either file: 267,735 words take 4 million, a large model's tokenizer 20.
MAX_BYTES = 64 << 20
_MAX_SYMBOLS = 1 << 24


class _Values(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class _Words(_Values):
    kind: Literal["words"]
    lowercase: bool
    words: Annotated[list[str], Field(max_length=_MAX_SYMBOLS)]


class _Symbols(_Values):
    kind: Literal["bytes", "characters"]
    symbols: Annotated[str, Field(min_length=1)]
    unk: bool
    line_ends: bool = True
    byte_fallback: bool = False

    @model_validator(mode="after")
    def _are_symbols(self) -> Self:
        if len({*self.symbols}) != len(self.symbols):
            raise ValueError("a symbol is there twice")
        if self.kind == "bytes" and max(self.symbols, default="") > "\xff":
            raise ValueError("a symbol is no byte")
        return self


class _Listed(_Values):
    kind: Literal["symbols"]
    symbols: Annotated[list[str], Field(min_length=1, max_length=_MAX_SYMBOLS)]
    end_id: int | None


class _TokenizerModel(_Values):
    """The model of a tokenizer of any kind; the library checks its other fields."""

    type: str | None = None
    unk_token: str | None = None


class _Tokenizer(_Values):
    model: _TokenizerModel


class _Bpe(_Values):
    kind: Literal["bpe"]
    tokenizer: dict[str, Any]


_KINDS: dict[str, type[_Values]] = {
    "words": _Words,
    "bytes": _Symbols,
    "characters": _Symbols,
    "bpe": _Bpe,
    "symbols": _Listed,
}


def check_values(values: Any, *, where: str) -> None:
    """Check the values from which a vocabulary is made.

    Raises:
        InputError: a field is missing or wrong.
    """
    kind = values.get("kind") if isinstance(values, dict) else None
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise InputError(f"{where}: not a vocabulary: its kind is none of {', '.join(_KINDS)}")
    fix = "not a vocabulary: restore it, or prepare it again"
    checked(model, values, where=where, fix=fix)
    if model is _Bpe:
        checked(_Tokenizer, values["tokenizer"], where=where, fix=fix)
