"""Reads files and arguments that anybody may have written, before anything believes them.

A file is read up to a size, a text is printed escaped and cut. What the values must be, the reader
says with a schema of its own.
"""

import json
import math
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.wording import printable, shortened

__all__ = [
    "MAX_JSON_BYTES",
    "open_file",
    "parse_json",
    "printable",
    "read_bytes",
    "read_json",
    "shortened",
    "text_argument",
]

#: Bytes that a JSON file from outside may have, unless its reader knows better.
MAX_JSON_BYTES = 4 << 20
#: Of lists and objects inside each other.
MAX_DEPTH = 64


def read_json(
    path: Path,
    *,
    most_bytes: int = MAX_JSON_BYTES,
    unique_keys: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Read a JSON file of at most `most_bytes` bytes.

    Args:
        path: the file.
        most_bytes: a longer file is refused before it is read.
        unique_keys: makes an object of its pairs, and may refuse them with `ValueError`.

    Raises:
        InputError: there is no such file, it cannot be read, is too long, or is not JSON. NaN and
            infinities are not JSON, nor is nesting beyond what the parser follows.
    """
    text = read_bytes(path, most_bytes=most_bytes)
    return parse_json(text, where=str(path), unique_keys=unique_keys)


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """Read a file of at most `most_bytes` bytes.

    Raises:
        InputError: there is no such file, it cannot be read, or is longer.
    """
    try:
        with open_file(path) as file:
            text = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    if len(text) > most_bytes:
        raise InputError(f"{path}: longer than {most_bytes:,} bytes, which no such file is")
    return text


def open_file(path: Path) -> BufferedReader:
    """Open a file to read; of a pipe, a device or a folder none would see the end.

    Raises:
        InputError: it is none.
        OSError: it is not there, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is {_kind(path.stat().st_mode)}, not a file")
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except ValueError as error:  # a name with a zero byte
        raise InputError(f"{path}: {error}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # since it was looked at
        file.close()
        raise InputError(f"{path} is no file any more")
    return file


def _kind(mode: int) -> str:
    names = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return names.get(stat.S_IFMT(mode), "a device")


def parse_json(
    text: bytes | str,
    *,
    where: str,
    unique_keys: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Parse JSON, strictly; `where` names it in the error.

    Raises:
        InputError: it is not JSON, see `read_json`.
    """
    try:
        values = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        refuse_odd_values(values)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be read") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise InputError(f"{where}: not JSON: {error}") from None
    return values


def refuse_odd_values(values: Any) -> None:
    """Refuse parsed values that others choke on.

    Raises:
        ValueError: they nest deeply, or a text of them is none, for it holds half a character.
    """
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        parts = []
        for part in level:
            if isinstance(part, dict):
                parts += [*part, *part.values()]
            elif isinstance(part, list):
                parts += part
            elif isinstance(part, str) and not part.isascii():
                part.encode()
        if not parts:
            return
        level = parts
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{shortened(digits)} is beyond the numbers that there are")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def text_argument(argument: str, *, name: str) -> str:
    """Return the text that an argument of the command line is, in whatever locale it was typed.

    Bytes that the locale cannot decode arrive as lone surrogates, which no text has: such an
    argument is read as UTF-8.

    Args:
        argument: as Python gives it.
        name: what it is, for the error.

    Raises:
        InputError: it is no UTF-8 either.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(argument).decode("utf-8")
        except UnicodeError:
            raise InputError(f"{name} is not UTF-8: convert it, as with iconv -t UTF-8") from None
    return argument
