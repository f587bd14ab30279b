"""Finding every file below a folder once, through links but without going round in circles."""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from trainer.errors import InputError
from trainer.outside import printable


@dataclass
class Walked:
    """Files below a folder; names are relative to it, with slashes.

    Attributes:
        files: the names of all files.
        broken: links to nothing, with the paths that they name.
        outside: links that lead out of the folder, with their targets.
        again: names of files read under another name, and of links to a folder above them.
        special: pipes, sockets and devices.
        hidden: hidden files and folders, which are not read.
    """

    files: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


def walk(folder: Path) -> Walked:
    """Find every file below `folder` once, under its own name rather than a link's.

    Raises:
        InputError: a folder cannot be read.
    """
    top = os.path.realpath(folder)
    walked = Walked()
    links: list[str] = []
    seen = {top}
    _walk_folder(folder, top, "", walked, links, seen)
    n_followed = 0
    while n_followed < len(links):  # following a link may find more links
        batch = sorted(links[n_followed:])
        n_followed = len(links)
        for name in batch:
            _follow(folder, name, top, walked, links, seen)
    return walked


def _walk_folder(
    folder: Path, real: str, below: str, walked: Walked, links: list[str], seen: set[str]
) -> None:
    """Note the content of the folder `below` and of its subfolders; `real` is its real path."""
    pending = [(below, real)]
    while pending:
        below, real = pending.pop()
        try:
            with os.scandir(folder / below) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            where = printable(folder / below)
            raise InputError(f"{where}: cannot be read: {error.strerror}") from None
        for entry in listed:
            name, place = f"{below}{entry.name}", os.path.join(real, entry.name)
            if entry.name.startswith("."):
                walked.hidden.append(name)
            elif entry.is_symlink():
                links.append(name)
            elif place in seen:  # a link leads to its own folder or above
                walked.again.append(name)
            elif entry.is_dir():
                seen.add(place)
                pending.append((f"{name}/", place))
            elif entry.is_file():
                seen.add(place)
                walked.files.append(name)
            else:
                walked.special.append(name)


def _follow(
    folder: Path, name: str, top: str, walked: Walked, links: list[str], seen: set[str]
) -> None:
    """Follow the link `name` below `folder`, and note what it leads to."""
    path = folder / name
    place = os.path.realpath(path)
    try:
        mode = os.stat(path).st_mode
    except OSError:  # includes links that form a circle
        walked.broken[name] = os.readlink(path)
        return
    if place in seen:
        walked.again.append(name)
        return
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        walked.special.append(name)
        return
    seen.add(place)
    if os.path.commonpath([top, place]) != top:
        walked.outside[name] = place
    if stat.S_ISREG(mode):
        walked.files.append(name)
    else:
        _walk_folder(folder, place, f"{name}/", walked, links, seen)
