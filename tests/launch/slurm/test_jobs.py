"""A job under a real Slurm of two nodes: what becomes of it at its time limit, and at its end."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_jobs import PACED, run
from training import ROOT, Case, environment, events, losses
from wandb_reader import read_offline

from trainer.errors import Exit
from trainer.track.run_files.status import read_status

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]  # one cluster waits for another


def test_a_run_that_meets_its_time_limit_is_requeued_and_ends_as_if_undisturbed(submit, tmp_path):
    go = tmp_path / "go"
    cut = submit("cut", PACED, "--time=60", "--signal=B:USR2@100", GO=str(go))
    cut.wait_for_attempt()
    # Slurm looks every half minute whether a signal is due within the next one. A limit from the
    # beginning would cut attempts on a busy machine before their first step, again and again.
    run("scontrol", "update", f"JobId={cut.id}", "EndTime=now+2minutes")
    cut.wait("requeue", lambda job: job.state()["Restarts"] == "1")
    run("scontrol", "update", f"JobId={cut.id}", "TimeLimit=60")
    saved = read_status(cut.case.run_dir)
    assert (saved.state, saved.step > 0) == ("requeue", True)
    go.touch()
    assert cut.wait_for_end() == "0:0", cut.output.read_text()
    assert read_status(cut.case.run_dir).state == "done"
    assert [event["reason"] for event in events(cut.case.run_dir, "stop")] == ["SIGUSR2", "done"]
    assert [event["step"] for event in events(cut.case.run_dir, "resume")] == [saved.step]

    whole = submit("whole", PACED, "--time=60", GO=str(go))
    assert whole.wait_for_end() == "0:0", whole.output.read_text()
    assert losses(cut.case.run_dir) == losses(whole.case.run_dir)
    ids, _, rows = read_offline(cut.case.run_dir)
    assert (len(ids), len(set(ids))) == (2, 1)
    logged = {row["train/step"] for row in rows if "train/loss" in row}
    assert logged == set(losses(whole.case.run_dir))


def test_a_run_that_its_file_stops_ends_its_job(submit):
    stopped = submit("stopped", ["--train.max-steps", "100000"], "--time=60")
    stopped.wait_for_step(1)
    (stopped.case.run_dir / "STOP").touch()
    assert stopped.wait_for_end() == f"{Exit.STOPPED}:0"
    assert stopped.state()["Restarts"] == "0"
    assert read_status(stopped.case.run_dir).state == "stopped"


def busy_controller(folder: Path) -> tuple[dict[str, str], Path]:
    """Return a scontrol that leaves two questions for a node unanswered, and its notes of them."""
    asked, script = folder / "asked", folder / "scontrol"
    folder.mkdir()
    script.write_text(
        f"""#!/bin/sh
case "$*" in "show node"*)
  echo asked >> "{asked}"
  [ "$(wc -l < "{asked}")" -gt 2 ] || exit 1 ;;
esac
exec "{shutil.which("scontrol")}" "$@"
"""
    )
    script.chmod(0o755)
    return {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}, asked


def test_a_run_without_progress_is_not_requeued_for_ever(submit, tmp_path):
    variables, asked = busy_controller(tmp_path / "busy")
    never = ["--train.max-steps", "100000"]
    job = submit("stalled", never, "--time=10", MAX_STALLS="0", **variables)
    job.wait_for_step(1)
    run("scancel", "--batch", "--signal=USR2", job.id)
    assert job.wait_for_end() == f"{Exit.REQUEUE}:0"
    assert job.state()["Restarts"] == "0"
    assert "no progress" in job.output.read_text()
    assert asked.read_text().splitlines() == ["asked"] * 3


def test_a_job_that_its_user_cancels_is_saved_and_not_requeued(submit):
    job = submit("cancelled", ["--train.max-steps", "100000"], "--time=10")
    job.wait_for_step(1)
    run("scancel", job.id)
    job.wait_for_end()
    job.wait("a checkpoint", lambda job: read_status(job.case.run_dir).state == "requeue")
    assert job.state()["JobState"] == "CANCELLED"


def test_bad_input_ends_the_job_with_one_line(submit, tmp_path):
    job = submit("bad", ["--train.max-steps", "many"], "--time=10")
    assert job.wait_for_end() == f"{Exit.BAD_INPUT}:0"
    assert job.output.read_text().count("error: quickstart") == 1
    assert not job.case.run_dir.exists()


def test_tasks_that_have_no_place_to_meet_are_refused_in_one_line(cluster, corpus, tmp_path):
    case = Case(tmp_path / "apart")
    refused = subprocess.run(
        ["srun", "-n", "2", sys.executable, "launch/train.py", *case.argv(corpus)],
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert refused.returncode == Exit.BAD_INPUT
    said = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, refused.stderr
    assert "MASTER_ADDR is missing for 2 tasks of Slurm" in said[0]
    assert not case.run_dir.exists()


def test_a_corpus_that_one_node_lacks_is_one_error_before_anything_is_written(
    submit, corpus, tmp_path
):
    (tmp_path / "elsewhere").mkdir()
    python = tmp_path / "python"
    # A folder that is not shared: on the second node the same path leads to nothing.
    python.write_text(
        f"""#!/bin/sh
case "$1.$SLURM_NODEID" in launch/train.py.1)
  script="$PWD/$1"; shift; set -- "$script" "$@"
  cd "{tmp_path}/elsewhere" ;;
esac
exec "{sys.executable}" "$@"
"""
    )
    python.chmod(0o755)
    path = Path(os.path.relpath(tmp_path / "corpus", ROOT))
    (tmp_path / "corpus").symlink_to(corpus)
    job = submit("split", [], "--time=10", data=path, PYTHON=str(python))
    assert job.wait_for_end() == f"{Exit.BAD_INPUT}:0"
    said = job.output.read_text()
    errors = [line for line in said.splitlines() if "error: " in line and "srun: " not in line]
    assert len(errors) == 1, said
    for part in (f"rank 1 ({socket.gethostname()})", str(path), "txl prepare"):
        assert part in errors[0]
    assert job.state()["Restarts"] == "0"
    assert not job.case.run_dir.exists()
    assert not list((tmp_path / "elsewhere").iterdir())
