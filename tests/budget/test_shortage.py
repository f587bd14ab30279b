"""Memory that could not be had is one line, with this run's sizes and what to lower."""

import errno
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training import ROOT, Case, environment

from trainer.budget import shortage
from trainer.errors import Exit, ShortageError
from trainer.track.run_files.status import read_status

SCRIPT = ROOT / "tests" / "support" / "faults" / "short_of_memory.py"
#: Attention scores of a GiB and more, and of none.
LARGE = ["--model.n-head", "16", "--train.mem-len", "9000", "--train.tgt-len", "200"]


def run_short(
    mib: int, *argv: str, rank: int = 0, n_ranks: int = 1
) -> "subprocess.CompletedProcess[str]":
    launcher = [sys.executable]
    if n_ranks > 1:
        rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(n_ranks), *rendezvous]
    return subprocess.run(
        [*launcher, str(SCRIPT), str(mib), str(rank), *argv],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=1000,
    )


def errors_of(ended: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in ended.stderr.splitlines() if line.startswith("error: ")]


def test_training_that_runs_out_says_what_it_needs_and_what_to_lower(
    corpus: Path, tmp_path: Path
) -> None:
    case = Case(tmp_path / "run", flags=[*LARGE, "--beyond-memory"])
    ended = run_short(1400, "train", *case.argv(corpus))
    assert ended.returncode == Exit.OUT_OF_MEMORY, ended.stderr[-3000:]
    (line,) = errors_of(ended)
    assert "Traceback" not in ended.stderr
    for part in (
        "out of memory: ",
        " GiB more could not be had of this machine",
        "by the plan a rank needs",
        "train_micro_batch_size_per_gpu 8, tgt_len 200, mem_len 9000 and a vocabulary of",
        "lower --train.train-micro-batch-size-per-gpu (8), --train.tgt-len (200)",
    ):
        assert part in line
    status = read_status(case.run_dir)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", Exit.OUT_OF_MEMORY)
    assert status.reason is not None
    assert line.endswith(status.reason[-80:])


def test_a_limit_that_the_plan_knows_of_refuses_the_run_before_it_starts(
    corpus: Path, tmp_path: Path
) -> None:
    case = Case(tmp_path / "run", flags=LARGE)
    ended = run_short(1400, "train", *case.argv(corpus))
    assert ended.returncode == Exit.BAD_INPUT
    (line,) = errors_of(ended)
    assert "the limit on address space (ulimit -v) has" in line
    assert not case.run_dir.exists()


def test_one_rank_of_two_that_runs_out_is_named_and_ends_the_other(
    corpus: Path, tmp_path: Path
) -> None:
    case = Case(tmp_path / "run", flags=[*LARGE, "--beyond-memory"])
    ended = run_short(1400, "train", *case.argv(corpus), rank=1, n_ranks=2)
    (line,) = errors_of(ended)
    assert f"out of memory on rank 1 ({socket.gethostname()})" in line
    status = read_status(case.run_dir)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", Exit.OUT_OF_MEMORY)
    assert "on rank 1" in str(status.reason)


def test_an_evaluation_that_runs_out_says_so_too(trained: Path) -> None:
    sizes = ["--split", "valid", "--mem-len", "2000000", "--batch-size", "9"]
    ended = run_short(900, "eval", str(trained), *sizes)
    assert ended.returncode == Exit.OUT_OF_MEMORY, ended.stderr[-3000:]
    (line,) = errors_of(ended)
    assert "reading 9 rows with tgt_len 12, mem_len 2000000" in line
    assert "lower --batch-size, --tgt-len or --mem-len" in line
    assert "Traceback" not in ended.stderr


def of_torch() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def of_numpy() -> None:
    np.empty(1 << 60, np.uint8)


def of_python() -> None:
    bytearray(1 << 60)


@pytest.mark.parametrize("ask", [of_torch, of_numpy, of_python])
def test_every_library_s_shortage_is_known(ask: "object") -> None:
    assert callable(ask)
    with pytest.raises(ShortageError) as ended, shortage.explained(None, lambda: "lower it"):
        ask()
    assert str(ended.value).startswith("out of memory: ")
    assert str(ended.value).endswith("of this machine; lower it")
    assert "\n" not in str(ended.value)


def test_a_gpu_s_shortage_names_the_gpu_and_the_size() -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.25 GiB."
    )
    assert shortage.is_shortage(error)
    assert shortage.describe(error) == "out of memory: 20.00 GiB more could not be had of the GPU"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), OSError(errno.ENOSPC, "No space"), ValueError("memory")],
)
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    assert not shortage.is_shortage(error)
    with pytest.raises(type(error)) as ended, shortage.explained(None, lambda: ""):
        raise error
    assert ended.value is error
