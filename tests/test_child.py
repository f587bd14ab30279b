"""A process of a test does not outlive what has failed around it."""

import subprocess
import sys

import pytest
from child import Child


def test_what_fails_does_not_wait_for_what_it_has_started() -> None:
    waits = [sys.executable, "-c", "input()"]
    with pytest.raises(ZeroDivisionError), Child(waits, stdin=subprocess.PIPE) as process:
        raise ZeroDivisionError
    assert process.returncode == -9
