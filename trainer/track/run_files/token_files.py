"""The nats of single tokens, beside the result of the evaluation that they are of.

A file is one array of NumPy, which can be mapped into memory: a row per scored token in the order
of the text. It is called as the result's file, with the ending ``.npy``.
"""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import InputError
from trainer.files import replace, sync_file
from trainer.outside import open_file
from trainer.track.run_files.results import EvalResult, result_path

#: The fields of a row; -1 is unknown.
FIELDS = np.dtype(
    [
        ("position", "<i8"),  # in the split
        ("token", "<u4"),  # its id
        ("nats", "<f4"),
        ("train_count", "<i8"),  # how often the token stands in the train split
        ("since_empty", "<i8"),  # tokens read since memory was empty
        ("starts_document", "?"),
    ]
)
Tokens = npt.NDArray[Any]

#: A result and its file differ by no more than this, relative to the loss.
_CLOSE = 1e-4
#: No text has more tokens.
_MOST = 10**15


def tokens_path(run_dir: Path, result: EvalResult) -> Path:
    """Return where the tokens of a result lie, if they were filed."""
    return result_path(run_dir, result).with_suffix(".npy")


def file_tokens(run_dir: Path, result: EvalResult, tokens: Tokens) -> Path:
    """Write the tokens of a result that is filed, whole or not at all; return the file.

    Raises:
        OSError: the file cannot be written.
    """
    path = tokens_path(run_dir, result)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.save(file, tokens.astype(FIELDS, copy=False), allow_pickle=False)
        sync_file(draft)
        replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def read_tokens(run_dir: Path, result: EvalResult) -> Tokens | None:
    """Return the tokens of a result, mapped into memory; None if they were not filed.

    Raises:
        InputError: the file is broken, or of another evaluation than the result.
    """
    path = tokens_path(run_dir, result)
    if not path.exists():
        return None
    fix = "run `txl eval` with --per-token again"
    try:
        open_file(path).close()  # refuses anything but a regular file
        tokens = _mapped(path)
    except InputError:
        raise
    except Exception as error:  # NumPy evaluates the header, which may fail in any way
        raise InputError(f"{path}: no file of tokens: {error}; {fix}") from None
    if tokens.dtype != FIELDS or tokens.ndim != 1 or not len(tokens):
        raise InputError(f"{path}: no file of tokens: {fix}")
    if not _are_possible(tokens):
        raise InputError(f"{path}: holds numbers that no evaluation gives: {fix}")
    loss = float(np.sum(tokens["nats"], dtype=np.float64)) / len(tokens)
    is_same = result.loss is not None and math.isclose(loss, result.loss, rel_tol=_CLOSE)
    if len(tokens) != result.n_tokens or not is_same:
        raise InputError(f"{path}: of another evaluation than the result beside it: {fix}")
    return tokens


def _are_possible(tokens: Tokens) -> bool:
    """Return whether all numbers are finite, and counts are counts."""
    if not np.isfinite(tokens["nats"]).all():
        return False
    least = {"position": 1, "train_count": -1, "since_empty": 1}  # the first token is not scored
    return all(
        least[name] <= int(tokens[name].min()) and int(tokens[name].max()) <= _MOST
        for name in least
    )


def exact_loss(tokens: Tokens) -> float:
    """Return the mean nats per token, correctly rounded."""
    return math.fsum(tokens["nats"].tolist()) / len(tokens)


def _mapped(path: Path) -> Tokens:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:  # some file systems map no files
        whole: Tokens = np.load(path, allow_pickle=False)
        return whole
