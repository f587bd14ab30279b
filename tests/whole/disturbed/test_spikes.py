"""A loss far above the usual is told of and leads back past the text, the same after any stop."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import random_documents, write_corpus
from hypothesis import given
from hypothesis import strategies as st
from saved_checkpoints import contents
from training import Case, checkpoint_hashes, environment, events, losses, run_cases

from trainer.checkpoint.folder import directory
from trainer.checkpoint.hashing import fingerprints
from trainer.checkpoint.rollback import read_rollback
from trainer.errors import Exit, InputError
from trainer.report.inspect.place import place_of
from trainer.track.run_files.stream_files import filed_steps, read_losses
from trainer.training.bad_losses import spikes
from trainer.training.bad_losses.replaying import origin_of

STREAMS, TGT_LEN, N_SEGMENTS = 8, 12, 60
BAD_STREAM, BAD_STEPS, LAST = 5, (34, 35, 36), 48
FLAGS = [
    "--model.cutoffs",
    "10",
    "--model.n-layer",
    "1",
    "--model.dropout",
    "0.1",
    "--optim.lr",
    "0.02",
    "--train.max-steps",
    str(LAST),
    "--checkpoint.interval-steps",
    "8",
    "--checkpoint.keep-last",
    "9",
    "--limits.spike-window-steps",
    "12",
    "--limits.spike-mads",
    "4",
    "--limits.spike-steps",
    "2",
]
BACK = ["--limits.spike", "rollback"]


def planted(folder: Path) -> Path:
    """Write a corpus that counts to ten again and again, with noise in a stream at some steps."""
    n_pairs = STREAMS * N_SEGMENTS * TGT_LEN
    ids = np.arange(n_pairs + 1) % 10
    for step in BAD_STEPS:
        begin = (BAD_STREAM * N_SEGMENTS + step - 1) * TGT_LEN
        ids[begin : begin + TGT_LEN] = 10 + random_documents(TGT_LEN, vocabulary_size=20)[0]
    return write_corpus(folder, vocabulary_size=32, train=[ids]).path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return directories of runs by name."""
    folder = tmp_path_factory.mktemp("spikes")
    corpus = planted(folder / "corpus")
    # A stop between the step of the spike and the step that knows of it.
    stop: dict[str, Any] = {"asked": ("SIGTERM", 0, BAD_STEPS[0]), "ends": Exit.REQUEUE}
    cases = {
        "warned": Case(folder / "warned", flags=FLAGS),
        "stopped": Case(folder / "stopped", flags=FLAGS, **stop),
        "resumed": Case(folder / "stopped", flags=FLAGS),
        "back": Case(folder / "back", flags=[*FLAGS, *BACK]),
        "off": Case(folder / "off", flags=[*FLAGS, "--limits.spike", "off"]),
    }
    run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    return {name: case.run_dir for name, case in cases.items()}


def test_a_spike_is_told_of_once_with_what_is_usual(runs: dict[str, Path]) -> None:
    (event,) = events(runs["warned"], "spike")
    told = losses(runs["warned"])
    before = [told[step] for step in range(BAD_STEPS[0] - 13, BAD_STEPS[0] - 1)]
    assert event["bad_step"] == BAD_STEPS[0] - 1  # whose last target is the first of the noise
    assert event["loss"] == pytest.approx(told[event["bad_step"]], rel=1e-5)
    assert event["median"] == pytest.approx(np.median(before), rel=1e-5)
    assert event["limit"] == pytest.approx(event["median"] + spikes.LEAST_NATS, rel=1e-5)
    assert events(runs["off"], "spike") == []
    assert losses(runs["off"]) == told


def test_a_stop_before_a_spike_is_known_changes_nothing(runs: dict[str, Path]) -> None:
    undisturbed, stopped = runs["warned"], runs["stopped"]
    (expected,), (found,) = events(undisturbed, "spike"), events(stopped, "spike")
    assert [event["step"] for event in events(stopped, "resume")] == [BAD_STEPS[0]]
    assert found["attempt"] == 2
    for name in ("step", "bad_step", "loss", "median", "limit"):
        assert found[name] == expected[name], name
    assert losses(stopped) == losses(undisturbed)
    assert checkpoint_hashes(stopped, LAST) == checkpoint_hashes(undisturbed, LAST)


