"""`trainer.train` trains as the command does, again and again, and leaves the process as it was."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training import SUPPORT, TINY, checkpoint_hashes, environment, losses

from trainer.checkpoint.folder import newest_whole
from trainer.config.command_line.flags import changed
from trainer.config.recipe import load_recipe
from trainer.errors import Exit, InputError
from trainer.launchers import RENDEZVOUS, complete_environ
from trainer.track.run_files.status import read_status

#: The fields that the fixture `trained` sets, as far as they change what is trained.
STEPS = {"train.max_steps": 6, "valid.interval_steps": 3, "checkpoint.interval_steps": 2}


def overrides() -> dict[str, Any]:
    """Return the flags of `TINY` as values."""
    values: dict[str, Any] = {}
    for word in TINY:
        if word.startswith("--"):
            field = word[2:].replace("-", "_")
            values[field] = []
        else:
            values[field].append(json.loads(word) if word[0].isdigit() else word)
    del values["device"]
    lists = {"model.cutoffs"}
    return {k: v if k in lists else v[0] for k, v in values.items()} | STEPS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls")


@pytest.fixture(scope="module")
def found(corpus: Path, runs: Path) -> dict[str, Any]:
    """Return what came of the calls."""
    worker = SUPPORT / "runs" / "calls_worker.py"
    command = [sys.executable, str(worker), str(corpus), str(runs), json.dumps(overrides())]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=1000
    )
    assert done.returncode == 0, done.stderr[-4000:]
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def test_a_call_trains_what_the_command_trains(
    found: dict[str, Any], runs: Path, trained: Path
) -> None:
    assert losses(runs / "first") == losses(trained)
    assert checkpoint_hashes(runs / "first", 6) == checkpoint_hashes(trained, 6)
    state, step, code, best = found["first"]
    assert (state, step, code, found["records"]) == ("done", 6, Exit.DONE, [6, 6])
    status = read_status(trained)
    assert status is not None
    assert status.result is not None
    assert best == [status.result["valid/best_loss"], status.result["valid/best_step"]]
    said = (runs / "first" / "command.txt").read_text().splitlines()
    assert said[0].startswith("trainer.train('quickstart', data=")


def test_a_call_leaves_the_process_as_it_was(found: dict[str, Any]) -> None:
    assert found["changed"] == []
    assert found["changed at the end"] == []


def test_what_cannot_be_used_is_refused_and_the_next_call_trains(
    found: dict[str, Any], runs: Path
) -> None:
    said = {
        "unknown field": "'train.max_step' is no field (did you mean 'train.max_steps'?)",
        "wrong value": "train.max_steps",
        "no value": "not JSON serializable",
        "no corpus": "no such corpus",
        "no recipe": "did you mean 'quickstart'?",
        "a contradiction": "--init-from and --resume-from: give one of them",
        "batch": "too few for 9,999 streams",
        "another run": "n_layer",
    }
    for name, part in said.items():
        assert found["refused"][name].startswith("InputError: "), name
        assert part in found["refused"][name]
    assert found["own group"].startswith("InputError: this process has a process group")
    assert not (runs / "new").exists()
    assert found["again"] == "done"


def test_an_interrupt_is_raised_once_a_checkpoint_is_saved(
    found: dict[str, Any], runs: Path
) -> None:
    assert found["ctrl-c"] == "KeyboardInterrupt: "
    assert found["goes on"][0] == "done"
    assert losses(runs / "stopped") == losses(runs / "first")
    assert checkpoint_hashes(runs / "stopped", 6) == checkpoint_hashes(runs / "first", 6)
    assert found["ctrl-c twice"] == "KeyboardInterrupt: "
    status = read_status(runs / "left")
    assert status is not None
    assert status.state == "failed"


def test_other_signals_are_sent_again_once_a_checkpoint_is_saved(
    found: dict[str, Any], runs: Path
) -> None:
    state, reason, code, is_early, heard = found["term"]
    assert (state, reason, code, is_early) == ("requeue", "SIGTERM", Exit.REQUEUE, True)
    assert heard == [15]
    assert newest_whole(runs / "requeued" / "checkpoints").path.is_dir()


def test_a_thread_may_call(found: dict[str, Any], runs: Path) -> None:
    assert found["thread"] == "done"
    assert losses(runs / "thread") == losses(runs / "first")


#: A rank of a job that trains, and tries to train again.
RANK = """
import json, sys, trainer
from trainer.errors import InputError
how = dict(data=sys.argv[1], device="cpu", deepspeed_config="zero0_fp32")
how |= dict(overrides=json.loads(sys.argv[3]))
result = trainer.train("quickstart", run_dir=sys.argv[2], **how)
print(result.state, result.best.loss)
try:
    trainer.train("quickstart", run_dir=sys.argv[2] + "-again", **how)
except InputError as error:
    print(error)
"""


def test_ranks_share_the_batch_of_one_call(corpus: Path, tmp_path: Path, trained: Path) -> None:
    words = [str(corpus), str(tmp_path / "run"), json.dumps(overrides())]
    port = complete_environ({})["MASTER_PORT"]
    ranks = []
    for rank in "01":
        names = (rank, "2", rank, "2", "127.0.0.1", port)
        launched = environment(**dict(zip(RENDEZVOUS, names, strict=True)))
        command = [sys.executable, "-c", RANK, *words]
        ranks.append(subprocess.Popen(command, env=launched, stdout=subprocess.PIPE, text=True))
    try:
        told = [rank.communicate(timeout=1000)[0] for rank in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert told[0] == told[1]
    assert told[0].startswith("done ")
    assert "has trained with 2 ranks before" in told[0]
    assert losses(tmp_path / "run") == pytest.approx(losses(trained), abs=1e-5)


def test_overrides_are_values_of_fields() -> None:
    experiment = changed(
        load_recipe("quickstart"), {"train.max_steps": 70, "model.cutoffs": (9, 99)}
    )
    assert (experiment.train.max_steps, experiment.model.cutoffs) == (70, (9, 99))
    assert changed(experiment, {}) == experiment
    with pytest.raises(InputError, match=r"overrides train\.max_steps: .*train.max_steps"):
        changed(experiment, {"train.max_steps": "80"})


def test_no_watchdog_may_end_the_callers_process(found: dict[str, Any]) -> None:
    assert "MainThread" in found["threads"]
    assert "watchdog" not in found["threads"]
