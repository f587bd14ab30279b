"""JSON lines: recognising them, and reading the text of each line or saying what is wrong."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Literal

from trainer.data.text.nature import HEAD_BYTES, UTF8_MARK
from trainer.errors import InputError
from trainer.outside import printable
from trainer.wording import counted

OnBadLine = Literal["stop", "skip"]

#: The most bytes of a line, which is held in memory as a whole.
MAX_LINE_BYTES = 1 << 30
_SHOWN_NAMES = 3

_KEY = rb'"(?:[^"\\]|\\.)*"\s*:'
_OBJECT = re.compile(rb"\{\s*" + _KEY)
_ARRAY = re.compile(rb"\[\s*(?:\{\s*" + _KEY + rb'|"(?:[^"\\]|\\.)*"\s*,\s*")')


def json_shape(head: bytes, *, text_field: str) -> Literal["lines", "document"] | None:
    """Return whether a file's first bytes are JSON lines, one JSON document, or neither (None).

    Text that begins with a brace is JSON only if a key in quotes and a colon follow. Then it is
    JSON lines if the first line is a whole object and the next line, if any, begins another object;
    or if the first line has the text field.
    """
    body = head.removeprefix(UTF8_MARK).lstrip()
    if _ARRAY.match(body):
        return "document"
    if not _OBJECT.match(body):
        return None
    first, line_end, rest = body.partition(b"\n")
    if not _OBJECT.match(first):
        return "document"  # the first key has a line of its own
    if not line_end and len(head) >= HEAD_BYTES:
        return "lines"  # the first line is longer than `head`
    second = rest.lstrip()
    goes_on = bool(_OBJECT.match(second))
    key = re.compile(re.escape(json.dumps(text_field)).encode() + rb"\s*:")
    if _is_whole(first):
        return "lines" if goes_on or not second or key.search(first) else None
    if not goes_on and second and first.rstrip().endswith((b",", b"{", b"[")):
        return "document"
    return "lines" if goes_on or key.search(first) else None


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


@dataclass
class BadLines:
    """The rule for lines without a text, and the lines left out in the last pass."""

    policy: OnBadLine = "stop"
    n_left_out: int = 0
    examples: list[str] = field(default_factory=list)
    """The first few lines left out, with file, line and cause."""

    def begin_pass(self) -> None:
        """Forget the lines that an earlier pass over the same files left out."""
        self.n_left_out = 0
        self.examples.clear()

    def leave_out(self, where: str, cause: str, *, what: str = "line") -> None:
        """Count a line, or what else holds a text, as left out, if that is allowed.

        Raises:
            InputError: no line may be left out.
        """
        if self.policy == "stop":
            raise InputError(
                f"{where}: {cause}; mend the {what}, or leave such {what}s out with --on-bad-line "
                "skip"
            )
        self.n_left_out += 1
        if len(self.examples) < _SHOWN_NAMES:
            self.examples.append(f"{where}: {cause}")

    def lines(self) -> list[str]:
        """Return the lines that were left out as lines for the user."""
        if not self.n_left_out:
            return []
        more = "; …" if self.n_left_out > len(self.examples) else ""
        return [f"left out: {counted(self.n_left_out, 'line')} ({'; '.join(self.examples)}{more})"]


class _NoTextError(ValueError):
    """An error: a line has no text. The message is the cause."""


def read_texts(
    stream: IO[bytes], name: str, *, text_field: str, bad_lines: BadLines, may_hold_nul: bool
) -> Iterator[str]:
    """Yield the text of each line that is not blank, in order.

    Args:
        stream: the lines, without a byte order mark.
        name: the file's name in messages.
        text_field: key of the text.
        bad_lines: decides about each line without a text.
        may_hold_nul: whether a text may hold NUL characters.

    Raises:
        InputError: a line has no text and may not be left out, or no line has a text.
    """
    n_texts = 0
    cause = ""
    for number, line in enumerate(_lines(stream), start=1):
        if line.isspace():
            continue
        try:
            text = _text(line, text_field, may_hold_nul=may_hold_nul)
        except _NoTextError as error:
            cause = str(error)
            bad_lines.leave_out(f"{name}:{number}", cause)
            continue
        n_texts += 1
        yield text
    if cause and not n_texts:
        raise InputError(f"{name}: none of its lines has a text; the last one: {cause}")


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines; an endless line is cut, and the rest of it is read but not held."""
    while line := stream.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (more := stream.readline(io.DEFAULT_BUFFER_SIZE)) and not more.endswith(b"\n"):
                pass
        yield line


def _text(line: bytes, text_field: str, *, may_hold_nul: bool) -> str:
    """Return the text of one line; raise `_NoTextError` with the cause if it has none."""
    try:
        record = json.loads(line.decode("utf-8-sig"))  # joined files keep their marks
    except RecursionError:
        raise _NoTextError("JSON that is nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        raise _NoTextError(f"not UTF-8 at byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise _NoTextError(_what_is_wrong(line, error)) from None
    except ValueError as error:  # a number with thousands of digits
        raise _NoTextError(f"JSON that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise _NoTextError(f"{_kind(record)} where an object with the field {text_field!r} belongs")
    if text_field not in record:
        fields = printable(", ".join(record) or "none", most=200)
        raise _NoTextError(f"no field {text_field!r} (fields: {fields}); see --text-field")
    text = record[text_field]
    if not isinstance(text, str):
        raise _NoTextError(f"the field {text_field!r} is {_kind(text)}, not text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise _NoTextError(
                f"the field {text_field!r} has half a character (the lone surrogate "
                f"\\u{ord(text[error.start]):04x}) at character {error.start}"
            ) from None
    if "\x00" in text and not may_hold_nul:
        raise _NoTextError(
            f"the field {text_field!r} has a NUL at character {text.index(chr(0))}, which no text "
            "has"
        )
    return text


def _what_is_wrong(line: bytes, error: json.JSONDecodeError) -> str:
    if len(line) == MAX_LINE_BYTES:
        return f"longer than {MAX_LINE_BYTES:,} bytes, which no line of JSON lines is"
    if b"\x00" in line:
        return f"NUL bytes, not JSON, from byte {line.index(0)} of the line on"
    return f"not JSON at character {error.pos} of the line ({error.msg})"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"
