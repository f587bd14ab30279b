"""Reading a column of text from Parquet and Arrow tables, a few rows at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.data.text.json_lines import BadLines
from trainer.data.text.nature import TableFormat
from trainer.errors import InputError
from trainer.optional import optional
from trainer.outside import printable

# Rows that are texts in Python at the same time: a row may be a book.
_ROWS = 64
_BUFFER_BYTES = 1 << 16
_SHOWN_CHARACTERS = 200


def read_table(
    path: Path,
    name: str,
    *,
    form: TableFormat,
    column: str,
    bad_rows: BadLines,
    may_hold_nul: bool,
    on_share: Callable[[float], object] = lambda share: None,
) -> Iterator[str]:
    """Yield the text of each row, in order.

    Args:
        path: the table.
        name: the table's name in messages.
        form: what its first bytes show.
        column: name of the column of text.
        bad_rows: decides about each row without a text.
        may_hold_nul: whether a text may hold NUL characters.
        on_share: called with the share of the table that has been read.

    Raises:
        InputError: the library is not installed; the table is damaged or has no such column of
            text; or a row has no text and may not be left out, or no row has one.
    """
    arrow = optional("pyarrow", extra="hf", does="read tables")
    number = n_texts = 0
    cause = ""
    with _reading_errors(arrow, name):
        columns = _parquet if form == "parquet" else _arrow
        for part, share in columns(arrow, path, printable(name), form, column):
            for first in range(0, len(part), _ROWS):
                for text in _texts(part.slice(first, _ROWS)):
                    number += 1
                    cause = _cause(text, column, may_hold_nul=may_hold_nul)
                    if cause or not isinstance(text, str):
                        bad_rows.leave_out(f"{printable(name)}: row {number}", cause, what="row")
                        continue
                    n_texts += 1
                    yield text
            on_share(share)
    if number and not n_texts:
        raise InputError(f"{printable(name)}: none of its rows has a text; the last one: {cause}")


@contextmanager
def _reading_errors(arrow: Any, name: str) -> Iterator[None]:
    try:
        yield
    except (arrow.ArrowException, OSError, EOFError, MemoryError, ValueError) as error:
        why = printable(" ".join(str(error).split()), most=_SHOWN_CHARACTERS)
        raise InputError(f"{printable(name)}: a damaged table: {why}") from None


def _parquet(
    arrow: Any, path: Path, name: str, form: TableFormat, column: str
) -> Iterator[tuple[Any, float]]:
    """Yield parts of the column, with the share of rows up to their ends."""
    parquet = optional("pyarrow.parquet", extra="hf", does="read Parquet tables")
    # A column's pages are read as they are needed, through a buffer, not a group of rows at once.
    bounded = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False}
    with path.open("rb") as file, parquet.ParquetFile(file, **bounded) as table:
        _check(arrow, table.schema_arrow, name, column)
        n_read, n_rows = 0, max(1, table.metadata.num_rows)
        for batch in table.iter_batches(batch_size=_ROWS, columns=[column], use_threads=False):
            n_read += batch.num_rows
            yield batch.column(0), n_read / n_rows


def _arrow(
    arrow: Any, path: Path, name: str, form: TableFormat, column: str
) -> Iterator[tuple[Any, float]]:
    ipc = optional("pyarrow.ipc", extra="hf", does="read Arrow tables")
    n_bytes = path.stat().st_size
    with arrow.OSFile(str(path)) as file:
        if form == "arrow":
            with ipc.open_file(file) as table:
                n_batches = table.num_record_batches
                _check(arrow, table.schema, name, column)
                for i in range(n_batches):
                    yield _column(table.get_batch(i), column), (i + 1) / n_batches
            return
        with ipc.open_stream(file) as table:
            _check(arrow, table.schema, name, column)
            for batch in table:
                yield _column(batch, column), file.tell() / n_bytes


def _column(batch: Any, column: str) -> Any:
    found = batch.column(batch.schema.get_field_index(column))
    found.validate(full=True)  # a wrong offset would read memory that is not the column's
    return found


def _check(arrow: Any, schema: Any, name: str, column: str) -> None:
    """Make sure that there is one such column, and that it holds text."""
    at = schema.get_all_field_indices(column)
    if len(at) != 1:
        how = "no column" if not at else f"{len(at)} columns"
        there = printable(", ".join(schema.names) or "none", most=_SHOWN_CHARACTERS)
        raise InputError(f"{name}: {how} {column!r} (columns: {there}); see --text-field")
    kind = schema.field(at[0]).type
    held = kind.value_type if arrow.types.is_dictionary(kind) else kind
    checks = (arrow.types.is_string, arrow.types.is_large_string, arrow.types.is_string_view)
    if not any(check(held) for check in checks):
        raise InputError(
            f"{name}: the column {column!r} holds {printable(kind, most=_SHOWN_CHARACTERS)}, not "
            "text; name another one with --text-field"
        )


def _texts(part: Any) -> list[str | UnicodeDecodeError | None]:
    try:
        texts: list[str | UnicodeDecodeError | None] = part.to_pylist()
    except UnicodeDecodeError:  # of one row
        return [_text(value) for value in part]
    return texts


def _text(value: Any) -> str | UnicodeDecodeError | None:
    try:
        text: str | None = value.as_py()
    except UnicodeDecodeError as error:
        return error
    return text


def _cause(text: str | UnicodeDecodeError | None, column: str, *, may_hold_nul: bool) -> str:
    """Return why a row has no text; nothing if it has one."""
    if text is None:
        return f"the column {column!r} is null"
    if isinstance(text, UnicodeDecodeError):
        return f"the column {column!r} is not UTF-8 at byte {text.start}"
    if "\x00" in text and not may_hold_nul:
        return f"the column {column!r} has a NUL at character {text.index(chr(0))}"
    return ""
