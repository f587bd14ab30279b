"""Preparing under pressure: killed, on a full disk, and with more text than memory."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from child import Child
from training import unmeasured

from trainer.data.corpus import verify_corpus
from trainer.data.prepare.from_text import PrepareOptions, prepare


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"the cat {i % 7} sat on mat {i}\n" for i in range(1000)))
    return path


STOPS_BEFORE_THE_END = """
import sys, time
from pathlib import Path
from trainer.data.prepare.writer import SplitWriter
from trainer.data.prepare.from_text import PrepareOptions, prepare

def finish(self, **_):
    print("all but the headers is written", flush=True)
    while True:  # a signal just before one long wait would be handled after it
        time.sleep(0.05)

SplitWriter.finish = finish
prepare(PrepareOptions(out=Path(sys.argv[1]), train=(Path(sys.argv[2]),)))
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_leaves_no_corpus_and_the_next_one_succeeds(
    tmp_path: Path, text: Path, sent: signal.Signals
) -> None:
    out = tmp_path / "corpus"
    command = [sys.executable, "-c", STOPS_BEFORE_THE_END, str(out), str(text)]
    with Child(
        command, env=unmeasured(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert (tmp_path / ".writing-corpus" / "train.bin").exists()
        process.send_signal(sent)
        assert process.wait() != 0
    assert not out.exists()
    assert (tmp_path / ".writing-corpus").exists() == (sent != signal.SIGINT)
    prepare(PrepareOptions(out=out, train=(text,)))
    verify_corpus(out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus", "text.txt"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import InputError
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
try:
    prepare(PrepareOptions(out=Path(sys.argv[1]), train=(Path(sys.argv[2]),)))
except InputError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # coverage writes at exit
"""


def test_a_file_that_cannot_grow_is_one_clear_error(tmp_path: Path, text: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "corpus"), str(text)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert "corpus: cannot be written: [Errno 27] File too large" in ran.stdout
    assert ran.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == [text]


# Not ru_maxrss: it starts at the peak of the process that started this one.
PEAK_MEMORY = """
import sys
from pathlib import Path
from trainer.data.prepare.from_text import PrepareOptions, prepare
prepare(PrepareOptions(out=Path(sys.argv[1]), train=(Path(sys.argv[2]),), tokenizer=sys.argv[3]))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize("tokenizer", ["words", "bytes", "bpe"])
def test_memory_does_not_grow_with_the_text(tmp_path: Path, tokenizer: str) -> None:
    pick = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    lines = (" ".join(pick.choices(words, k=12)) + "\n" for _ in range(50_000))
    text = "".join(lines).encode()
    peaks, more = [], 8
    for n_times in (1, more):
        path = tmp_path / f"{n_times}.txt"
        path.write_bytes(text * n_times)
        command = [sys.executable, "-c", PEAK_MEMORY, str(tmp_path / f"c{n_times}"), str(path)]
        ran = subprocess.run([*command, tokenizer], check=True, capture_output=True, text=True)
        peaks.append(int(ran.stdout))
    # Threads of libraries take some, as it comes; a text that is kept takes its size at least.
    assert 1024 * (peaks[1] - peaks[0]) <= 0.75 * (more - 1) * len(text)
