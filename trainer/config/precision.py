"""The precisions in which a model can be trained and evaluated."""

from typing import Literal

Arithmetic = Literal["fp32", "bf16", "fp16"]
Precision = Literal[Arithmetic, "bf16_autocast", "fp16_autocast"]
"""The arithmetic; ``_autocast`` says that weights are fp32, and are cast where they are used."""


def is_autocast(precision: Precision) -> bool:
    """Return whether fp32 weights are cast to the 16 bits in which a model computes."""
    return precision.endswith("_autocast")


def arithmetic_of(precision: Precision) -> Arithmetic:
    """Return the arithmetic in which a model computes."""
    found: dict[str, Arithmetic] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    return found[precision.removesuffix("_autocast")]
