"""A table shows any text as it stands, in cells of its own, and no text can leave its cell."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.outside import printable
from trainer.track.tables import markdown_table, markdown_text, shown, text_table

CELLS = st.text(st.characters(exclude_categories=()), max_size=30)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_a_row_is_a_line_whatever_its_cells_hold(rows: list[tuple[str, str]]) -> None:
    assert len(text_table(rows).split("\n")) == len(rows)
    lines = markdown_table(rows).split("\n")
    assert len(lines) == len(rows) + 1
    for line in (*text_table(rows).split("\n"), *lines):
        assert printable(line, most=10_000) == line
    for line in lines:
        bars = line.replace(r"\\", "").replace(r"\|", "").count("|")
        assert bars == 3


def test_columns_are_aligned_two_spaces_apart() -> None:
    assert text_table([["run", "n"], ["a", "10"], ["long", "9"]]) == "run   n\na     10\nlong  9"


def test_what_markdown_would_read_is_escaped() -> None:
    assert markdown_text("a|b `c` <i> *d* [e](f)") == r"a\|b \`c\` \<i> \*d\* \[e](f)"


def test_a_long_cell_is_cut_in_a_terminal_and_not_in_a_document() -> None:
    cell = "x" * 1_000
    assert len(text_table([[cell]])) < 300
    assert cell in markdown_table([["head"], [cell]])


def test_no_number_is_a_dash() -> None:
    assert [shown(value, ".2f") for value in (None, 1.0, 0.0)] == ["-", "1.00", "0.00"]
