"""Options of a command are read from its class: names, values, defaults and meanings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.commands.reference.options import command_table, flag_table


@dataclass(frozen=True, kw_only=True)
class Inner:
    n_tokens: int
    """tokens to
    make"""


@dataclass(frozen=True, kw_only=True)
class Base:
    where: Path
    """where it lies"""


@dataclass(frozen=True)
class Command(Base):
    """Do it.

    Twice, if asked.
    """

    file: tyro.conf.Positional[Path]
    """what to read"""
    as_: Annotated[Literal["a", "b"], tyro.conf.arg(name="as")] = "a"
    """in which form"""
    loud: bool = False
    """say more"""
    seed: int = 0
    """of the draws"""
    exact: bool | None = None
    undocumented: tuple[str, ...] = ()
    inner: Inner = field(default_factory=lambda: Inner(n_tokens=7))


def test_a_row_says_how_an_option_is_typed_and_what_holds_without_it() -> None:
    table = command_table("do", Command)
    assert (table.title, table.text) == ("txl do", "Do it. Twice, if asked.")
    assert list(table.rows) == [
        ("`file`", "`PATH`", "required", "what to read"),
        ("`--where`", "`PATH`", "required", "where it lies"),
        ("`--as`", "`a|b`", "`a`", "in which form"),
        ("`--loud`", "", "", "say more"),
        ("`--seed`", "`INT`", "`0`", "of the draws"),
        ("`--exact`", "`True|False`", "", ""),
        ("`--undocumented`", "`TEXT …`", "", ""),
        ("`--n-tokens`", "`INT`", "`7`", "tokens to make"),
    ]


def test_flags_of_argparse_are_rows_too() -> None:
    table = flag_table("x", {"--one": {"choices": ("a", "b"), "default": "b", "help": "which"}})
    assert list(table.rows) == [("`--one`", "`a|b`", "`b`", "which")]


def test_a_table_is_text_that_markdown_takes_as_it_stands() -> None:
    table = flag_table("x", {"--one": {"choices": ("a", "b"), "help": "<unk> | none"}}, text="<x>")
    assert table.lines(level=3) == [
        "### x",
        "",
        r"\<x>",
        "",
        "| option | value | default | meaning |",
        "| --- | --- | --- | --- |",
        r"| `--one` | `a\|b` |  | \<unk> \| none |",
        "",
    ]
