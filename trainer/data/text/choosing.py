"""Choosing by their names the files of a folder or an archive that are its text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.data.text.source import suffix_of
from trainer.outside import printable

#: Suffixes of data, and suffixes that are data only if no file has one of the first kind.
DATA_SUFFIXES = (".txt", ".text", ".tokens", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")
SOURCE_SUFFIXES = (".md", ".rst", ".py")
# Names of files about a folder, with any suffix.
_ABOUT = (
    "readme",
    "license",
    "licence",
    "copying",
    "copyright",
    "notice",
    "authors",
    "contributors",
    "contributing",
    "citation",
    "changelog",
    "changes",
    "requirements",
    "cmakelists",
    "manifest",
)
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class LeftOut:
    """Files of one kind that are not read, and the reason."""

    names: tuple[str, ...]
    why: str
    what: str = "files"

    def line(self) -> str:
        """Return a line for the user."""
        n = len(self.names)
        what = self.what.removesuffix("s") if n == 1 else self.what
        return f"left out: {n:,} {what} ({shown(self.names)}): {self.why}"


@dataclass(frozen=True)
class Choice:
    """Names of files to read, in order, and the files left out."""

    names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def shown(names: Sequence[str]) -> str:
    """Return the first few names, printable."""
    more = ", …" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(printable(name, most=100) for name in names[:_SHOWN_NAMES]) + more


def choose(names: Iterable[str], suffixes: tuple[str, ...] = ()) -> Choice:
    """Choose the text among the files of a folder; names are relative to it, with slashes.

    Hidden files and files below hidden folders are never chosen. With `suffixes`, the files with
    one of them are chosen. Otherwise the files of `DATA_SUFFIXES` are, but no README, LICENSE and
    the like, and no files of `SOURCE_SUFFIXES`; in a folder without data, these are the text.
    """
    hidden: list[str] = []
    others: list[str] = []
    data: list[str] = []
    beside: list[str] = []
    for name in sorted(names, key=lambda name: PurePosixPath(name).parts):
        suffix = suffix_of(name)
        if is_hidden(name):
            hidden.append(name)
        elif suffixes:
            (data if suffix in map(str.lower, suffixes) else others).append(name)
        elif suffix in DATA_SUFFIXES and not _is_about(name):
            data.append(name)
        elif suffix in DATA_SUFFIXES + SOURCE_SUFFIXES:
            beside.append(name)
        else:
            others.append(name)
    if not data:
        data, beside = beside, []
    no_text = "not of the suffixes asked for" if suffixes else "no text by their suffix"
    left_out = (
        LeftOut(tuple(others), no_text),
        LeftOut(tuple(beside), "documentation or source beside data (--suffixes reads them)"),
        LeftOut(tuple(hidden), "hidden"),
    )
    return Choice(tuple(data), tuple(one for one in left_out if one.names))


def is_hidden(name: str) -> bool:
    """Return whether a name, or a folder on the way to it, is hidden or an archiver's own."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _is_about(name: str) -> bool:
    return PurePosixPath(name).name.split(".")[0].lower() in _ABOUT
