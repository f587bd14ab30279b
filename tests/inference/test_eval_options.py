"""Options of an evaluation say what was asked for, and nothing else."""

from pathlib import Path

import pytest

from trainer.errors import InputError
from trainer.inference.eval_options import EvalOptions


@pytest.mark.parametrize(
    ("mem_len", "lengths"), [(None, None), ("0", (0,)), ("0,150,640", (0, 150, 640))]
)
def test_several_lengths_of_memory_stand_in_one_text(
    mem_len: str | None, lengths: tuple[int, ...] | None
) -> None:
    assert EvalOptions(run_dir=Path("run"), mem_len=mem_len).mem_lens == lengths


@pytest.mark.parametrize("mem_len", ["", "many", "1,", "0;150", "1.5"])
def test_a_text_that_is_no_list_of_lengths_is_refused(mem_len: str) -> None:
    with pytest.raises(InputError, match=r"is not a list of lengths such as 0,150,640"):
        _ = EvalOptions(run_dir=Path("run"), mem_len=mem_len).mem_lens
