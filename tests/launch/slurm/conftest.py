"""A real Slurm, for the tests of this folder."""

import os
import shutil
import sys

import pytest
from slurm_jobs import Job, run, sbatch
from training import ROOT, Case

CLUSTER = ROOT.parent / "shared" / "tools" / "slurm_cluster.sh"


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
    run("bash", str(CLUSTER), "start", "2", str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
        run("scancel", "--user=root", "--full", "--signal=KILL")
        run("bash", str(CLUSTER), "stop", str(folder))


@pytest.fixture
def submit(cluster, corpus, tmp_path):
    """Submits a case with options of sbatch and variables of train.sbatch."""

    def _submit(name: str, flags: list[str], *options: str, **variables: str) -> Job:
        case = Case(tmp_path / name, flags=flags)
        argv = case.argv(corpus)
        at = argv.index("--run-dir")
        variables = {"RUN_DIR": argv[at + 1], "PYTHON": sys.executable, **variables}
        del argv[at : at + 2]
        output = tmp_path / f"{name}.out"
        words = ["--nodes=2", f"--output={output}", *options, "launch/slurm/train.sbatch", *argv]
        return Job(sbatch(*words, **variables), case, output)

    return _submit
