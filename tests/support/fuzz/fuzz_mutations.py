"""What is done to a file before it is read: to its bytes, and to the values of its JSON."""

import json
import struct
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Draw = st.DrawFn


class Content(bytes):
    """Content of a file, shown short."""

    def __repr__(self) -> str:
        return f"{bytes(self[:300])!r}, {len(self)} bytes"


class Raw(str):
    """Text that stands in JSON as it is."""


#: Values of every type of JSON, some that are none, and some that are too much of one.
ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    1.5,
    -0.0,
    2**31,
    2**53,
    2**63,
    -(2**63) - 1,
    10**30,
    10**400,
    Raw("1e999"),
    Raw("-1e999"),
    Raw("NaN"),
    Raw("Infinity"),
    Raw("9" * 5000),
    1e-320,
    1e308,
    "",
    " ",
    "n" * 300,
    "a" * 5000,
    "\x1b[31m\nerror: all is well",
    "\x00",
    "\u202e",
    Raw('"\\ud800"'),
    "é漢😀",
    "../../x",
    "/dev/zero",
    "0" * 64,
    "inf",
    "nan",
    [],
    {},
    [[]],
    [None],
    {"": None},
    [0] * 20_000,
    {str(i): i for i in range(3000)},
    Raw("[" * 30 + "]" * 30),
    Raw("[" * 5000 + "]" * 5000),
    Raw('{"a":' * 5000 + "1" + "}" * 5000),
    Raw('{"a": 1, "a": 2}'),
    Raw(""),
    Raw("// no"),
]
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
#: Numbers that a format may take for sizes or places, in eight bytes.
SIZES = [0, 1, 255, *(2**n for n in (15, 16, 24, 31, 40, 62, 63)), 2**31 - 1, 2**32 - 1, 2**64 - 1]
MAGICS = [b"PK\x03\x04", b"\x1f\x8b\x08\x00", b"BZh9", b"\x93NUMPY\x01\x00", b"\x80\x04"]


def written(value: Any) -> str:
    """Return JSON, in which a `Raw` stands as it is."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def as_items(value: Any) -> list[tuple[Any, Any]]:
    """Return keys and values, of an object alone."""
    return list(value.items()) if isinstance(value, dict) else []


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield paths to every value, of a list the first few."""
    yield path
    inner = enumerate(value[:4]) if isinstance(value, list) else as_items(value)
    for key, part in inner:
        yield from places(part, (*path, key))


def swept_json(text: bytes) -> Iterator[bytes]:
    """Yield JSON with every odd value at the top and elsewhere, and at every place an odd value."""
    found = list(places(json.loads(text)))[1:]
    for odd in ODD_VALUES:
        yield written(odd).encode("utf-8", "surrogatepass")
    for i in range(max(len(found), len(ODD_VALUES))):
        owner = document = json.loads(text)
        *path, last = found[i % len(found)]
        for key in path:
            owner = owner[key]
        owner[last] = ODD_VALUES[i % len(ODD_VALUES)]
        yield written(document).encode("utf-8", "surrogatepass")


@st.composite
def mutated_json(draw: Draw, text: bytes) -> bytes:
    """Return JSON with one to three values changed, left out, doubled, renamed or put deeper."""
    document = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        document = _changed(draw, document)
    return written(document).encode("utf-8", "surrogatepass")


def _changed(draw: Draw, document: Any) -> Any:
    found = list(places(document))
    *path, last = draw(st.sampled_from(found)) or (None,)
    odd = draw(st.one_of(st.sampled_from(ODD_VALUES), ANY_TEXT, st.integers(), st.floats()))
    odd = deepcopy(odd)  # for it may be changed in its turn
    if last is None:
        return odd
    owner = document
    for key in path:
        owner = owner[key]
    change = draw(st.sampled_from(["replace"] * 4 + ["delete", "double", "rename", "deepen"]))
    if change == "replace":
        owner[last] = odd
    elif change == "deepen":
        owner[last] = [owner[last]] if draw(st.booleans()) else {"a": owner[last]}
    elif change == "delete":
        del owner[last]
    elif isinstance(owner, list):
        owner.append(owner[last])
    elif change == "rename":
        owner[draw(ANY_TEXT)] = owner.pop(last)
    else:  # the same key again, as JSON allows
        owner[last] = Raw(f"{written(owner[last])},{json.dumps(last)}:{written(odd)}")
    return document


@st.composite
def mutated_bytes(draw: Draw, data: bytes) -> bytes:
    """Draw bytes flipped, cut, put in, doubled, zeroed, or replaced by numbers and other magics."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.sampled_from(["anywhere", "anywhere", "begin", "end"]))
        span = min(len(changed), 200)
        low = len(changed) - span if near == "end" else 0
        at = draw(st.integers(low, max(low, (span if near == "begin" else len(changed)) - 1)))
        _change_bytes(draw, changed, at)
    return bytes(changed)


def _change_bytes(draw: Draw, changed: bytearray, at: int) -> None:
    kinds = ["flip", "flip", "cut", "insert", "zero", "double", "size", "magic"]
    kind = draw(st.sampled_from(kinds))
    n = draw(st.integers(1, 64))
    if kind == "flip" and at < len(changed):
        changed[at] ^= draw(st.integers(1, 255))
    elif kind == "cut":
        del changed[at : None if n > 32 else at + n]
    elif kind == "insert":
        changed[at:at] = draw(st.binary(min_size=1, max_size=40))
    elif kind == "zero":
        changed[at : at + n] = bytes(len(changed[at : at + n]))
    elif kind == "double":
        changed[at:at] = changed[at : at + n] * draw(st.sampled_from([1, 3, 1000]))
    elif kind == "size":
        size = struct.pack("<Q", draw(st.sampled_from(SIZES)))[: draw(st.sampled_from([2, 4, 8]))]
        changed[at : at + len(size)] = size
    else:
        magic = draw(st.sampled_from(MAGICS))
        changed[: len(magic)] = magic
