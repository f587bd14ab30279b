"""How an error helps a reader who mistyped a name."""

import pytest

from trainer.config.deepspeed.file import packaged_names
from trainer.errors import did_you_mean

FIELDS = ["optim.lr", "optim.min_lr", "train.max_steps", "tracking.tags", "train.tgt_len"]


@pytest.mark.parametrize("typed", ["zero2", "ZeRO2", "zero2_f", "zero3_bf16_"])
def test_names_that_begin_with_what_was_typed_come_first(typed: str) -> None:
    known = packaged_names()
    told = did_you_mean(typed, known)
    begin = [name for name in known if name.startswith(typed.lower())]
    assert begin
    assert [name for name in known if repr(name) in told] == begin


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("lr", "'optim.lr'"), ("tags", "'tracking.tags'"), ("train.max", "'train.max_steps'")],
)
def test_a_part_of_a_name_is_known_for_the_whole(typed: str, meant: str) -> None:
    assert did_you_mean(typed, FIELDS) == f" (did you mean {meant}?)"


def test_a_misspelt_name_is_answered_with_the_nearest_alone() -> None:
    assert did_you_mean("optim.rl", FIELDS) == " (did you mean 'optim.lr'?)"
    assert did_you_mean("nothing like it", FIELDS) == ""
    assert did_you_mean("", FIELDS) == ""


def test_many_names_are_cut() -> None:
    told = did_you_mean("x", [f"x{i}" for i in range(50)])
    assert told.count("'x") == 4
    assert told.endswith("or others?)")
