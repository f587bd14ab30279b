"""Where Triton's kernels are tried: interpreted, or on a GPU if there is one."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def interpret(patch: pytest.MonkeyPatch) -> None:
    """Run kernels without a GPU; Triton asks where one is defined, and at the first launch."""
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")
