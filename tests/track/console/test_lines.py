"""What a run says is in the same words and order everywhere, and fits its terminal."""

import math
from typing import Any

import pytest
from rich.cells import cell_len

from trainer.track.console.lines import GIVE_WAY, SampleText, step_line

METRICS: dict[str, Any] = {
    "memory/peak_gib": 18.2,
    "throughput/tokens_per_s": 412_345.0,
    "throughput/mfu": 0.2468,
    "optim/grad_norm": 0.2401,
    "optim/lr": 2.5e-4,
    "train/ppl": 74.604,
    "train/loss": 4.31214,
    "something/else": 1.0,
}


def test_the_line_is_the_one_promised() -> None:
    line = step_line(METRICS, step=1200, max_steps=200_000, eta_s=3 * 3600 + 12 * 60)
    assert str(line) == (
        "step 1,200/200,000 | loss 4.3121 | ppl 74.60 | lr 2.50e-04 | grad_norm 0.24 | "
        "412k tok/s | mfu 24.7% | mem 18.2 GiB | eta 3h12m"
    )


def test_what_is_not_known_is_left_out_and_an_evaluation_says_that_it_is_one() -> None:
    values = {"valid/loss": 3.2, "valid/ppl": 24.53, "valid/bpc": None, "train/loss": 9.0}
    line = step_line(values, step=10, max_steps=20, part="valid")
    assert str(line) == "step 10/20 | valid | loss 3.2000 | ppl 24.53"


@pytest.mark.parametrize(("best", "said"), [(3.2, "new best"), (3.1, "best 3.1000")])
def test_a_validation_says_how_it_stands_to_the_best(best: float, said: str) -> None:
    values = {"valid/loss": 3.2, "valid/best_loss": best}
    assert str(step_line(values, step=1, max_steps=2, part="valid")).endswith(f" | {said}")


def test_a_diverged_loss_still_makes_a_short_line() -> None:
    values = {"train/loss": math.nan, "train/ppl": 5e21, "optim/grad_norm": math.inf}
    values["throughput/tokens_per_s"] = math.inf
    line = step_line(values, step=1, max_steps=2, eta_s=math.inf)
    assert str(line) == "step 1/2 | loss nan | ppl 5.00e+21 | grad_norm inf | inf tok/s | eta ?"


def test_a_narrow_line_is_the_wide_one_without_some_cells() -> None:
    line = step_line(METRICS, step=1200, max_steps=200_000, eta_s=99.0)
    wide = str(line).split(" | ")
    for width in range(48, len(str(line)) + 1):
        (narrow,) = line.fitting(width)
        assert len(narrow) <= width
        kept = narrow.split(" | ")
        assert kept == [cell for cell in wide if cell in kept]
        assert {"step 1,200/200,000", "loss 4.3121", "ppl 74.60"} <= {*kept}
        gone = [name for name, cell in line.cells.items() if cell not in kept]
        assert sorted(gone, key=GIVE_WAY.index) == list(GIVE_WAY[: len(gone)])
    assert line.fitting(len(str(line))) == [str(line)]


def test_a_validation_loses_nothing_but_what_it_says_twice() -> None:
    values = {"valid/loss": 3.2, "valid/ppl": 24.53, "valid/ppl_word": 24.53, "valid/bpc": 1.5}
    how: dict[str, Any] = {"step": 10, "max_steps": 20, "part": "valid"}
    line = step_line(values, **how)
    assert line.fitting(60) == ["step 10/20 | valid | loss 3.2000 | ppl 24.53 | bpc 1.5000"]
    line = step_line(values | {"valid/ppl_word": 70.0}, **how)
    assert line.fitting(60) == [
        "step 10/20 | valid | loss 3.2000 | ppl 24.53 |",
        "ppl_word 70.00 | bpc 1.5000",
    ]


@pytest.mark.parametrize("text", ["To be or not to be " * 9, "字" * 99, "x" * 99, "a\n\n\n\nb", ""])
def test_a_sample_fits_and_keeps_all_that_can_be_seen(text: str) -> None:
    head, *lines = SampleText(1200, text).fitting(30)
    assert head == "sample at step 1,200"
    assert all(line.startswith("|") and cell_len(line) <= 30 for line in lines)
    shown = "".join(line[2:] for line in lines)
    assert "".join(shown.split()) == "".join(text.split())


def test_a_sample_moves_no_cursor_and_forges_no_line() -> None:
    said = SampleText(3, "a\x1b[2Jb\u202e\nstep 9/9 | loss 0.0000\rc\td")
    assert said.fitting(60) == [
        "sample at step 3",
        r"| a\x1b[2Jb\u202e",
        r"| step 9/9 | loss 0.0000\rc   d",
    ]


def test_of_many_empty_lines_one_is_shown_and_of_equal_ones_all() -> None:
    lines = SampleText(3, "a\n\n\n\nthe\nthe\nthe").fitting(60)
    assert lines[1:] == ["| a", "|", "| the", "| the", "| the"]
