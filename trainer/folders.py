"""New folders that are there whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import InputError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write in, which becomes `out` at the end and is removed on an error.

    Raises:
        InputError: `out` is there already, and not empty, or cannot be made.
    """
    out = out.resolve()
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--out {out} exists: give another")
        out.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        yield draft
        if out.is_dir():
            out.rmdir()
        draft.rename(out)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
