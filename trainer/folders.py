"""New folders that are there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import InputError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write in, which becomes `out` at the end and is removed on an error.

    Files in it get the permissions that a file of this user has.

    Raises:
        InputError: `out` is there already, and not empty, or cannot be made.
    """
    out = out.resolve()
    draft = None
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--out {out} exists: give another")
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        yield draft
        _share(draft)
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error}") from None
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _share(folder: Path) -> None:
    """Undo the privacy of `mkdtemp` and of safetensors' files, as far as the umask says."""
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
