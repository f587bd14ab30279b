"""The precisions that a model is trained and evaluated in."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16", "bf16_autocast"]
