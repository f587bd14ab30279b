"""A sweep under a real Slurm: what happens to one task of the array is nothing to the others."""

import sys

import pytest
from slurm_jobs import Job, sbatch
from training import Case, losses
from wandb_reader import read_records

from trainer import read_metrics

LINES = """\
# Two that are short, and two of the same settings.
--train.max-steps 4 --optim.lr 2e-2

--train.max-steps 4 --optim.lr 1e-2
--train.max-steps 300 --seed 5   # left alone
--train.max-steps 300 --seed 5   # preempted
"""

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]  # one cluster waits for another


def test_of_an_array_the_task_that_is_preempted_alone_starts_again(cluster, corpus, tmp_path):
    folder, lines, go = tmp_path / "rates", tmp_path / "sweep.txt", tmp_path / "go"
    lines.write_text(LINES)
    flags = ["--model.factory", "paced_model:build", "--tracking.wandb", "offline"]
    argv = Case(tmp_path / "unused", flags=flags).argv(corpus)
    at = argv.index("--run-dir")
    del argv[at : at + 2]
    array = sbatch(
        *("--array=0-3", "--partition=low", f"--output={tmp_path}/%a.out"),
        *("launch/slurm/sweep.sbatch", str(lines), *argv),
        **{"SWEEP_DIR": str(folder), "PYTHON": sys.executable, "GO": str(go)},
    )
    jobs = [
        Job(f"{array}_{task}", Case(folder / str(task)), tmp_path / f"{task}.out", n_nodes=1)
        for task in range(4)
    ]
    for job in jobs[:2]:
        job.wait_for_step(4)
    for job in jobs[2:]:
        job.wait_for_attempt()
    # The last to start has the array's own id, by which all of its tasks would be requeued.
    assert jobs[3].state()["JobId"] == array
    node = jobs[3].state()["NodeList"]
    sbatch("--partition=high", f"--nodelist={node}", "--output=/dev/null", "--wrap=true")
    jobs[3].wait_for_restart(1)
    go.touch()

    assert [job.wait_for_end() for job in jobs] == ["0:0"] * 4
    assert [job.state()["Restarts"] for job in jobs] == ["0", "0", "0", "1"]
    runs = [job.case.run_dir for job in jobs]
    attempts = [{record["attempt"] for record in read_metrics(run)} for run in runs]
    assert attempts == [{1}, {1}, {1}, {1, 2}]
    assert [len(losses(run)) for run in runs] == [4, 4, 300, 300]
    assert losses(runs[0]) != losses(runs[1])
    assert losses(runs[2]) == losses(runs[3])
    logs = [log for run in runs for log in sorted(run.glob("wandb/offline-run-*/run-*.wandb"))]
    told = [next(r["run"] for r in read_records(log) if "run" in r) for log in logs]
    assert [(run["run_group"], run["display_name"]) for run in told] == [
        ("rates", f"rates-{task}") for task in (0, 1, 2, 3, 3)
    ]
    assert len({run["run_id"] for run in told}) == 4
