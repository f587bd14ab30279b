"""The precisions in which a model can be trained and evaluated."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16", "bf16_autocast"]
