"""File systems that can do less than a local disk, emulated where Python asks for it.

`put_on` lets this process see them, `environment_of` those that are started with it.
"""

import errno
import importlib
import mmap
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def refusing(code: int) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


def no_folder_sync(code: int) -> Callable[[Any], None]:
    real = os.fsync

    def fsync(file: Any) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refusing(code)()
        real(descriptor)

    return fsync


def no_replacing(code: int) -> Callable[..., None]:
    """Return a function that renames, but onto no file that is there."""
    real = os.rename

    def rename(source: Any, target: Any, **how: Any) -> None:
        if os.path.isfile(target):
            refusing(code)()
        real(source, target, **how)

    return rename


class PrivateMmap(mmap.mmap):
    """A map of a file for one process alone, as FUSE has it with direct_io."""

    def __new__(cls, fileno: int, length: int, *args: Any, **how: Any) -> "PrivateMmap":
        if fileno != -1 and how.get("access") != mmap.ACCESS_COPY:
            refusing(errno.ENODEV)()
        return super().__new__(cls, fileno, length, *args, **how)


#: What is replaced, and by what. Lustre without -o flock; NFS without a lock daemon; CIFS; FUSE.
ODDITIES: dict[str, dict[str, Any]] = {
    "no locks": {"fcntl.flock": refusing(errno.ENOSYS)},
    "no lock daemon": {"fcntl.flock": refusing(errno.ENOLCK)},
    "folders are not synced": {"os.fsync": no_folder_sync(errno.EINVAL)},
    "folders are not opened": {"os.fsync": no_folder_sync(errno.EBADF)},
    "nothing is synced": {"os.fsync": refusing(errno.ENOTSUP)},
    "permissions are fixed": {"os.chmod": refusing(errno.EPERM)},
    "no hard links": {"os.link": refusing(errno.EPERM)},
    "no renaming onto files": {
        name: no_replacing(errno.EEXIST) for name in ("os.rename", "os.replace")
    },
    "files are mapped for one process": {"mmap.mmap": PrivateMmap},
}


def put_on(oddities: Iterable[str], put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let this process see the `oddities`; `put` replaces an attribute, as `setattr` does."""
    for oddity in oddities:
        for name, replacement in ODDITIES[oddity].items():
            module, _, attribute = name.partition(".")
            put(importlib.import_module(module), attribute, replacement)


def environment_of(*oddities: str, **changes: str) -> dict[str, str]:
    """Return the environment of a process on such a machine, made of the tests' own."""
    import training

    folder = Path(__file__).with_name("odd_machine_site")
    found = training.environment(ODD_MACHINE="|".join(oddities), **changes)
    return found | {"PYTHONPATH": os.pathsep.join([str(folder), found["PYTHONPATH"]])}
