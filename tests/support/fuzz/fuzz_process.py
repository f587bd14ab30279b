"""A process that reads what the fuzz makes: its death, its time and its memory are told.

`Reader` is the side of the test. A file that ends the process, or keeps it, is named all the same.
"""

import pickle
import resource
import signal
import struct
import subprocess
import sys
import traceback
import unicodedata
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training import environment

#: What reading one file may take: seconds of this process, and bytes beyond what it has.
MAX_SECONDS, MAX_BYTES = 20, 200 << 20
#: Categories of Unicode that are no part of a line: controls, marks that hide or turn text.
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@dataclass(frozen=True)
class Outcome:
    """The result of reading one file."""

    problem: str
    """Empty if it was read, or refused in one line."""
    refused: bool
    seconds: float
    n_bytes: int


class Reader:
    """Another process that reads; one that died is followed by a new one."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, target: int, data: bytes | str, *, sealed: bool) -> Outcome:
        """Read a file in the other process; return what came of it."""
        if self._process is None:
            with (self._base.parent / "stderr").open("wb") as said:
                self._process = subprocess.Popen(
                    [sys.executable, __file__, str(self._base)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    env=environment(),
                )
        request = pickle.dumps((target, data, sealed))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        head = b""
        with suppress(BrokenPipeError):  # it ended after the file before
            self._process.stdin.write(struct.pack("<Q", len(request)) + request)
            self._process.stdin.flush()
            head = self._process.stdout.read(8)
        if len(head) == 8:
            found: Outcome = pickle.loads(self._process.stdout.read(*struct.unpack("<Q", head)))
            return found
        code = self._ended()
        told = (self._base.parent / "stderr").read_text(errors="replace")[-2000:]
        return Outcome(f"the process ended with {code}: {told}", False, 0.0, 0)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._ended()

    def _ended(self) -> int:
        """Wait for the process's end; return its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        with suppress(BrokenPipeError), process:  # which closes its pipes, and waits
            pass
        return process.wait()


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise LookupError(name)


class TooLongError(BaseException):
    """A file takes too long; nothing that reads files may catch this, as it may an `OSError`."""


def _too_long(*_: Any) -> None:
    raise TooLongError


def _outcome(base: Path, target: Any, data: bytes | str, sealed: bool) -> Outcome:
    from fuzz_targets import try_file

    from trainer.errors import InputError

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, begun = _memory("VmRSS"), resource.getrusage(resource.RUSAGE_SELF).ru_utime
    signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
    signal.alarm(10 * MAX_SECONDS)  # if it waits for something that never comes
    problem, refused = "", False
    try:
        try_file(base, target, data, sealed=sealed)
    except InputError as error:
        refused = True
        message = str(error)
        if {*map(unicodedata.category, message)} & _UNSEEN or not message or len(message) > 20_100:
            problem = f"its refusal is no line: {message[:500]!r}"
    except BaseException:
        problem = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun
    n_bytes = _memory("VmHWM") - before
    if n_bytes > MAX_BYTES:
        problem = f"{problem}\nit takes {n_bytes >> 20} MiB"
    return Outcome(problem, refused, seconds, n_bytes)


def main(base: Path) -> None:
    """Read what is asked for until the input ends."""
    from fuzz_targets import TARGETS

    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, _too_long)
    signal.signal(signal.SIGALRM, _too_long)
    limit = _memory("VmSize") + (4 << 30)  # the machine is others', too
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    for target in TARGETS:  # what is imported or built at first use is not a file's fault
        _outcome(base, target, (base / target.file).read_bytes(), False)
    while head := requests.read(8):
        target, data, sealed = pickle.loads(requests.read(*struct.unpack("<Q", head)))
        answer = pickle.dumps(_outcome(base, TARGETS[target], data, sealed))
        answers.write(struct.pack("<Q", len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    from fuzz_process import main as run  # so that what it pickles has a name here, too

    run(Path(sys.argv[1]))
