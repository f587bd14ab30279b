"""What may lie where a pointer should."""

import os
from pathlib import Path


def nothing(path: Path) -> None:
    pass


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def empty(path: Path) -> None:
    path.touch()


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def link_to_a_pointer(path: Path) -> None:
    path.with_name("other").write_text("step-00000010\n")
    path.symlink_to("other")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


FAULTS = [nothing, not_text, empty, Path.mkdir, link_to_itself, link_to_a_pointer, pipe, endless]
