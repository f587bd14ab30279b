"""The page's table of published settings is what the recipes have."""

import re
from pathlib import Path

import pytest

import trainer
from trainer.config.recipe import load_recipe
from trainer.report.published import PUBLISHED

PAGE = Path(trainer.__file__).parent / "exchange" / "README.md"


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_row_has_the_evaluation_of_its_recipe_and_the_published_result(recipe: str) -> None:
    (row,) = re.findall(rf"^ *\| `{recipe}` \|(.*)\|$", PAGE.read_text(), re.M)
    *lengths, result = (cell.strip() for cell in row.split("|"))
    scoring, published = load_recipe(recipe).eval, PUBLISHED[recipe]
    wanted = (scoring.tgt_len, scoring.mem_len, scoring.clamp_len or "–")
    assert lengths == [
        *(f"{n:,}" if isinstance(n, int) else n for n in wanted),
        "yes" if scoring.same_length else "no",
    ]
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", result)]
    assert numbers == [n for n in (published.mean, published.deviation) if n is not None]
    assert result.endswith(f" {published.metric}, {published.by}")
