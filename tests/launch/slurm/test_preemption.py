"""A run that Slurm disturbs in every way it knows ends as one that nothing disturbed."""

import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from slurm_jobs import PACED, run, sbatch
from training import events, losses
from wandb_reader import read_offline

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]  # one cluster waits for another


def python_that_tells(folder: Path) -> str:
    """An interpreter that leaves a file in `folder` when a rank of a training begins."""
    script = folder / "python"
    script.write_text(
        f"""#!/bin/sh
case "$1" in launch/train.py) : > "{folder}/rank-$SLURM_PROCID" ;; esac
exec "{sys.executable}" "$@"
"""
    )
    script.chmod(0o755)
    return str(script)


def preempt() -> None:
    """Let a job that has precedence take both nodes, and leave them at once."""
    sbatch("--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=true")


def kill_node(name: str, cluster: Path) -> None:
    """End all that runs on a node at once, as a loss of power does, and tell Slurm."""
    doomed = [psutil.Process(int((cluster / f"slurmd-{name}.pid").read_text()))]
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("SLURMD_NODENAME") == name:
            with suppress(psutil.NoSuchProcess):
                above = [parent for parent in process.parents() if "slurmstepd" in parent.name()]
                doomed += [process, *above]
    for process in set(doomed):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=killed")


def test_a_run_that_is_preempted_requeued_and_loses_a_node_ends_as_if_undisturbed(
    submit, cluster, tmp_path
):
    go = tmp_path / "go"
    # As from the task of an array that submits it: Slurm leaves these as they are.
    other = {"SLURM_ARRAY_JOB_ID": "987654", "SLURM_ARRAY_TASK_ID": "3"}
    python = python_that_tells(tmp_path)
    job = submit("disturbed", PACED, "--partition=low", PYTHON=python, GO=str(go), **other)
    run_dir = job.case.run_dir

    job.wait("its ranks", lambda _: len(list(tmp_path.glob("rank-*"))) == 2)
    preempt()  # before there is anything to save
    job.wait_for_restart(1)
    attempt = job.wait_for_attempt()
    preempt()
    job.wait_for_restart(2)
    run("scontrol", "update", "PartitionName=low", "GraceTime=0")
    attempt = job.wait_for_attempt(after=attempt)
    preempt()
    job.wait_for_restart(3)
    attempt = job.wait_for_attempt(after=attempt)
    run("scontrol", "requeue", job.id)
    job.wait_for_restart(4)
    attempt = job.wait_for_attempt(after=attempt)
    kill_node("n2", cluster)
    job.wait("requeue", lambda job: job.state()["Restarts"] == "5")
    run("slurmd", "-N", "n2")  # which brings the node back
    job.wait_for_restart(5)
    job.wait_for_attempt(after=attempt)
    go.touch()
    assert job.wait_for_end() == "0:0", job.output.read_text()
    assert job.state()["Restarts"] == "5"

    whole = submit("whole", PACED, "--partition=low", GO=str(go))
    assert whole.wait_for_end() == "0:0", whole.output.read_text()
    assert whole.state()["Restarts"] == "0"
    assert len(losses(run_dir)) == 300
    assert losses(run_dir) == losses(whole.case.run_dir)
    ids, _, rows = read_offline(run_dir)
    assert len(ids) > 1
    assert len(set(ids)) == 1
    assert {row["train/step"] for row in rows if "train/loss" in row} == set(range(1, 301))
    assert {event["reason"] for event in events(run_dir, "stop")} >= {"SIGTERM"}
    assert events(run_dir, "resume")[-1]["step"] > 0
