"""Headers, NAME.json, which describe the splits of a corpus: counts, hashes, how they were made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.config.strict import checked
from trainer.data.text.splitting import SPLITS
from trainer.data.vocabulary.files import canonical_hash
from trainer.errors import InputError
from trainer.outside import printable, read_json

MAGIC: Final = "txl-corpus"
VERSION: Final = 1
BLOCK_BYTES = 4 << 20
#: The most bytes of a header: enough for 4 TB of ids, or for as many files as a folder holds.
MAX_HEADER_BYTES = 256 << 20

_Count = Annotated[int, Field(ge=0, lt=1 << 62)]
_SomeCount = Annotated[int, Field(ge=1, lt=1 << 62)]
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]


class Header(BaseModel):
    """The fields of a header; the file also has their hash, as `header_hash`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    magic: Literal["txl-corpus"] = MAGIC
    version: Literal[1] = VERSION
    name: str = Field(description="train, valid or test")
    splits: list[str] = Field(description="every split of the corpus: a lost one is noticed")
    dtype: str = Field(pattern="^uint(16|32)$", description="of the ids, little endian")
    n_tokens: _SomeCount
    largest_id: _Count
    n_documents: _SomeCount
    n_words: _Count = Field(
        description="words of the text and one per line end, whatever the tokenizer, except for "
        "line ends that no id tells"
    )
    n_characters: _Count = Field(
        description="characters of the text with its line ends; bytes for the bytes tokenizer"
    )
    n_unknown: _Count = Field(description="tokens that are the vocabulary's `<unk>`")
    n_hidden: _Count | None = Field(
        default=None,
        description="characters that are unknown, dropped or changed; None where it was not "
        "counted, as versions before this field did not",
    )
    n_blanks: _Count | None = Field(
        default=None, description="characters of white space that the ids do not tell, as n_hidden"
    )
    vocabulary_hash: _Hash
    block_bytes: int = Field(ge=1 << 10, le=1 << 30, multiple_of=4)
    block_hashes: list[_Hash] = Field(description="xxh3_128 of each `block_bytes` of the ids")
    documents_hash: _Hash = Field(description="xxh3_128 of the document starts")
    made: dict[str, Any] = Field(description="how it was made, for the reader")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name not in self.splits or not set(self.splits) <= set(SPLITS):
            raise ValueError(f"splits are {_listed(self.splits)}, of which this is {self.name}")
        for field in ("n_documents", "n_unknown"):
            if (count := getattr(self, field)) > self.n_tokens:
                raise ValueError(f"{field} {count:,} exceeds n_tokens {self.n_tokens:,}")
        n_blocks = -(-self.n_bytes // self.block_bytes)
        if len(self.block_hashes) != n_blocks:
            raise ValueError(f"block_hashes are {len(self.block_hashes):,}, not {n_blocks:,}")
        return self

    @property
    def n_bytes(self) -> int:
        """Return the size of the file of ids."""
        return self.n_tokens * np.dtype(self.dtype).itemsize

    @property
    def content_hash(self) -> str:
        """Return the hash of the split's content, which does not depend on place or time."""
        return canonical_hash([self.vocabulary_hash, self.block_hashes, self.documents_hash])

    def to_json(self) -> dict[str, Any]:
        """Return all fields and their hash."""
        values = self.model_dump()
        return values | {"header_hash": canonical_hash(values)}


def split_paths(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """Return the paths of the ids, the header and the document starts of the split `name`."""
    return folder / f"{name}.bin", folder / f"{name}.json", folder / f"{name}.docs.npy"


def read_header(folder: Path, name: str) -> Header:
    """Read and check the header of the split `name`; raise `InputError` if it is not sound."""
    path = split_paths(folder, name)[1]
    try:
        values = read_json(path, most_bytes=MAX_HEADER_BYTES)
    except InputError as error:
        raise InputError(f"{error}: a corrupt header; prepare it again") from None
    if not isinstance(values, dict) or values.get("magic") != MAGIC:
        raise InputError(f"{path}: not a corpus header: its magic is not {MAGIC!r}")
    if values.get("version") != VERSION:
        version = printable(repr(values.get("version")), most=60)
        raise InputError(
            f"{path}: corpus version {version}, this program reads {VERSION}; prepare it again"
        )
    if values.pop("header_hash", None) != canonical_hash(values):
        raise InputError(f"{path}: corrupt header: its hash does not match; prepare it again")
    header = checked(Header, values, where=f"{path}: corrupt header", fix="prepare it again")
    if header.name != name:
        raise InputError(f"{path}: this is the header of split {header.name}; put it back")
    return header


def _listed(names: Sequence[str]) -> str:
    return printable(", ".join(names), most=100) or "none"
