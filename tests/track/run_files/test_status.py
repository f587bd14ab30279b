"""The status of a run is always whole: the last one written, or the one before it."""

import errno
import json
import math
import os
import resource
import subprocess
import sys
import threading

import pytest
from child import Child

from trainer.errors import InputError
from trainer.track.run_files import status as of_status
from trainer.track.run_files.status import (
    STATUS_FILE,
    Status,
    read_status,
    write_last_status,
    write_status,
)


def running(step: int) -> Status:
    return Status(state="running", step=step, update=step, max_steps=100, attempt=1)


def test_a_status_reads_back_as_it_was_written(tmp_path):
    status = Status(
        state="requeue",
        step=53,
        update=50,
        max_steps=100,
        eta_s=12.5,
        attempt=2,
        reason="SIGTERM",
        exit_code=75,
        result={"valid/loss": 3.5, "note": "ü", "best": None},
    )
    write_status(tmp_path, status)
    assert read_status(tmp_path) == status
    assert (status.pid, status.host) == (os.getpid(), os.uname().nodename)
    assert os.listdir(tmp_path) == [STATUS_FILE]


def test_no_status_is_none(tmp_path):
    assert read_status(tmp_path) is None
    assert read_status(tmp_path / "no such run") is None
    (tmp_path / STATUS_FILE).touch()  # a power cut's
    assert read_status(tmp_path) is None


@pytest.mark.parametrize(
    ("state", "waits"), [("running", False), ("done", True), ("requeue", True), ("failed", True)]
)
def test_only_a_heartbeat_does_not_wait_for_the_disk(tmp_path, monkeypatch, state, waits):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file)), fsync(file)))
    write_status(tmp_path, running(1).model_copy(update={"state": state}))
    expected = [os.stat(path).st_ino for path in (tmp_path / STATUS_FILE, tmp_path)]
    assert [found.st_ino for found in synced] == (expected if waits else [])


def test_the_last_status_needs_no_place_on_a_full_disk(tmp_path, monkeypatch):
    write_status(tmp_path, running(10).model_copy(update={"reason": "x" * 500}))
    inode = (tmp_path / STATUS_FILE).stat().st_ino

    def full(path, **how):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(of_status, "replacing", full)
    last = running(12).model_copy(update={"state": "requeue"})
    with pytest.raises(OSError, match="No space"):
        write_status(tmp_path, last)
    write_last_status(tmp_path, last)
    assert read_status(tmp_path) == last
    assert (tmp_path / STATUS_FILE).stat().st_ino == inode
    before = (tmp_path / STATUS_FILE).read_bytes()
    longer = last.model_copy(update={"reason": "x" * 100_000})  # it would need a new block
    with pytest.raises(OSError, match="No space"):
        write_last_status(tmp_path, longer)
    assert (tmp_path / STATUS_FILE).read_bytes() == before


def test_the_file_is_strict_json(tmp_path):
    status = Status(
        state="failed", max_steps=1, attempt=1, eta_s=math.inf, result={"train/loss": math.nan}
    )
    write_status(tmp_path, status)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    values = json.loads((tmp_path / STATUS_FILE).read_text(), parse_constant=refuse)
    assert (values["eta_s"], values["result"]) == (None, {"train/loss": None})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"state": "running", "st', "EOF"),
        (b'{"state": "flying", "max_steps": 1, "attempt": 1}', "state: input should be"),
        (b'{"version": 2, "state": "done", "max_steps": 1, "attempt": 1}', "version: "),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_an_unreadable_status_is_named_in_one_line(tmp_path, content, problem):
    (tmp_path / STATUS_FILE).write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_status(tmp_path)
    assert STATUS_FILE in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_status_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_status(tmp_path, running(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_status(tmp_path, running(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    status = read_status(tmp_path)
    assert status is not None
    assert status.step == 1
    assert os.listdir(tmp_path) == [STATUS_FILE]


def test_a_reader_beside_the_writer_never_sees_half_a_status(tmp_path):
    write_status(tmp_path, running(0))
    seen: list[int] = []
    done = threading.Event()

    def read_along() -> None:
        while not done.is_set():
            status = read_status(tmp_path)
            assert status is not None
            seen.append(status.step)

    reader = threading.Thread(target=read_along)
    reader.start()
    for step in range(1, 100):
        write_status(tmp_path, running(step))
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert seen


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from trainer.track.run_files.status import Status, write_status
for step in range(1, 50):
    status = Status(state="running", step=step, update=step, max_steps=100, attempt=1)
    if step == 30:  # dies between writing the new file and putting it in place
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    write_status(Path(sys.argv[1]), status)
"""


def test_a_writer_killed_while_writing_leaves_the_status_before(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED_WRITER, str(tmp_path)])
    status = read_status(tmp_path)
    assert status is not None
    assert status.step == 29
    write_status(tmp_path, running(31))
    assert os.listdir(tmp_path) == [STATUS_FILE]


def test_only_a_run_that_should_be_alive_can_be_silent():
    beat = {"max_steps": 1, "attempt": 1, "heartbeat": 1000.0}
    assert Status(state="running", **beat).silent_s(now=1600.0) == 600.0
    assert Status(state="starting", **beat).silent_s(now=900.0) == 0.0  # clocks differ
    assert Status(state="done", **beat).silent_s(now=1e9) == 0.0


WRITER = """
import sys
from pathlib import Path
from trainer.track.run_files.status import Status, write_status
status = Status.of_this_process(state="running", max_steps=100, attempt=1)
write_status(Path(sys.argv[1]), status)
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def of_a_killed(tmp_path_factory):
    """Return the status of a process that was killed, once it was seen to live."""
    folder = tmp_path_factory.mktemp("killed")
    with Child(
        [sys.executable, "-c", WRITER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"written\n"
        status = read_status(folder)
        assert status.pid == process.pid
        assert not status.is_gone()
        process.kill()
    return status


def test_a_run_whose_process_is_gone_is_known_to_be_dead(of_a_killed):
    assert of_a_killed.is_gone()
    reused = of_a_killed.model_copy(update={"pid": os.getpid()})  # by one that began later
    assert reused.is_gone()
    restarted = of_a_killed.model_copy(update={"boot": "another", "heartbeat": 1000.0})
    assert restarted.is_gone()


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "done"},
        {"state": "requeue"},
        {"boot": ""},
        {"pid_namespace": "pid:[1]"},
        {"boot": "another"},
        {"boot": "another", "host": "elsewhere", "heartbeat": 1000.0},
    ],
    ids=str,
)
def test_what_cannot_be_known_of_a_process_is_not_said(of_a_killed, changed):
    assert not of_a_killed.model_copy(update=changed).is_gone()


def test_a_status_of_before_is_read_and_says_nothing_of_its_process(tmp_path):
    write_status(tmp_path, running(3))
    values = json.loads((tmp_path / STATUS_FILE).read_text())
    for name in ("begun", "boot", "pid_namespace"):
        del values[name]
    (tmp_path / STATUS_FILE).write_text(json.dumps(values))
    status = read_status(tmp_path)
    assert (status.step, status.is_gone()) == (3, False)
