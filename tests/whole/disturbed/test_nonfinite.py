"""A loss that is not finite costs a step and one stream's memory; k in a row cost a rollback."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from builders import CPU, random_documents, streams_of, write_corpus
from saved_checkpoints import memory_by_stream
from training import (
    Case,
    begun_from,
    checkpoint_hashes,
    ds_file_like,
    events,
    losses,
    run_cases,
)

from trainer import read_metrics
from trainer.checkpoint.contents.tensors import read_weights
from trainer.checkpoint.folder import directory
from trainer.checkpoint.rollback import ROLLBACK_FILE
from trainer.config.recipe import experiment_from
from trainer.data.corpus import open_corpus
from trainer.errors import Exit
from trainer.inference.loading import corpus_of
from trainer.model.build import build_model
from trainer.track.run_files.status import read_status

VOCABULARY, STREAMS, TGT_LEN, N_SEGMENTS = 60, 8, 12, 40
POISON = VOCABULARY - 1
#: Slot i of rank r reads streams 4i + 2r and 4i + 2r + 1 where there are two ranks.
COMMON = [
    "--model.cutoffs",
    "20",
    "40",
    "--train.train-batch-size",
    str(STREAMS),
    "--train.tgt-len",
    str(TGT_LEN),
    "--train.max-steps",
    "10",
    "--limits.nonfinite-steps",
    "3",
    "--optim.lr",
    "3e-3",
    "--model.dropout",
    "0.2",
]
POISONED = ["--model.factory", "poisoned_model:build"]
EVERY_STEP = ["--checkpoint.interval-steps", "1", "--checkpoint.keep-last", "99"]
LONGER = [
    "--checkpoint.interval-steps",
    "8",
    "--train.max-steps",
    "20",
    "--model.dropout",
    "0",
    "--checkpoint.keep-last",
    "9",
]
KINDS = (
    "zero0_fp32",
    "zero0_fp16_autocast",
    "zero1_bf16",
    "zero1_fp16",
    "zero2_fp32",
    "zero3_bf16",
)
OVERFLOWING = ("zero0_fp16_autocast", "zero1_fp16")
BAD_STEP, BAD_STREAM = 7, 6


def micro_of(n_ranks: int) -> list[str]:
    """Return flags that make two slots of the streams."""
    return ["--train.train-micro-batch-size-per-gpu", str(STREAMS // 2 // n_ranks)]


def write_text(folder: Path, poisoned: Mapping[int, Sequence[int]]) -> Path:
    """Write a corpus whose stream s reads the poison in each step of `poisoned[s]`, from 1 on."""
    n_pairs = STREAMS * N_SEGMENTS * TGT_LEN
    (ids,) = random_documents(n_pairs + 1, vocabulary_size=POISON)
    for stream, steps in poisoned.items():
        for step in steps:
            ids[stream * N_SEGMENTS * TGT_LEN + (step - 1) * TGT_LEN + TGT_LEN // 2] = POISON
    return write_corpus(folder, vocabulary_size=VOCABULARY, train=[ids]).path


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the run directories by name, and the rank that reads a stream."""
    folder, n_ranks = tmp_path_factory.mktemp("nonfinite"), request.param
    texts = {
        "clean": write_text(folder / "text clean", {}),
        "once": write_text(folder / "text once", {BAD_STREAM: [BAD_STEP]}),
        "scattered": write_text(folder / "text scattered", {1: [3, 4, 6], 2: [7, 9]}),
        "block": write_text(folder / "text block", {1: [11], 6: [12, 13], 7: [13]}),
        "blocks": write_text(folder / "text blocks", {1: [11, 12], 3: [13, 21, 22], 6: [23]}),
        "start": write_text(folder / "text start", {5: [3, 4, 5]}),
    }
    micro = micro_of(n_ranks)
    cases: dict[str, Case] = {}

    def add(name: str, text: str, kind: str, flags: list[str], ends: Exit = Exit.DONE) -> None:
        cases[name] = Case(
            folder / name, kind, [*COMMON, *micro, *flags], corpus=texts[text], ends=ends
        )

    for kind in KINDS:
        add(kind, "once", kind, [*POISONED, *EVERY_STEP])
        add(f"{kind} unharmed", "once", kind, EVERY_STEP)
    longer = [*POISONED, *LONGER]
    add("scattered", "scattered", "zero0_fp32", longer)
    for kind in ("zero0_fp32", "zero1_bf16", "zero3_fp32"):
        add(f"{kind} rolled back", "block", kind, longer)
    add("given up", "blocks", "zero2_fp32", longer, Exit.NONFINITE)
    add("nowhere to go", "start", "zero1_bf16", longer, Exit.NONFINITE)
    strict = ["--limits.nonfinite-steps", "1", *EVERY_STEP]
    for kind in OVERFLOWING:
        scale = {"initial_scale_power": 30, "hysteresis": 1}
        file = ds_file_like(kind, folder / f"{kind}.json", fp16=scale)
        add(f"{kind} overflowing", "clean", file, strict)
    run_cases(list(cases.values()), corpus=texts["clean"], n_ranks=n_ranks)

    def ranks_of(*streams: int) -> list[int]:
        return sorted({stream % 4 // 2 if n_ranks == 2 else 0 for stream in streams})

    return {name: case.run_dir for name, case in cases.items()}, ranks_of


def memory_at(run_dir: Path, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return hidden states and valid lengths of all streams after `step`."""
    memory = memory_by_stream(run_dir / "checkpoints" / f"step-{step:08d}")
    layers = [saved for name, saved in memory.items() if name.startswith("memory.layers.")]
    return torch.stack(layers), memory["memory.valid_B"]


def weights_and_moments(run_dir: Path, step: int) -> dict[str, str]:
    """Return hashes of their files."""
    hashes = checkpoint_hashes(run_dir, step)
    return {name: h for name, h in hashes.items() if not name.startswith("memory")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_skipped_and_weights_and_moments_stay(runs: Any, kind: str) -> None:
    run_dir = runs[0][kind]
    assert [event["step"] for event in events(run_dir, "skip")] == [BAD_STEP]
    before, after, later = (
        weights_and_moments(run_dir, step) for step in (BAD_STEP - 1, BAD_STEP, BAD_STEP + 1)
    )
    assert before == after
    assert not set(after.items()) & set(later.items())


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_step_makes_up_for_the_one_that_was_skipped(runs: Any, kind: str) -> None:
    records = read_metrics(runs[0][kind], kind="train")
    assert [record["step"] for record in records] == list(range(1, 12))
    assert records[-1]["update"] == 10
    told = {record["step"]: record["train/loss"] for record in records}
    assert [step for step, loss in told.items() if loss is None] == [BAD_STEP]
    assert all(math.isfinite(loss) for loss in told.values() if loss is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_row_concerned_is_forgotten(runs: Any, kind: str) -> None:
    hidden, valid = memory_at(runs[0][kind], BAD_STEP)
    expected, expected_valid = memory_at(runs[0][f"{kind} unharmed"], BAD_STEP)
    others = [stream for stream in range(STREAMS) if stream != BAD_STREAM]
    assert torch.equal(hidden[:, others], expected[:, others])
    assert torch.equal(valid[others], expected_valid[others])
    assert int(expected_valid[BAD_STREAM]) > 0
    assert int(valid[BAD_STREAM]) == 0
    assert not hidden[:, BAD_STREAM].any()


@pytest.mark.parametrize("kind", KINDS)
def test_step_ranks_and_streams_are_recorded(runs: Any, kind: str) -> None:
    run_dirs, ranks_of = runs
    (event,) = events(run_dirs[kind], "nonfinite")
    assert event["bad_step"] == BAD_STEP
    assert event["streams"] == [BAD_STREAM]
    assert event["ranks"] == ranks_of(BAD_STREAM)
    assert events(run_dirs[kind], "rollback") == []


def test_fewer_than_k_in_a_row_never_roll_back(runs: Any) -> None:
    run_dir = runs[0]["scattered"]
    assert [event["bad_step"] for event in events(run_dir, "nonfinite")] == [3, 4, 6, 7, 9]
    assert [event["in_a_row"] for event in events(run_dir, "nonfinite")] == [1, 2, 1, 2, 1]
    assert events(run_dir, "rollback") == []
    assert losses(run_dir).keys() == set(range(1, 26))


@pytest.mark.parametrize("kind", ["zero0_fp32", "zero1_bf16", "zero3_fp32"])
def test_k_in_a_row_roll_back_to_the_checkpoint_and_past_the_text(runs: Any, kind: str) -> None:
    run_dirs, ranks_of = runs
    run_dir = run_dirs[f"{kind} rolled back"]
    (event,) = events(run_dir, "rollback")
    assert event["path"] == "step-00000008"
    assert event["step"] == 8
    assert event["data_step"] >= 13
    assert event["streams"] == [6, 7]
    assert event["ranks"] == ranks_of(6, 7)
    found = losses(run_dir)
    assert list(found) == list(range(1, 21))
    assert all(loss is not None for loss in found.values())
    state = json.loads((run_dir / "checkpoints/step-00000020/state.json").read_text())["train"]
    assert state["data_step"] == event["data_step"] + 20 - 8
    assert state["rolled_back"]
    assert state["attempt"] == 2


def test_the_rollback_goes_on_with_the_checkpoint_s_weights_and_an_empty_memory(runs: Any) -> None:
    run_dir = runs[0]["zero0_fp32 rolled back"]
    (event,) = events(run_dir, "rollback")
    state = json.loads((run_dir / "checkpoints/step-00000008/state.json").read_text())
    experiment = experiment_from(state["experiment"], where="state.json")
    split = open_corpus(corpus_of(run_dir)).splits["train"]
    streams = streams_of(
        split=split,
        train_batch_size=STREAMS,
        tgt_len=TGT_LEN,
        slots=1,
        rank=0,
        world_size=1,
        cutoffs=experiment.model.cutoffs,
    )
    model = build_model(experiment.model, vocabulary_size=VOCABULARY, seed=0)
    model.load_state_dict(read_weights(run_dir / "checkpoints/step-00000008"), strict=False)
    memory = cast(Any, model).empty_memory(
        STREAMS, mem_len=experiment.train.mem_len, dtype=torch.float32, device=CPU
    )
    with torch.no_grad():
        segment = streams.segment(event["data_step"], 0)
        loss = model(segment, memory).loss_sum / segment.n_tokens
    assert losses(run_dir)[9] == pytest.approx(float(loss), rel=1e-5)


def test_a_kill_right_after_a_rollback_changes_nothing(runs: Any, tmp_path: Path) -> None:
    run_dir, killed = runs[0]["zero0_fp32 rolled back"], tmp_path / "killed"
    begun_from(run_dir, 8, killed)  # that, and the record, is what a kill leaves
    shutil.copy(directory(run_dir) / ROLLBACK_FILE, directory(killed))
    n_ranks = 1 + max(runs[1](*range(STREAMS)))
    settings = json.loads((run_dir / "config.json").read_text())
    flags = [*COMMON, *micro_of(n_ranks), *POISONED, *LONGER]
    run_cases(
        [Case(killed, "zero0_fp32", flags, corpus=corpus_of(run_dir))],
        corpus=corpus_of(run_dir),
        n_ranks=n_ranks,
    )
    assert json.loads((killed / "config.json").read_text()) == settings
    (event,) = events(killed, "resume")
    (rollback,) = events(run_dir, "rollback")
    assert (event["step"], event["data_step"]) == (8, rollback["data_step"])
    assert losses(killed) == {s: loss for s, loss in losses(run_dir).items() if s > 8}
    assert checkpoint_hashes(killed, 20) == checkpoint_hashes(run_dir, 20)


def test_a_second_time_ends_the_run_and_says_where(runs: Any) -> None:
    run_dirs, ranks_of = runs
    run_dir = run_dirs["given up"]
    assert len(events(run_dir, "rollback")) == 1
    (rollback,) = events(run_dir, "rollback")
    last = rollback["step"] + 23 - rollback["data_step"]
    status = read_status(run_dir)
    assert status is not None
    assert (status.state, status.exit_code) == ("failed", Exit.NONFINITE)
    assert status.reason is not None
    told = f"3 steps up to step {last}, on rank {ranks_of(6)[0]}, stream 6, after a rollback"
    assert told in status.reason
    assert events(run_dir, "stop")[-1]["reason"] == status.reason


def test_without_a_checkpoint_there_is_no_rollback(runs: Any) -> None:
    run_dirs, ranks_of = runs
    status = read_status(run_dirs["nowhere to go"])
    assert status is not None
    assert status.state == "failed"
    assert f"rank {ranks_of(5)[0]}, stream 5, and there is no whole checkpoint of before" in str(
        status.reason
    )
    assert events(run_dirs["nowhere to go"], "rollback") == []


@pytest.mark.parametrize("kind", OVERFLOWING)
def test_an_overflow_of_gradients_is_no_fault_and_changes_no_weight(runs: Any, kind: str) -> None:
    run_dir = runs[0][f"{kind} overflowing"]
    skipped = [event["step"] for event in events(run_dir, "skip")]
    assert len(skipped) > 3
    assert events(run_dir, "nonfinite") == []
    hashes = {step: weights_and_moments(run_dir, step) for step in losses(run_dir)}
    for step in list(hashes)[1:]:
        assert (hashes[step] == hashes[step - 1]) == (step in skipped)
    assert all(np.isfinite(loss) for loss in losses(run_dir).values())
