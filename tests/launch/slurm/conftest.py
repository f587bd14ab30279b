"""A real Slurm, for the tests of this folder."""

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from slurm_jobs import Job, run, sbatch
from training import ROOT, Case

CLUSTER = ROOT.parent / "shared" / "tools" / "slurm_cluster.sh"
PREEMPTION = """
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=86400
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=600
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""
"""Jobs of `high` take nodes away from jobs of `low`, which have ten minutes to save themselves."""


@contextmanager
def _alone() -> Iterator[None]:
    """One cluster on this machine at a time, for its ports are always the same."""
    with (Path(tempfile.gettempdir()) / "slurm-of-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _wait(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline, "the cluster does not end"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two one-core nodes on this machine; Slurm's commands speak to them meanwhile."""
    missing = [name for name in ("slurmctld", "munged") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: apt install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("starting a Slurm cluster needs root")
    if not CLUSTER.is_file():
        pytest.skip(f"{CLUSTER} is absent: it starts the cluster")
    folder = tmp_path_factory.mktemp("slurm")
    with _alone(), pytest.MonkeyPatch.context() as patch:
        run("bash", str(CLUSTER), "start", "2", str(folder))
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        with (folder / "slurm.conf").open("a") as config:
            config.write(PREEMPTION)
        run("scontrol", "reconfigure")
        yield folder
        run("scancel", "--user=root", "--full", "--signal=KILL")
        run("scancel", "--user=root")
        _wait(lambda: not run("squeue", "--noheader"))
        pids = [int(path.read_text()) for path in folder.glob("*.pid")]
        daemons = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        run("bash", str(CLUSTER), "stop", str(folder))
        _wait(lambda: not any(map(_is_alive, daemons)))


@pytest.fixture
def submit(cluster, corpus, tmp_path):
    """Submits a case with options of sbatch and variables of train.sbatch."""

    def _submit(
        name: str, flags: list[str], *options: str, data: Path | None = None, **variables: str
    ) -> Job:
        case = Case(tmp_path / name, flags=flags)
        argv = case.argv(data or corpus)
        at = argv.index("--run-dir")
        variables = {"RUN_DIR": argv[at + 1], "PYTHON": sys.executable, **variables}
        del argv[at : at + 2]
        output = tmp_path / f"{name}.out"
        words = ["--nodes=2", f"--output={output}", *options, "launch/slurm/train.sbatch", *argv]
        return Job(sbatch(*words, **variables), case, output)

    return _submit
