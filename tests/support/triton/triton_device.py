"""Where Triton's kernels are tried: interpreted, or on a GPU if there is one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def interpret(patch: pytest.MonkeyPatch) -> None:
    """Run kernels without a GPU; Triton asks where one is defined, and at the first launch."""
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")


@contextmanager
def importing_kernels() -> Iterator[None]:
    """Let a block import kernels, to be interpreted where no GPU is; skip without Triton."""
    with pytest.MonkeyPatch.context() as patch:
        interpret(patch)
        pytest.importorskip("triton", reason="Triton is not installed")
        yield
