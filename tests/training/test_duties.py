"""Between its steps a run validates, samples and saves; nothing of that is lost by a stop."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import random_documents, write_corpus
from saved_checkpoints import contents
from training import ROOT, Case, checkpoint_hashes, events, losses, run_cases, unmeasured

from trainer import read_metrics
from trainer.checkpoint.folder import directory, resolve
from trainer.checkpoint.pointers import name_of
from trainer.errors import Exit
from trainer.track.run_files.status import read_status

FLAGS = ["--train.max-steps", "20", "--checkpoint.interval-steps", "5"]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return directories of runs by name."""
    folder = tmp_path_factory.mktemp("duties")
    ids = random_documents(4000, vocabulary_size=599)
    poisoned = write_corpus(
        folder / "poisoned text", vocabulary_size=600, train=ids, valid=[[*ids[0][:50], 599, 1]]
    ).path
    # Chance cannot be learned: what is learned of one text makes another only less likely.
    chance = write_corpus(
        folder / "chance",
        vocabulary_size=600,
        train=[ids[0][:300]],
        valid=random_documents(400, vocabulary_size=600, seed=1),
    ).path
    impatient = ["--valid.interval-steps", "2", "--optim.lr", "0.01", "--optim.warmup-steps", "0"]
    validated = ["--valid.interval-steps", "10", "--valid.tgt-len", "4", "--valid.batch-size", "1"]
    stopping = ["--model.factory", "stopping_model:build"]
    poisoning = ["--model.factory", "poisoned_model:build", "--valid.interval-steps", "5"]

    def case(name: str, *flags: str, **changes: Any) -> Case:
        return Case(folder / name, flags=[*FLAGS, *flags], **changes)

    cases = {
        "impatient": case("impatient", *impatient, "--valid.patience", "2", corpus=chance),
        "more patient": case("impatient", *impatient, "--valid.patience", "4", corpus=chance),
        "undisturbed": case("undisturbed", *validated),
        "stopped": case("stopped", *validated, *stopping, ends=Exit.REQUEUE),
        "resumed": case("stopped", *validated, *stopping),
        "poisoned": case("poisoned", *poisoning, corpus=poisoned),
        "short": case("short"),
    }
    run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    return {name: case.run_dir for name, case in cases.items()}


def test_patience_ends_a_run_and_more_of_it_lets_it_go_on(runs: dict[str, Path]) -> None:
    run_dir = runs["impatient"]
    stops = [event["step"] for event in events(run_dir, "stop")]
    validated = {r["step"]: r["valid/loss"] for r in read_metrics(run_dir, kind="valid")}
    best = min(validated, key=lambda step: validated[step])
    assert stops == [best + 4, best + 8]
    assert max(validated) == stops[-1] < 20
    assert resolve(run_dir, "best").name == name_of(best)
    status = read_status(run_dir)
    assert status is not None
    assert status.state == "done"


def test_an_interrupted_validation_is_made_up_for(runs: dict[str, Path]) -> None:
    run_dir, undisturbed = runs["stopped"], runs["undisturbed"]
    assert [event["step"] for event in events(run_dir, "stop")] == [10, 20]
    for kind in ("train", "valid"):
        for metric in (f"{kind}/loss", "step", "update", "tokens"):
            found, expected = (
                [record[metric] for record in read_metrics(folder, kind=kind)]
                for folder in (run_dir, undisturbed)
            )
            assert found == expected, (kind, metric)
    best = [resolve(folder, "best").name for folder in (run_dir, undisturbed)]
    assert best[0] == best[1]


