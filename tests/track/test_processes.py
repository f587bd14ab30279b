"""A process is known by machine, number and beginning; what is not known is not guessed."""

import dataclasses
import errno
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import Child

from trainer.track.processes import Holder, begun, is_running, read_holder, this_place

HERE = this_place()
NEVER = 4_194_304  # the kernel gives no number that large


def test_a_process_runs_until_it_ends(child: subprocess.Popen[str]) -> None:
    since = begun(child.pid)
    assert since is not None
    assert is_running(child.pid, since=since)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has taken note
    assert is_running(child.pid, since=since) is False
    assert begun(child.pid) is None
    child.wait()
    assert is_running(child.pid, since=since) is False


def test_a_number_given_anew_is_another_process() -> None:
    since = begun(os.getpid())
    assert since is not None
    assert is_running(os.getpid(), since=since)
    assert is_running(os.getpid(), since=since - 1) is False
    assert is_running(os.getpid(), since=None) is None
    assert is_running(NEVER, since=since) is False


def test_a_name_with_blanks_and_brackets_hides_nothing(tmp_path: Path) -> None:
    program = tmp_path / ") R 1 (x"
    program.symlink_to("/bin/sleep")
    with Child([program, "60"]) as child:
        try:
            assert is_running(child.pid, since=begun(child.pid))
            assert begun(child.pid) is not None
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("there", "kernel", "numbers"),
    [
        (HERE, True, True),
        (dataclasses.replace(HERE, host="renamed"), True, True),
        (dataclasses.replace(HERE, pid_namespace="pid:[7]"), True, False),
        (dataclasses.replace(HERE, boot="another"), False, False),
    ],
)
def test_numbers_mean_the_same_on_one_machine_alone(there, kernel: bool, numbers: bool) -> None:
    assert HERE.shares_kernel(there) is kernel
    assert HERE.shares_numbers(there) is numbers


def test_where_a_system_tells_no_boot_the_name_of_the_host_tells() -> None:
    here = dataclasses.replace(HERE, boot="", pid_namespace="")
    assert here.shares_numbers(dataclasses.replace(here))
    assert not here.shares_kernel(dataclasses.replace(here, host="another"))


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Yield a file that this process holds, and its descriptor."""
    file = tmp_path / "held"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    yield file, descriptor
    os.close(descriptor)


def seen(file: Path, holder: Holder, here=HERE) -> bool | None:
    """Return whether the holder lives, as another process of this machine finds out."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        return holder.lives(descriptor, here)
    finally:
        os.close(descriptor)


def test_from_another_container_a_lock_tells(held: tuple[Path, int]) -> None:
    file, descriptor = held
    holder = Holder.this_process(descriptor, HERE)
    other = dataclasses.replace(HERE, pid_namespace="pid:[7]", host="pod")
    assert holder.is_locked
    assert seen(file, holder) is True
    assert seen(file, holder, other) is True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    assert seen(file, holder, other) is False
    assert seen(file, holder.model_copy(update={"device": -1}), other) is None
    assert seen(file, holder) is True  # where the process is seen, it alone tells


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_only_the_same_container_tells(
    held: tuple[Path, int], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    file, descriptor = held
    holder = Holder.this_process(descriptor, HERE)
    assert not holder.is_locked
    assert seen(file, holder) is True
    assert seen(file, holder, dataclasses.replace(HERE, pid_namespace="pid:[7]")) is None


def test_of_another_machine_nothing_is_known_by_numbers_or_locks(held: tuple[Path, int]) -> None:
    file, descriptor = held
    holder = Holder.this_process(descriptor, HERE)
    elsewhere = dataclasses.replace(HERE, boot="another")  # be it of the same name
    assert seen(file, holder, elsewhere) is None


def test_a_holder_is_read_as_it_was_written(held: tuple[Path, int]) -> None:
    file, descriptor = held
    holder = Holder.this_process(descriptor, HERE)
    file.write_text(holder.model_dump_json())
    assert read_holder(file) == holder
    assert f"process {os.getpid()} on {HERE.host} since 20" in str(holder)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0" * 200,
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b"{}",
        b'{"pid": 1e400}',
        b"1" * 5_000,
        *(
            json.dumps(
                {
                    "version": 1,
                    "host": "h",
                    "begun": 1,
                    "boot": "b",
                    "pid_namespace": "p",
                    "device": 1,
                    "is_locked": True,
                    "pid": 7,
                    "since": 1.0,
                }
                | wrong
            ).encode()
            for wrong in (
                {"pid": 0},
                {"pid": 1 << 40},
                {"pid": "x"},
                {"since": 1e300},
                {"since": -1},
                {"version": 2},
                {"host": None},
            )
        ),
    ],
)
def test_what_names_nobody_is_nobody(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "claim"
    assert read_holder(file) is None
    file.write_bytes(text)
    assert read_holder(file) is None


def test_a_host_is_shown_on_one_line(held: tuple[Path, int]) -> None:
    holder = Holder.this_process(held[1], dataclasses.replace(HERE, host="a\nerror: b\x1b[2J"))
    assert str(holder).isprintable()
