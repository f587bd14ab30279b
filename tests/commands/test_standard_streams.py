"""Every command says what it has to say, whatever becomes of the standard streams."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from training import ROOT, environment
from txl_command import said_in, unread

from trainer.errors import Exit
from trainer.launchers import RENDEZVOUS, complete_environ

#: What is asked of the commands that print; RUN and CORPUS stand for a run and its corpus.
COMMANDS = [
    ["report", "RUN"],
    ["report", "RUN", "--format", "markdown"],
    ["compare", "RUN", "RUN"],
    ["watch", "RUN"],
    ["eval", "RUN", "--split", "valid", "--device", "cpu"],
    ["generate", "RUN", "--n-tokens", "3", "--device", "cpu", "--prompt", "“def” – ΑΩ 中"],
    ["corpus", "show", "CORPUS"],
    ["corpus", "verify", "CORPUS"],
    ["config", "show", "quickstart"],
    ["config", "schema"],
    ["recipes"],
    ["exit-codes"],
    ["--help"],
    ["train", "--help"],
]


@pytest.fixture(params=COMMANDS, ids=" ".join)
def argv(
    request: pytest.FixtureRequest,
    trained: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    for key in RENDEZVOUS:  # which `txl eval` sets
        monkeypatch.setenv(key, complete_environ({})[key])
    run = shutil.copytree(trained, tmp_path / "run")  # `txl eval` files its result there
    places = {"RUN": str(run), "CORPUS": str(corpus)}
    return [places.get(word, word) for word in request.param]


def test_a_locale_that_knows_ascii_alone_is_told_the_same(
    argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, full = (said_in(encoding, monkeypatch, *argv) for encoding in ("ascii", "utf-8"))
    assert plain.code == full.code == Exit.DONE
    words = re.findall("[a-z_]{3,}", full.out)
    assert words
    assert re.findall("[a-z_]{3,}", plain.out) == words


def test_what_an_encoding_lacks_is_shown_by_what_looks_like_it(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = said_in("utf-8", monkeypatch, "report", trained).out
    assert set("▁█") < set(full)
    shown = full.translate(str.maketrans("▁▂▃▄▅▆▇█", "_.:-=+*#"))
    for encoding in ("ascii", "latin-1"):
        assert said_in(encoding, monkeypatch, "report", trained).out == shown


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_name_that_is_no_text_is_shown_escaped(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_text = os.fsdecode(b"caf\xe9")
    for argv in (["corpus", "show"], ["report"], ["eval"], ["train", "quickstart", "--data"]):
        ended = said_in(encoding, monkeypatch, *argv, tmp_path / no_text)
        assert ended.code == Exit.BAD_INPUT
        assert "udce9" in ended.out + ended.err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_run_whose_name_is_no_text_is_read_or_refused_in_a_line(
    encoding: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained, tmp_path / os.fsdecode(b"caf\xe9"))
    assert said_in(encoding, monkeypatch, "report", run).code == Exit.DONE
    out = tmp_path / os.fsdecode(b"exported\xe9")
    assert said_in(encoding, monkeypatch, "export", trained, "--out", out).code == Exit.DONE
    assert (out / "README.md").is_file()
    for argv in (["generate", run, "--device", "cpu"], ["export", run, "--out", tmp_path / "x"]):
        told = said_in(encoding, monkeypatch, *argv)
        assert told.code == Exit.BAD_INPUT  # safetensors opens no such file
        assert len(told.err.splitlines()) == 1


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_reader_that_leaves_ends_a_command_quietly(
    argv: list[str],
    buffering: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quiet = {Exit.DONE} if argv[0] == "train" else set()  # argparse hears nothing of it
    assert unread(monkeypatch, *argv, buffering=buffering) in {Exit.UNREAD} | quiet
    assert "Traceback" not in capsys.readouterr().err


def ended(
    argv: list[str], *, closing: int | None = None, **streams: object
) -> "subprocess.CompletedProcess[str]":
    """Run a command with one of its standard streams closed; return what becomes of it."""
    close: Callable[[], None] | None = None if closing is None else lambda: os.close(closing)
    return subprocess.run(
        [sys.executable, "-m", "trainer", *argv],
        env=environment(),
        cwd=ROOT,
        text=True,
        check=False,
        preexec_fn=close,
        **{"capture_output": True, **streams},  # type: ignore[call-overload]
    )


def test_what_reads_no_standard_input_does_without(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a b c\n" * 9)
    made = ended(["prepare", "--train", str(text), "--out", str(tmp_path / "c")], closing=0)
    assert (made.returncode, made.stdout != "") == (0, True), made.stderr


@pytest.mark.parametrize(
    "argv", [["prepare", "--out", "nowhere", "--train", "-"], ["generate", "r", "--prompt", "-"]]
)
def test_what_reads_a_closed_standard_input_says_so_in_a_line(
    argv: list[str], trained: Path, tmp_path: Path
) -> None:
    refused = ended([str(trained) if word == "r" else word for word in argv], closing=0)
    assert refused.returncode == Exit.BAD_INPUT
    assert len(refused.stderr.splitlines()) == 1


def test_what_cannot_be_said_does_not_change_how_a_command_ends(trained: Path) -> None:
    assert ended(["report", str(trained)], closing=1).returncode == Exit.DONE
    assert ended(["report", "nowhere"], closing=2).returncode == Exit.BAD_INPUT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_that_takes_the_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        refused = ended(["recipes"], capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert refused.returncode == Exit.BAD_INPUT
    assert refused.stderr.startswith("error: ")
    assert "no space left on device" in refused.stderr.lower()
    assert len(refused.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error_when_the_process_ends_either() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    left = ended(["recipes"], capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (left.returncode, left.stderr) == (Exit.UNREAD, "")
