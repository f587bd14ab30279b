"""Reading a path as `txl prepare` would, for the tests of how texts are found and read."""

from pathlib import Path

from trainer.data.text.finding import find_files
from trainer.data.text.json_lines import BadLines
from trainer.data.text.pieces import read_pieces
from trainer.data.text.source import Reading


def documents(
    path: Path, *, bad_lines: BadLines | None = None, suffixes: tuple[str, ...] = (), **how: object
) -> list[str]:
    """Return the texts of all documents below `path`; `how` is of `Reading`."""
    reading = Reading(**how)  # type: ignore[arg-type]
    texts = [""]
    for piece in read_pieces(
        find_files(path, reading, suffixes=suffixes).files, reading, bad_lines=bad_lines
    ):
        texts[-1] += piece.text
        texts += [""] * piece.ends_document
    assert texts.pop() == ""
    return texts
