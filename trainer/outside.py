"""Reading files and arguments that anybody may have written, so that they can do no harm.

Files are read up to a size. The reader then checks the values with a schema of its own.
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

#: The most bytes of a JSON file from outside, unless its reader sets another limit.
MAX_JSON_BYTES = 4 << 20
#: The deepest nesting of lists and objects.
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
        unique_keys: makes an object from its pairs, and may refuse them with `ValueError`.

    Raises:
        InputError: the file does not exist, cannot be read, is too long, or is not JSON. NaN,
            infinities and nesting too deep for the parser are not JSON.
    """
    text = read_bytes(path, most_bytes=most_bytes)
    return parse_json(text, where=str(path), unique_keys=unique_keys)


def read_bytes(path: Path, *, most_bytes: int) -> bytes:
    """Read a file of at most `most_bytes` bytes.

    Raises:
        InputError: the file does not exist, cannot be read, or is longer.
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
    """Open a regular file to read; a pipe or a device might never end.

    Raises:
        InputError: the path is no regular file.
        OSError: the file does not exist, or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is {_kind(path.stat().st_mode)}, not a file")
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except ValueError as error:  # a name with a zero byte
        raise InputError(f"{path}: {error}") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it may have changed since the check
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
    """Parse JSON strictly; `where` names the text in the error.

    Raises:
        InputError: the text is not JSON, see `read_json`.
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
    except ValueError as error:  # includes bytes that are not UTF-8
        raise InputError(f"{where}: not JSON: {error}") from None
    return values


def refuse_odd_values(values: Any) -> None:
    """Refuse parsed values that other code cannot handle.

    Raises:
        ValueError: values nest too deeply, or a text holds half a character (a lone surrogate).
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
    """Return the text of an argument of the command line, whatever the locale.

    Bytes that the locale cannot decode arrive as lone surrogates, which no text has. Such an
    argument is read as UTF-8.

    Args:
        argument: the argument as Python decoded it.
        name: the argument's name in the error.

    Raises:
        InputError: the argument is no UTF-8 either.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:
        try:
            return os.fsencode(argument).decode("utf-8")
        except UnicodeError:
            raise InputError(f"{name} is not UTF-8: convert it, as with iconv -t UTF-8") from None
    return argument
