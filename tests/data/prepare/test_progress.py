"""What is shown of a pass over files ends at 100 %, but where the pass failed."""

import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from child import Child

from trainer.data.prepare.progress import progress


def pieces(n_bytes: int = 100) -> Iterator[int]:
    """Yield ten pieces of ten bytes, with what is read of them shown."""
    with progress("measuring", n_bytes=n_bytes) as on_read:
        for number in range(10):
            on_read(10)
            yield number


def shares(said: str) -> list[int]:
    return [int(share) for share in re.findall(r"measuring: (\d+)%", said)]


def test_a_pass_that_has_read_all_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    list(pieces())
    assert shares(capsys.readouterr().err) == list(range(10, 101, 10))


def test_a_pass_that_has_seen_enough_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(pieces()) as some:
        next(number for number in some if number == 2)
    assert shares(capsys.readouterr().err) == [10, 20, 30, 100]


def test_a_pass_that_failed_stays_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    def read() -> None:
        with closing(pieces()) as some:
            for number in some:
                if number == 2:
                    raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        read()
    assert shares(capsys.readouterr().err) == [10, 20, 30]


@pytest.mark.parametrize("n_bytes", [0, 50, 100])
def test_a_pass_over_more_or_less_than_was_known_ends_at_all_of_it(
    n_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    list(pieces(n_bytes))
    assert shares(capsys.readouterr().err)[-1] == 100


BAR = """
from contextlib import closing
from test_progress import pieces
with closing(pieces()) as some:
    next(number for number in some if number == 2)
"""


def test_a_bar_on_a_terminal_is_full_at_the_end() -> None:
    terminal, inner = pty.openpty()
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    with Child(
        [sys.executable, "-c", BAR],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=os.environ | {"TERM": "xterm", "PYTHONPATH": paths},
    ) as process:
        os.close(inner)
        said = b""
        try:
            while read := os.read(terminal, 4096):
                said += read
        except OSError:
            pass  # the terminal's way to say that nobody is there any more
    os.close(terminal)
    assert process.returncode == 0
    assert said.decode().rpartition("measuring")[2].count("100/100 bytes") == 1
