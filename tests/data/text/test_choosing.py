"""Which files of a folder are its text: by their names alone, and nothing is left out unsaid."""

import pytest

from trainer.data.text.choosing import Choice, choose


def chosen(*names: str, suffixes: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """Return what is read, and the lines about what is left out."""
    choice = choose(names, suffixes)
    assert set(choice.names) | {n for one in choice.left_out for n in one.names} == set(names)
    return list(choice.names), [one.line() for one in choice.left_out]


def test_data_is_read_and_what_is_said_about_it_is_left_out() -> None:
    names, told = chosen(
        "b.txt",
        "a/z.txt.gz",
        "README.md",
        "README.txt",
        "LICENSE.txt.xz",
        "clean.py",
        "build.sh",
        "e.png",
        "train.jsonl.zst",
        "f",
    )
    assert names == ["a/z.txt.gz", "b.txt", "train.jsonl.zst"]
    assert told == [
        "left out: 3 files (build.sh, e.png, f): no text by their suffix",
        "left out: 4 files (LICENSE.txt.xz, README.md, README.txt, …): "
        "documentation or source beside data (--suffixes reads them)",
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("a.py", "b/c.py"),
        ("README.md", "a.md"),
        ("README.txt",),
        ("README.md", "README.txt"),
        ("a.rst", "a.tokens.md", "requirements.txt", "x.py"),
    ],
)
def test_where_there_is_no_data_documentation_and_source_are_the_text(
    names: tuple[str, ...],
) -> None:
    assert chosen(*names) == (sorted(names), [])


def test_suffixes_that_are_asked_for_are_read_and_no_others() -> None:
    names = ("a.py", "b.txt", "README.md", "c.PY.gz", ".d.py")
    assert chosen(*names, suffixes=(".PY", ".md")) == (
        ["README.md", "a.py", "c.PY.gz"],
        [
            "left out: 1 file (b.txt): not of the suffixes asked for",
            "left out: 1 file (.d.py): hidden",
        ],
    )


def test_hidden_files_and_what_archivers_add_are_left_out() -> None:
    names, told = chosen("a.txt", ".b.txt", ".git/c.txt", "__MACOSX/._a.txt", "d/.e/f.txt")
    assert names == ["a.txt"]
    assert told == ["left out: 4 files (.b.txt, .git/c.txt, __MACOSX/._a.txt, …): hidden"]


def test_a_name_that_would_draw_on_the_terminal_is_escaped() -> None:
    _, told = chosen("a.txt", "b\x1b[2J\n.png")
    assert told == ["left out: 1 file (b\\x1b[2J\\n.png): no text by their suffix"]


def test_nothing_is_chosen_of_nothing() -> None:
    assert choose([]) == Choice((), ())
