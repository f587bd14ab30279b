"""A pointer names a checkpoint beside it, or is none."""

import os
from pathlib import Path

import pytest
from pointer_faults import FAULTS

from trainer.checkpoint import pointers


def test_a_step_and_its_name_say_the_same() -> None:
    for step in (0, 40, 99_999_999, 100_000_000, 4_000_000_000):
        assert pointers.step_of(pointers.name_of(step)) == step


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "step-",
            "step-40",
            "step-000000040",
            "step-0000004x",
            "step-٠٠٠٠٠٠٤٠",
            "step--0000040",
        ),
        *("step-00000040/", "../step-00000040", "/tmp/step-00000040", "step-00000040\n../x"),
        *("Step-00000040", "step-" + "9" * 5000),
    ],
)
def test_no_other_name_is_a_checkpoint_s(tmp_path: Path, name: str) -> None:
    assert pointers.step_of(name) is None
    (tmp_path / "best").write_text(name + "\n")
    assert pointers.pointed(tmp_path, "best") is None


def test_a_pointer_is_moved_whole(tmp_path: Path) -> None:
    for name in ("step-00000010", "step-00000020"):
        pointers.point(tmp_path, "best", name)
        assert pointers.pointed(tmp_path, "best") == name
        assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_pointer_names_nothing(tmp_path: Path, fault) -> None:
    fault(tmp_path / "best")
    assert pointers.pointed(tmp_path, "best") is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_pointer_that_may_not_be_read_names_nothing(tmp_path: Path) -> None:
    pointers.point(tmp_path, "best", "step-00000010")
    (tmp_path / "best").chmod(0)
    assert pointers.pointed(tmp_path, "best") is None