def test_spikes_in_a_row_lead_back_to_the_checkpoint_and_past_the_text(
    runs: dict[str, Path],
) -> None:
    run_dir = runs["back"]
    (event,) = events(run_dir, "rollback")
    assert (event["cause"], event["path"], event["bad_step"]) == ("spike", "step-00000032", 34)
    assert event["data_step"] == BAD_STEPS[-1]
    told = losses(run_dir)
    assert list(told) == list(range(1, LAST + 1))
    assert max(loss for step, loss in told.items() if step > 20) < spikes.LEAST_NATS
    record = read_rollback(directory(run_dir))
    assert record is not None
    assert (record.step, record.rolled_back, record.spiked_back_to) == (32, False, 32)


def test_the_losses_of_each_stream_are_filed_and_name_the_bad_one(runs: dict[str, Path]) -> None:
    run_dir, bad_step = runs["warned"], BAD_STEPS[0]
    assert list(filed_steps(run_dir)) == [(1, step) for step in range(1, bad_step + 2)]
    nats = read_losses(run_dir, attempt=1, step=bad_step)
    assert max(nats, key=lambda stream: nats[stream]) == BAD_STREAM
    assert sum(nats.values()) / (STREAMS * TGT_LEN) == pytest.approx(
        losses(run_dir)[bad_step], rel=1e-6
    )
    assert read_losses(run_dir, attempt=1, step=bad_step + 2) == {}


def inspected(*commands: list[str]) -> list[dict[str, Any]]:
    """Return what `txl inspect` prints as JSON for several command lines, in one process."""
    code = (
        "import sys, json; from trainer.commands.command_line import parse_command\n"
        "for words in json.load(sys.stdin): parse_command(['inspect', *words]).run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([[*words, "--json", "--device", "cpu"] for words in commands]),
        env=environment(),
        text=True,
        capture_output=True,
        check=False,
        timeout=1000,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(f"{{{part}") for part in re.split(r"^{", done.stdout, flags=re.M)[1:]]


def test_a_replay_gives_the_recorded_losses_to_the_last_bit_and_writes_nothing(
    runs: dict[str, Path],
) -> None:
    run_dir, bad_step = runs["back"], str(BAD_STEPS[0])
    before = contents(run_dir)
    words = [str(run_dir), "--replay", "--step"]
    bad, again, first = inspected(
        [*words, bad_step, "--attempt", "1"], [*words, bad_step], [*words, "3"]
    )
    assert contents(run_dir) == before
    assert [bad["attempt"], bad["data_step"]] == [1, BAD_STEPS[0] - 1]
    assert [again["attempt"], again["data_step"]] == [2, BAD_STEPS[-1] + 1]
    worst = bad["streams"][0]
    assert worst["stream"] == BAD_STREAM
    assert worst["position"] == (BAD_STREAM * N_SEGMENTS + BAD_STEPS[0] - 1) * TGT_LEN
    assert worst["loss"] > 2 * bad["streams"][1]["loss"]
    for found, begun_from in (
        (bad, "step-00000032"),
        (again, "step-00000032"),
        (first, "the beginning"),
    ):
        replayed = found["replayed"]
        assert replayed["is_as_recorded"]
        assert replayed["are_as_filed"]
        assert replayed["record_loss"] == found["recorded_loss"]
        assert replayed["begun_from"] == begun_from
        squares = sum(norm**2 for norm in replayed["grad_norms"].values())
        assert squares**0.5 == pytest.approx(replayed["grad_norm"], rel=1e-5)
        assert {"layers.0"} < set(replayed["grad_norms"])


def test_a_replay_on_other_ranks_or_without_a_checkpoint_is_refused(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run_dir = shutil.copytree(runs["back"], tmp_path / "run")
    place = place_of(run_dir, step=BAD_STEPS[0], attempt=2)
    with pytest.raises(InputError, match=r"trained on 1 rank, .* --nproc_per_node 1 "):
        origin_of(run_dir, place, n_ranks=2, hashed=fingerprints)
    assert origin_of(run_dir, place, n_ranks=1, hashed=fingerprints).rollback is not None
    shutil.rmtree(directory(run_dir) / "step-00000032")
    with pytest.raises(InputError, match="no checkpoint is left from which attempt 2 came to step"):
        origin_of(run_dir, place, n_ranks=1, hashed=fingerprints)


@given(st.lists(st.floats(0, 20), min_size=1, max_size=30), st.floats(0.1, 20))
def test_what_is_usual_is_counted_in_deviations_from_the_median(
    before: list[float], mads: float
) -> None:
    found = spikes.usual(before, mads=mads)
    middle = np.median(before)
    deviation = np.median(np.abs(np.array(before) - middle))
    assert found.median == pytest.approx(middle)
    assert found.limit == pytest.approx(middle + max(mads * deviation, spikes.LEAST_NATS))