def test_a_validation_that_is_not_finite_is_never_the_best(runs: dict[str, Path]) -> None:
    run_dir = runs["poisoned"]
    validated = [record["valid/loss"] for record in read_metrics(run_dir, kind="valid")]
    assert validated == [None] * 4
    state = directory(run_dir) / name_of(20) / "state.json"
    assert json.loads(state.read_text())["train"]["best_loss"] is None
    assert not (directory(run_dir) / "best").exists()


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(
    runs: dict[str, Path], corpus: Path
) -> None:
    run_dir = runs["short"]
    longer = [*FLAGS, "--train.max-steps", "30", "--allow-change", "train.max_steps"]
    before = contents(directory(run_dir))
    largest_bytes = 100_000  # enough for the records
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "launch" / "train.py"),
            *Case(run_dir, flags=longer).argv(corpus),
        ],
        env=unmeasured(),  # coverage would write a file of its own, and fail
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes,) * 2),
    )
    assert done.returncode == Exit.UNSAVED, done.stderr
    assert "Traceback" not in done.stderr
    assert [event["step"] for event in events(run_dir, "checkpoint_failed")] == [25, 30]
    assert list(losses(run_dir)) == list(range(1, 31))
    assert contents(directory(run_dir)) == before
    status = read_status(run_dir)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", Exit.UNSAVED)
    assert "step-00000030 was not written" in str(status.reason)
    assert str(status.reason).endswith("the newest is step-00000020")


def test_samples_are_the_same_at_every_stage_on_two_ranks(corpus: Path, tmp_path: Path) -> None:
    zero3 = json.loads((ROOT / "ds_configs" / "zero3_fp32.json").read_text())
    zero3["zero_optimization"]["stage3_param_persistence_threshold"] = 10
    (tmp_path / "zero3.json").write_text(json.dumps(zero3))
    flags = [
        "--train.max-steps",
        "6",
        "--sample.interval-steps",
        "3",
        "--sample.n-tokens",
        "8",
        "--model.dropout",
        "0",
    ]
    cases = [
        Case(tmp_path / "whole", "zero0_fp32", flags),
        Case(tmp_path / "shared out", str(tmp_path / "zero3.json"), flags),
    ]
    run_cases(cases, corpus=corpus, n_ranks=2)
    whole, shared_out = (read_metrics(case.run_dir, kind="sample") for case in cases)
    assert [record["step"] for record in whole] == [3, 6]
    texts = [record["sample/text"] for record in whole]
    assert [record["sample/text"] for record in shared_out] == texts
    assert texts[0] != texts[1]


def test_losses_with_samples_and_without_are_bitwise_equal(corpus: Path, tmp_path: Path) -> None:
    flags = ["--train.max-steps", "12", "--model.dropout", "0.2", "--valid.interval-steps", "4"]
    samples = ["--sample.interval-steps", "3", "--sample.n-tokens", "8"]
    cases = [Case(tmp_path / "off", flags=flags), Case(tmp_path / "on", flags=[*flags, *samples])]
    run_cases(cases, corpus=corpus, n_ranks=1)
    n_samples = [len(read_metrics(case.run_dir, kind="sample")) for case in cases]
    assert n_samples == [0, 4]
    off, on = (
        [
            (record["step"], record[f"{kind}/loss"])
            for kind in ("train", "valid")
            for record in read_metrics(case.run_dir, kind=kind)
        ]
        for case in cases
    )
    assert off == on
    assert checkpoint_hashes(cases[0].run_dir, 12) == checkpoint_hashes(cases[1].run_dir, 12)


def test_tensorboard_shows_what_is_recorded(trained: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulators.EventAccumulator(str(trained / "logs" / "tensorboard"))
    board.Reload()
    for kind in ("train", "valid"):
        shown = {event.step: event.value for event in board.Scalars(f"{kind}/loss")}
        recorded = {r["step"]: r[f"{kind}/loss"] for r in read_metrics(trained, kind=kind)}
        assert shown == pytest.approx(recorded, rel=1e-6)
    (sampled,) = (tag for tag in board.Tags()["tensors"] if tag.startswith("sample/text"))
    assert [event.step for event in board.Tensors(sampled)] == [3, 6]
