"""Rows overwritten by a kernel are those that are told, to the last bit."""

import pytest
import torch
from triton_device import DEVICE, importing_kernels

with importing_kernels():
    from trainer.model.triton.rows import forgetting


@pytest.fixture(autouse=True)
def _small_blocks(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "_BLOCK", 16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int64])
@pytest.mark.parametrize("shape", [(5,), (4, 16), (3, 5, 7), (0, 3), (2, 0, 4)])
def test_rows_that_are_not_kept_become_the_given_one(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    before = torch.randint(-9, 9, shape, device=DEVICE).to(dtype)
    new = torch.randint(-9, 9, (1, *shape[1:]), device=DEVICE).to(dtype)
    keep_B = torch.arange(shape[0], device=DEVICE) % 2 == 0
    if dtype.is_floating_point and before.numel():
        before[-1:].fill_(torch.nan)
    rows = before.clone()
    forgetting.overwrite_rows(rows, keep_B, new)
    wanted = torch.where(keep_B.view(-1, *[1] * (len(shape) - 1)), before, new)
    torch.testing.assert_close(rows, wanted, rtol=0, atol=0, equal_nan=True)
