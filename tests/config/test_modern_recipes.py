"""What the modern recipes change, their page says, with the measured row that bought it."""

from pathlib import Path

import pytest

from trainer.config.recipe import load_recipe
from trainer.report.settings import differences, flat

PAGE = Path(__file__).parents[2] / "trainer" / "recipes" / "README.md"
PARENTS = {"quickstart-modern": "quickstart", "wt103-modern": "wt103-base"}


def cells(line: str) -> list[str]:
    """Return the cells of a row of a table, without marks."""
    return [cell.strip().strip("`*") for cell in line.strip().strip("|").split("|")]


def rows(size_of: int) -> list[list[str]]:
    """Return the rows of the page's tables with so many cells."""
    found = [cells(line) for line in PAGE.read_text().splitlines() if line.startswith("|")]
    return [row for row in found if len(row) == size_of]


@pytest.mark.parametrize("name", PARENTS)
def test_the_page_tells_every_change_with_its_values(name: str) -> None:
    before, after = (
        flat(load_recipe(recipe).model_dump(mode="json")) for recipe in (PARENTS[name], name)
    )
    changed = {row.path: [row.before, row.after] for row in differences(before, after)}
    changed.pop("source", None)
    told = {path: [was, now] for recipe, path, was, now, _ in rows(5) if recipe == name}
    assert told == {path: [text.strip('"') for text in two] for path, two in changed.items()}


def test_each_change_was_bought_by_a_row_that_is_there() -> None:
    measured = {row[1] for row in rows(12)}
    bought = {name for recipe, *_, by in rows(5) if recipe in PARENTS for name in by.split(", ")}
    assert bought <= measured
