"""What memory a process can have, from the kernel's files as machines and jobs have them."""

import subprocess
import sys
from pathlib import Path

import pytest
from training import ROOT, environment

from trainer.budget.machine import of_host, peak_bytes

GIB = 1 << 30
MACHINE = "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"


def machine(folder: Path, **files: str) -> Path:
    """Return a root of a file system with these files; a double underscore is a slash."""
    for name, text in {"proc__meminfo": MACHINE, **files}.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_a_machine_has_what_its_kernel_says_and_swap(tmp_path: Path) -> None:
    assert of_host(machine(tmp_path)) == (8 * GIB, 4 * GIB, "this machine")
    swap = MACHINE.replace("SwapTotal: 0", "SwapTotal: 1048576")
    assert of_host(machine(tmp_path, proc__meminfo=swap)).total == 9 * GIB


def test_a_group_above_the_process_s_own_may_be_the_tightest(tmp_path: Path) -> None:
    limits = {"job": str(2 * GIB), "job__step": "max"}
    files = {f"sys__fs__cgroup__{name}__memory.max": text for name, text in limits.items()}
    files["sys__fs__cgroup__job__memory.current"] = str(GIB // 2)
    root = machine(tmp_path, proc__self__cgroup="0::/job/step\n", **files)
    there = of_host(root)
    assert (there.total, there.free) == (2 * GIB, 3 * GIB // 2)
    assert "control group" in there.what


def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        proc__self__cgroup="5:cpu,cpuacct:/x\n4:memory:/slurm/job_7\n1:name=systemd:/\n",
        **{"sys__fs__cgroup__memory__slurm__job_7__memory.limit_in_bytes": f"{3 * GIB}\n"},
    )
    assert of_host(root).total == 3 * GIB


@pytest.mark.parametrize("text", ["", "max", "9223372036854771712", "-1", "\0\0"])
def test_no_limit_and_no_number_is_no_limit(tmp_path: Path, text: str) -> None:
    files = {"sys__fs__cgroup__memory.max": text, "proc__self__cgroup": "0::/\n\n:\n"}
    assert of_host(machine(tmp_path, **files)).total == 8 * GIB


def test_a_limit_of_the_shell_counts_less_what_is_taken() -> None:
    code = (
        "import resource; from trainer.budget.machine import of_host; "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); print(*of_host()[:2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        text=True,
        check=True,
        capture_output=True,
    )
    total, free = map(int, done.stdout.split())
    assert 0 < free == total < GIB


def test_the_peak_is_this_program_s_own_and_not_what_started_it() -> None:
    held = bytearray(b"x" * (300 << 20))
    assert peak_bytes() > len(held)
    code = "from trainer.budget.machine import peak_bytes; print(peak_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        text=True,
        check=True,
        capture_output=True,
    )
    assert 1 << 20 < int(done.stdout) < len(held)
