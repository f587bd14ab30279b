"""A precision says in which dtype weights lie, and in which a model multiplies."""

from typing import get_args

import pytest
import torch
from builders import CPU

from trainer.config.precision import Precision
from trainer.model.precision import autocast_of, compute_dtype_of, weight_dtype_of

#: The dtypes of weights and of products.
DTYPES: dict[Precision, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
    "bf16_autocast": (torch.float32, torch.bfloat16),
    "fp16_autocast": (torch.float32, torch.float16),
}


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_product_in_a_precision_has_its_dtype(precision: Precision) -> None:
    weights, products = DTYPES[precision]
    assert (weight_dtype_of(precision), compute_dtype_of(precision)) == DTYPES[precision]
    matrix = torch.ones(2, 2, dtype=weights)
    with autocast_of(precision, CPU):
        assert (matrix @ matrix).dtype == products
