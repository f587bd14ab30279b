"""Finding the files to read in the files, zip archives and folders that the user named."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from trainer.data.text.archive import open_archive, zip_sizes
from trainer.data.text.choosing import (
    DATA_SUFFIXES,
    SOURCE_SUFFIXES,
    Choice,
    LeftOut,
    choose,
    shown,
)
from trainer.data.text.datasets_folder import tables_of
from trainer.data.text.source import (
    OpenRaw,
    Reading,
    TextFile,
    inspected,
    is_json_document,
    opens,
    read_head,
    suffix_of,
)
from trainer.data.text.walking import Walked, walk
from trainer.errors import InputError
from trainer.outside import printable
from trainer.wording import counted

# Kinds of archives that are documents, not collections of files, by a member that each kind has.
_DOCUMENTS = {
    "[Content_Types].xml": "an Office document (.docx, .xlsx, .pptx): save it as plain text",
    "mimetype": "an EPUB or OpenDocument file: save it as plain text",
    "META-INF/MANIFEST.MF": "a Java archive: give the text itself",
}
_ENDS = {
    "/data.pkl": "a PyTorch file: it holds weights, not text; give the text",
    ".npy": "NumPy arrays (.npz): write the text that they were made of to a file",
}

#: Files by name, each with the function that opens it.
Opening = Mapping[str, tuple[TextFile, OpenRaw]]


@dataclass(frozen=True)
class Found:
    """Files to read in order, files left out, and notes for the user."""

    files: tuple[TextFile, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def find_files(path: Path, reading: Reading, *, suffixes: tuple[str, ...] = ()) -> Found:
    """Find a file, the members of a zip archive, or the texts of a folder and its subfolders.

    Args:
        path: file or folder.
        reading: how to read files.
        suffixes: suffixes of the files to read from folders and archives; without any, `choose`
            chooses by its own rules.

    Raises:
        InputError: the path does not exist, is a pipe, holds no text or something other than text,
            or a link of the folder leads nowhere.
    """
    if not os.path.lexists(path):
        raise InputError(f"{printable(path)}: no such file or folder")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{printable(path)}: a broken link to {printable(os.readlink(path))}")
    if path.is_dir():
        return _in_folder(path, reading, suffixes)
    if not path.is_file():
        raise InputError(
            f"{printable(path)}: not a file, and files are read twice; pipe it in as -"
        )
    return _in_file(_at(path), reading, suffixes)


def text_file(path: Path, reading: Reading | None = None, *, name: str | None = None) -> TextFile:
    """Return a file to read, not an archive; raise `InputError` if it is not text."""
    file = TextFile(path, name or str(path), "text")
    return _one_file(file, reading or Reading(), opens(path))


def in_file(path: Path, reading: Reading, *, name: str, suffixes: tuple[str, ...]) -> Found:
    """Find the texts in one file called `name`; raise what `find_files` raises."""
    return _in_file(TextFile(path, name, "text"), reading, suffixes)


def _at(path: Path) -> TextFile:
    return TextFile(path, str(path), "text")


def _in_file(file: TextFile, reading: Reading, suffixes: tuple[str, ...]) -> Found:
    if reading.format == "raw":
        return Found((replace(file, format="raw"),))
    head = read_head(file.name, opens(file.path))
    if head.nature is not None and head.nature.packing == "zip" and not head.packings:
        return _in_zip(file, reading, suffixes)
    return Found((inspected(file, reading, head),))


def _one_file(file: TextFile, reading: Reading, open_raw: OpenRaw) -> TextFile:
    """Return a file or a member of an archive; refuse an archive."""
    if reading.format == "raw":
        return replace(file, format="raw")
    return inspected(file, reading, read_head(file.name, open_raw))


def _in_zip(archive: TextFile, reading: Reading, suffixes: tuple[str, ...]) -> Found:
    """Find the texts of a zip archive: its only file, whatever its name, or as in a folder."""
    name = printable(archive.name)
    sizes = zip_sizes(archive.path)
    if not sizes:
        raise InputError(f"{name}: an empty zip archive")
    if kind := _document_kind(sizes):
        raise InputError(f"{name}: this is {kind}")
    with open_archive(archive.path) as open_named:
        opening = {
            member: (
                replace(
                    archive,
                    name=f"{archive.name}: {member}",
                    member=member,
                    member_bytes=n_bytes,
                ),
                partial(open_named, member),
            )
            for member, n_bytes in sizes.items()
        }
        if len(sizes) == 1:
            ((file, open_raw),) = opening.values()
            return Found((_one_file(file, reading, open_raw),))
        choice = _chosen(opening, reading, suffixes)
        if not choice.names:
            raise InputError(
                f"{name}: none of {counted(len(sizes), 'file')} ({shown(list(sizes))}) is a text "
                "by its suffix: unpack it, and name those that are, or say --suffixes"
            )
        files = tuple(
            _one_file(file, reading, open_raw)
            for file, open_raw in map(opening.__getitem__, choice.names)
        )
    left_out = tuple(
        replace(one, names=tuple(f"{archive.name}: {left}" for left in one.names))
        for one in choice.left_out
    )
    note = f"read from {name}: {len(files)} of {len(sizes)} files ({shown(choice.names)})"
    return Found(files, left_out, (note,))


def _document_kind(names: Iterable[str]) -> str | None:
    """Return the kind of document that an archive is, by its members' names; None for others."""
    names = list(names)
    for mark, kind in _DOCUMENTS.items():
        if mark in names:
            return kind
    for end, kind in _ENDS.items():
        if any(name.endswith(end) for name in names[:100]):
            return kind
    return None


