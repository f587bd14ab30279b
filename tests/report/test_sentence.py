"""The first sentence of a report says what was reached, after how much, and how the run stands."""

from pathlib import Path

import pytest
from reported_runs import LENGTHS, NOW, OF, make_imported, make_run, read, write_valid

from trainer.report.sentence import device_time, sentence, sentence_of_all, token_count
from trainer.track.record.metrics import MetricsWriter
from trainer.track.run_files.status import RunState, Status, write_status

HOSTS = {"hosts": ["a", "a", "b", "b"]}


def said(run_dir: Path) -> str:
    (run,) = read([run_dir])
    return sentence(run, environment={})


def test_a_finished_run_is_told_with_its_figures_and_its_work(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, attempt=1)
    values = {"valid/loss": 2.0, "valid/bpc": 1.25, "of": OF}
    writer.write("valid", step=9, update=9, n_tokens=12_345, values=values)
    writer.close()
    write_status(tmp_path, Status(state="done", step=9, update=9, max_steps=9, attempt=1))
    assert said(tmp_path) == (
        f"{tmp_path.name} reached 7.39 ppl (1.2500 bpc) on valid of wt103 after 9 steps "
        "(12,345 tokens); it is finished."
    )


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [
        ("running", None, "it is running and ends in about 1m30s."),
        ("requeue", "SIGTERM", "it was interrupted and waits to be run again: SIGTERM."),
        ("stopped", "Ctrl-C", "it was stopped by its user: Ctrl-C."),
        ("failed", "RuntimeError: x", "it failed: RuntimeError: x."),
    ],
)
def test_how_a_run_stands_is_told(
    tmp_path: Path, state: RunState, reason: str | None, told: str
) -> None:
    make_run(tmp_path / "run")
    status = Status(
        state=state, step=61, update=59, max_steps=99, attempt=2, eta_s=90, heartbeat=NOW,
        reason=reason,
    )  # fmt: skip
    write_status(tmp_path / "run", status)
    whole = said(tmp_path / "run")
    assert whole.startswith("run reached 7.39 ppl on valid of wt103 at step 40 of 61 (61 tokens")
    assert whole.endswith(f"; {told}")


def test_a_run_that_has_not_validated_or_was_imported_is_told(tmp_path: Path) -> None:
    write_status(tmp_path, Status(state="stopped", step=3, update=3, max_steps=9, attempt=1))
    assert "is at step 3 of 9 without a record of its loss; it was stopped" in said(tmp_path)
    imported = said(make_imported(tmp_path / "old"))
    assert "was imported from model.pt, a checkpoint of kimiyoung" in imported
    assert "measured 9.49 ppl on test of wt103" in imported
    assert said(tmp_path / "none") == "none cannot be shown: no such folder"


def test_the_best_of_several_is_named_for_each_measure(tmp_path: Path) -> None:
    for name, loss, split in (("a", 3.0, "02"), ("b", 2.0, "02"), ("c", 1.0, "09")):
        (tmp_path / name).mkdir()
        writer = MetricsWriter(tmp_path / name, attempt=1)
        write_valid(writer, 5, loss, OF | {"split_hash": split * 16})
        writer.close()
    told = sentence_of_all(read([tmp_path / name for name in ("a", "b", "c", "none")]))
    assert told == (
        "Of 3 runs b has the lowest loss on valid of wt103 with text 020202020202, 2.0000 nats per "
        "token (7.39 ppl) at step 5, and c has the lowest loss on valid of wt103 with text "
        "090909090909, 1.0000 nats per token (2.72 ppl) at step 5; 1 folder cannot be shown."
    )
    assert "none is called the best" in sentence_of_all(read([make_imported(tmp_path / "old")]))


def test_measures_of_which_each_has_a_best_run_are_told_apart(tmp_path: Path) -> None:
    for name, mem_len in (("a", 0), ("b", 640)):
        (tmp_path / name).mkdir()
        writer = MetricsWriter(tmp_path / name, attempt=1)
        write_valid(writer, 5, 2.0, OF | {"settings": LENGTHS | {"mem_len": mem_len}})
        writer.close()
    told = sentence_of_all(read([tmp_path / "a", tmp_path / "b"]))
    assert "a has the lowest loss on valid of wt103 with mem_len 0, 2.0000 nats" in told
    assert "b has the lowest loss on valid of wt103 with mem_len 640, 2.0000 nats" in told
    assert " with " not in sentence_of_all(read([tmp_path / "a"]))


def test_work_is_time_of_all_attempts_times_ranks(tmp_path: Path) -> None:
    (run,) = read([make_run(tmp_path / "run")])
    run.history.spans.clear()
    run.history.spans.update({1: (0.0, 3600.0 * 5), 2: (90_000.0, 90_000.0 + 3600)})
    assert "(61 tokens, 24 device hours)" in sentence(run, environment=HOSTS)
    assert [device_time(s) for s in (90, 3600, 36_000 * 360)] == [
        "1.5 device minutes",
        "1.0 device hours",
        "3,600 device hours",
    ]
    assert [token_count(n) for n in (1, 614_016, 1_800_000_000)] == [
        "1 token",
        "614,016 tokens",
        "1.80e9 tokens",
    ]
