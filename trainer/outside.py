"""What comes from outside, before anything believes it: files that anybody may have written.

A file is read up to a size, a text is printed escaped and cut. What the values must be, the reader
says with a schema of its own.
"""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import InputError

#: Characters of a message from outside that are shown; the middle of a longer one is left out.
SHOWN_CHARACTERS = 1000
#: Bytes that a JSON file from outside may have, unless its reader knows better.
MAX_JSON_BYTES = 4 << 20
#: Categories of Unicode that move the cursor, hide text or are no characters at all.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: object, *, most: int = SHOWN_CHARACTERS) -> str:
    """Return `text` on one line that a terminal shows as it stands.

    Control characters, line ends, marks that turn the direction of writing and lone surrogates
    are escaped as Python writes them. Of a text of more than `most` characters the middle is left
    out, and its length is told.
    """
    shown = str(text)
    if len(shown) > most:
        n_left_out = len(shown) - most
        half = most // 2
        shown = f"{shown[:half]}… ({n_left_out:,} characters) …{shown[len(shown) - half :]}"
    return "".join(map(_escaped, shown))


def _escaped(character: str) -> str:
    if character.isascii():
        return character if character.isprintable() else repr(character)[1:-1]
    if unicodedata.category(character) in _UNSEEN:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


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
        InputError: there is no such file, it is a pipe or another thing that may never end, cannot
            be read, or is too long.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a file")
        with path.open("rb") as file:
            text = file.read(most_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from None
    if len(text) > most_bytes:
        raise InputError(f"{path}: longer than {most_bytes:,} bytes, which no such file is")
    return text


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
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
    except RecursionError:
        raise InputError(f"{where}: nested too deeply to be read") from None
    except ValueError as error:  # also of bytes that are no UTF-8
        raise InputError(f"{where}: not JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