def _in_folder(folder: Path, reading: Reading, suffixes: tuple[str, ...]) -> Found:
    """Find the texts of a folder, sorted by name, or in a saved data set's order.

    Links are followed.
    """
    tables = None if suffixes else tables_of(folder)
    if tables is not None:
        of_tables = [_in_file(_at(folder / name), reading, ()) for name in tables]
        return Found(tuple(file for one in of_tables for file in one.files))
    walked = walk(folder)
    broken = _refuse_broken(folder, walked, suffixes)
    opening = {}
    for name in walked.files:
        path = folder / name
        opening[name] = _at(path), opens(path)
    choice = _chosen(opening, reading, suffixes)
    if not choice.names:
        raise _no_text(folder, walked, suffixes)
    of_files = [_in_file(opening[name][0], reading, suffixes) for name in choice.names]
    left_out = (
        *choice.left_out,
        LeftOut(tuple(walked.hidden), "hidden"),
        LeftOut(tuple(walked.special), "a pipe, socket or device"),
        LeftOut(tuple(walked.again), "read already under another name", what="links"),
        LeftOut(broken, "broken links", what="links"),
    )
    notes = [note for one in of_files for note in one.notes]
    if walked.outside:
        links = [f"{name} -> {place}" for name, place in sorted(walked.outside.items())]
        notes.append(f"links followed out of {printable(folder)}: {len(links)} ({shown(links)})")
    return Found(
        tuple(file for one in of_files for file in one.files),
        tuple(one for one in left_out if one.names)
        + tuple(left for one in of_files for left in one.left_out),
        tuple(notes),
    )


def _chosen(opening: Opening, reading: Reading, suffixes: tuple[str, ...]) -> Choice:
    """Choose files by name, but no JSON documents, even though their names look like data."""
    documents = []
    if reading.format == "auto":
        documents = [
            name
            for name, (file, open_raw) in opening.items()
            if suffix_of(name) == ".json" and is_json_document(file, reading, open_raw)
        ]
    choice = choose(set(opening) - set(documents), suffixes)
    if not documents:
        return choice
    left_out = LeftOut(tuple(sorted(documents)), "a JSON document, not JSON lines")
    return replace(choice, left_out=(*choice.left_out, left_out))


def _refuse_broken(folder: Path, walked: Walked, suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse links to nothing whose suffix is a text's; return the other links to nothing."""
    text_suffixes = ("", *(suffixes or DATA_SUFFIXES + SOURCE_SUFFIXES))
    lost = sorted(name for name in walked.broken if suffix_of(name) in text_suffixes)
    if lost:
        links = [f"{name} -> {walked.broken[name]}" for name in lost]
        raise InputError(
            f"{printable(folder)}: {counted(len(links), 'broken link')} ({shown(links)}): "
            "put back what they lead to, or remove them"
        )
    return tuple(sorted(walked.broken))


def _no_text(folder: Path, walked: Walked, suffixes: tuple[str, ...]) -> InputError:
    """Return an error: why a folder has nothing to read, and what its first file is."""
    names = sorted(walked.files)
    listed = f" ({shown(names)})" if names else ""
    read = " ".join(suffixes or DATA_SUFFIXES + SOURCE_SUFFIXES)
    message = (
        f"{printable(folder)}: none of {counted(len(names), 'file')}{listed} is a text; in folders "
        f"these are read: {read}, packed or not; name files to have them read, or say --suffixes"
    )
    for name in names[:1]:
        try:
            _in_file(_at(folder / name), Reading(), suffixes)
        except InputError as error:
            message += f"; {error}"
    return InputError(message)
