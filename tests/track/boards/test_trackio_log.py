"""A trackio run read back has every step once, with the figures of the record, whatever happened.

trackio itself is real, and keeps its data where these tests say.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from peer import TRACKIO
from tracked_run import start, train

from trainer.config.recipe import load_recipe
from trainer.errors import Exit, InputError
from trainer.track.measure import Lengths
from trainer.track.opening import track_evaluations
from trainer.track.record.metrics import read_metrics
from trainer.track.run_files.results import EvalResult, file_result


@pytest.fixture(scope="module")
def _trackio(tmp_path_factory):
    """Let trackio be imported; its data are the tests' own."""
    if not (TRACKIO / "trackio").is_dir():
        pytest.skip(f"{TRACKIO} is absent: bash tests/peer.sh makes it")
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("TRACKIO_")]:
            patch.delenv(variable)
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        patch.setattr(sys, "path", [*sys.path, str(TRACKIO)])
        yield


@pytest.fixture
def project(_trackio, tmp_path: Path) -> str:
    """Return a project that no other test has."""
    return tmp_path.name


def runs_of(project: str) -> list[Any]:
    """Return the runs that trackio has now."""
    import trackio

    return list(trackio.Api().runs(project))


def rows(project: str, run_id: str | None = None) -> list[dict[str, Any]]:
    """Return all rows of a run, of the only one by default."""
    from trackio.sqlite_storage import SQLiteStorage

    ids = [run_id] if run_id else [run.id for run in runs_of(project)]
    (found,) = (SQLiteStorage.get_logs(project, run_id=one) for one in ids)
    return found


def begin(run_dir: Path, project: str, **settings: Any):
    return start(run_dir, wandb="disabled", trackio=True, project=project, **settings)


def sample(tracker, step: int) -> None:
    values = {"sample/text": f"to be {step}\n<b>\x1b[31m"}
    tracker.log("sample", step=step, update=step, n_tokens=10 * step, values=values)


def assert_as_recorded(run_dir: Path, project: str) -> None:
    """Compare rows with records: each of a step once and with the same figures, and all samples."""
    found = rows(project)
    for kind in ("train", "valid"):
        shown = {
            row["step"]: row[f"{kind}/loss"] for row in found if row.get(f"{kind}/loss") is not None
        }
        n_shown = sum(f"{kind}/loss" in row for row in found)
        recorded = {r["step"]: r[f"{kind}/loss"] for r in read_metrics(run_dir, kind=kind)}
        assert (shown, n_shown) == (recorded, len(recorded))
    texts = [
        (row["step"], row["sample/text"]["_value"][0]["text"])
        for row in found
        if "sample/text" in row
    ]
    samples = read_metrics(run_dir, kind="sample")
    assert texts == [(record["step"], record["sample/text"]) for record in samples]


@pytest.mark.parametrize("mode", ["sqlite", "jsonl"])
def test_a_run_that_was_killed_resumed_and_rolled_back_has_every_step_once(
    tmp_path, project, monkeypatch, capsys, mode
):
    """`jsonl` is how trackio keeps rows on a network file system: in files, until it is shown."""
    from trackio import fragments

    monkeypatch.setenv("TRACKIO_STORAGE_MODE", mode)
    run_dir = tmp_path / "run"
    killed = begin(run_dir, project)
    train(killed, range(1, 8))
    sample(killed, 2)
    sample(killed, 6)
    killed._trackio._run._flush_queues_inline()  # what its thread has sent when the kill comes
    tracker = begin(run_dir, project, attempt=2, step=3)
    tracker.event("resume", step=3, update=3, n_tokens=30, path="step-00000003")
    train(tracker, range(4, 7), **{"train/loss": 7.0})
    values = {"valid/loss": 1 / 3, "valid/ppl": float("nan")}
    tracker.log("valid", step=6, update=6, n_tokens=60, values=values)
    tracker.begin_attempt(3, step=5)
    tracker.event("rollback", step=5, update=5, n_tokens=50, path="step-00000005")
    train(tracker, range(6, 10))
    values["valid/loss"] = 2 / 3
    tracker.log("valid", step=6, update=6, n_tokens=60, values=values)
    sample(tracker, 8)
    tracker.close(Exit.DONE)
    fragments.import_inbox_dir()  # as `trackio show` does
    assert_as_recorded(run_dir, project)
    assert [row["event/resume"] for row in rows(project) if "event/resume" in row] == [
        "training goes on from step 3, checkpoint step-00000003"
    ]
    assert [row["step"] for row in rows(project) if "event/rollback" in row] == [5]
    assert "rackio" not in capsys.readouterr().out


def test_two_run_directories_of_one_name_are_two_runs(tmp_path, project):
    for parent, steps in (("a", range(1, 4)), ("b", range(1, 3)), ("b", range(1, 6))):
        (tmp_path / parent).mkdir(exist_ok=True)
        tracker = begin(tmp_path / parent / "run", project)
        train(tracker, steps)
        tracker.close(Exit.DONE)
    n_steps = {
        run.id: len({row["step"] for row in rows(project, run.id)}) for run in runs_of(project)
    }
    assert sorted(n_steps.values()) == [3, 5]


def test_evaluations_reach_the_run_once_whoever_was_there(tmp_path, project):
    tracker = begin(tmp_path, project)
    train(tracker, range(1, 3))
    file_result(tmp_path, result(mem_len=64, loss=2.0))
    tracker.close(Exit.DONE)
    recipe = load_recipe("quickstart").model_dump()
    recipe["tracking"] |= {"wandb": "disabled", "trackio": True, "project": project}
    (tmp_path / "config.json").write_text(json.dumps(recipe))
    file_result(tmp_path, result(mem_len=0, loss=3.0))
    for _ in range(2):
        track_evaluations(tmp_path, environ=os.environ)
    of = "eval/test-books-cccccccc/tgt32-mem{}-clamp0-full-exact-fp32/loss"
    assert [row["step"] for row in rows(project)] == [1, 2, 7, 7]
    assert sorted(
        row[key] for row in rows(project) for key in map(of.format, (0, 64)) if key in row
    ) == [2.0, 3.0]
    (run,) = runs_of(project)
    assert run.config["model"] == {"n_layer": 4}


def test_a_trackio_that_breaks_ends_no_run(tmp_path, project, monkeypatch, caplog):
    import trackio

    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("no place for its data")

    monkeypatch.setattr(trackio, "init", broken)
    tracker = begin(tmp_path, project)
    train(tracker, range(1, 3))
    tracker.close(Exit.DONE)
    assert caplog.text.count("going on without trackio: no place for its data") == 1
    assert len(read_metrics(tmp_path, kind="train")) == 2


def test_a_run_is_not_sent_to_where_nothing_can_be_taken_back(tmp_path, project, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/mine")
    with pytest.raises(
        InputError, match=f"TRACKIO_SPACE_ID is set.*trackio sync --project {project}"
    ):
        begin(tmp_path, project)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_trackio_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InputError, match=r"pip install 'trackio>=.*', or set it to false"):
        begin(tmp_path, "txl")
    assert list(tmp_path.iterdir()) == []


def result(*, mem_len: int, loss: float) -> EvalResult:
    return EvalResult(
        corpus="books",
        corpus_hash="c" * 32,
        split="test",
        precision="fp32",
        rule="every token",
        settings=Lengths(tgt_len=32, mem_len=mem_len, warm="exact"),
        loss=loss,
        step=7,
    )
