"""A step of several segments: one update, whose gradient runs through all of them."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import write_corpus
from training import (
    Case,
    begun_from,
    checkpoint_hashes,
    environment,
    events,
    losses,
    overflowing,
    run_cases,
)

from trainer import read_metrics
from trainer.data.corpus import open_corpus
from trainer.errors import Exit

TGT_LEN, K, N_STEPS = 12, 4, 18
STAGES = ("zero0_fp32", "zero1_fp32", "zero2_fp32", "zero3_fp32")
SEVERAL = ["--train.bptt-segments", str(K)]
COMMON = ["--data.epoch-order", "roll", "--data.memory-reset", "document", "--model.dropout", "0"]
EXACT = [*COMMON, *SEVERAL, "--train.max-steps", str(N_STEPS)]
#: Weights that stay as they are.
STILL = ["--optim.lr", "1e-30", "--optim.warmup-steps", "0"]
LINEAR = ["--model.factory", "linear_attention_model:build"]
SAVING = [
    *SEVERAL,
    "--train.max-steps",
    "8",
    "--checkpoint.interval-steps",
    "4",
    "--checkpoint.keep-last",
    "9",
    "--train.train-micro-batch-size-per-gpu",
    "2",
    "--model.dropout",
    "0.2",
]
#: What is resumed: DeepSpeed file, ranks, flags.
RESUMED: dict[str, tuple[str, int, list[str]]] = {
    "stage 0": ("zero0_fp32", 1, []),
    "stage 1 in fp16": ("zero1_fp16", 1, []),
    "stage 2, two ranks": ("zero2_bf16", 2, []),
    "stage 3, two ranks": ("zero3_bf16", 2, []),
    "autocast": ("zero0_bf16_autocast", 1, ["--model.activation-checkpointing", "True"]),
    "matrices": ("zero0_bf16_autocast", 1, LINEAR),
    "matrices at stage 3": ("zero3_fp32", 2, LINEAR),
}


def segments_per_epoch(corpus: Path) -> int:
    """Return the number of segments of the longest of 8 streams."""
    n_pairs = open_corpus(corpus).splits["train"].n_tokens - 1
    return math.ceil(math.ceil(n_pairs / 8) / TGT_LEN)


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    """Return runs by (stage, ranks, slots), of 8 streams each, and some others by name."""
    folder, found = tmp_path_factory.mktemp("bptt"), {}
    for n_ranks, slots in ((1, 1), (1, 4), (2, 2)):
        micro = ["--train.train-micro-batch-size-per-gpu", str(8 // n_ranks // slots)]
        cases: dict[Any, Case] = {
            (stage, n_ranks, slots): Case(
                folder / f"{stage}-{n_ranks}-{slots}", stage, EXACT + micro
            )
            for stage in STAGES
        }
        if n_ranks == slots == 1:
            again = ["--model.activation-checkpointing", "True"]
            one_by_one = ["--train.max-steps", str(N_STEPS * K)]
            cases |= {
                "computed again": Case(folder / "again", "zero0_fp32", EXACT + again),
                "still": Case(folder / "still", "zero0_fp32", EXACT + STILL),
                "one by one": Case(folder / "one", "zero0_fp32", COMMON + STILL + one_by_one),
                "k = 1": Case(folder / "k1", "zero0_fp32", [*EXACT, "--train.bptt-segments", "1"]),
            }
        run_cases(list(cases.values()), corpus=corpus, n_ranks=n_ranks)
        found |= {key: case.run_dir for key, case in cases.items()}
    return found


def nats(run_dir: Path) -> list[tuple[int, float]]:
    """Return the tokens read so far and the nats of each record."""
    told, before = [], 0
    for record in read_metrics(run_dir, kind="train"):
        told.append((record["tokens"], record["train/loss"] * (record["tokens"] - before)))
        before = record["tokens"]
    return told


def test_its_nats_are_those_of_its_segments_read_one_by_one(
    runs: dict[Any, Path], corpus: Path
) -> None:
    """Over the end of an epoch, whose last step has fewer segments."""
    n = segments_per_epoch(corpus)
    assert n % K
    assert -(-n // K) < N_STEPS
    alone, segment = nats(runs["one by one"]), 0
    for step, (tokens, found) in enumerate(nats(runs["still"])):
        n_here = min(K, n - segment % n)
        of_step = alone[segment : segment + n_here]
        segment += n_here
        assert tokens == of_step[-1][0], step
        assert found == pytest.approx(sum(x for _, x in of_step), rel=1e-5)


def test_losses_do_not_depend_on_stage_ranks_and_slots(runs: dict[Any, Path]) -> None:
    reference = losses(runs["zero0_fp32", 1, 1])
    assert len(reference) == N_STEPS
    for key, run_dir in runs.items():
        if isinstance(key, tuple):
            assert losses(run_dir) == pytest.approx(reference, rel=1e-5), key
    assert losses(runs["computed again"]) == pytest.approx(reference, rel=1e-5)


def test_the_gradient_norms_agree_and_are_not_those_of_single_segments(
    runs: dict[Any, Path],
) -> None:
    def norms(key: Any) -> list[float]:
        return [r["optim/grad_norm"] for r in read_metrics(runs[key], kind="train")]

    reference = norms(("zero0_fp32", 1, 1))
    for key in runs:
        if isinstance(key, tuple):
            assert norms(key) == pytest.approx(reference, rel=1e-3), key
    assert norms("k = 1") != pytest.approx(reference, rel=1e-2)


@pytest.fixture(scope="module")
def pairs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Return of each of `RESUMED` the run in one go, and the one resumed from its step 4."""
    folder, found = tmp_path_factory.mktemp("resumed"), {}
    for n_ranks in (1, 2):
        whole, resumed = (
            {
                name: Case(folder / f"{name} {which}", overflowing(kind, folder), SAVING + flags)
                for name, (kind, n, flags) in RESUMED.items()
                if n == n_ranks
            }
            for which in ("whole", "resumed")
        )
        run_cases(list(whole.values()), corpus=corpus, n_ranks=n_ranks)
        for name, case in whole.items():
            begun_from(case.run_dir, 4, resumed[name].run_dir)
            found[name] = (case.run_dir, resumed[name].run_dir)
        run_cases(list(resumed.values()), corpus=corpus, n_ranks=n_ranks)
    return found


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_run_bit_by_bit(
    pairs: dict[str, tuple[Path, Path]], name: str
) -> None:
    whole, resumed = pairs[name]
    assert losses(resumed) == {step: x for step, x in losses(whole).items() if step > 4}
    assert checkpoint_hashes(resumed, 8) == checkpoint_hashes(whole, 8)


def test_ranks_and_slots_may_change_between_steps(corpus: Path, tmp_path: Path) -> None:
    flags = [*SAVING, "--model.dropout", "0"]
    one = Case(tmp_path / "one", "zero1_fp32", flags)
    run_cases([one], corpus=corpus, n_ranks=1)
    two = Case(begun_from(one.run_dir, 4, tmp_path / "two"), "zero3_fp32", flags)
    run_cases([two], corpus=corpus, n_ranks=2)
    after = {step: x for step, x in losses(one.run_dir).items() if step > 4}
    assert losses(two.run_dir) == pytest.approx(after, rel=1e-5)


def test_nothing_is_carried_inside_a_step_if_nothing_is_carried_at_all(
    corpus: Path, tmp_path: Path
) -> None:
    flags = [*SEVERAL, "--train.max-steps", "6", "--model.dropout", "0"]
    reset = Case(tmp_path / "reset", flags=[*flags, "--data.memory-reset", "segment"])
    without = Case(tmp_path / "without", flags=[*flags, "--train.mem-len", "0"])
    run_cases([reset, without], corpus=corpus, n_ranks=1)
    assert losses(reset.run_dir) == pytest.approx(losses(without.run_dir), rel=1e-5)


def test_a_stream_whose_loss_is_not_finite_costs_its_step_and_its_own_memory(
    tmp_path: Path,
) -> None:
    """Streams 2 and 5 read the poison in the third segment of step 2 and the first of step 3."""
    ids = np.random.default_rng(0).integers(0, 59, 8 * 6 * K * TGT_LEN + 1)
    for stream, segment in ((2, K + 2), (5, 2 * K)):
        ids[(stream * 6 * K + segment) * TGT_LEN + 5] = 59
    corpus = write_corpus(tmp_path / "corpus", vocabulary_size=60, train=[ids]).path
    flags = ["--model.factory", "poisoned_model:build", *SEVERAL, "--train.max-steps", "5"]
    case = Case(tmp_path / "run", flags=[*flags, "--model.cutoffs"])
    run_cases([case], corpus=corpus, n_ranks=1)
    assert [record["step"] for record in events(case.run_dir, "skip")] == [2, 3]
    bad = [(e["bad_step"], e["streams"]) for e in events(case.run_dir, "nonfinite")]
    assert bad == [(2, [2]), (3, [5])]
    found = losses(case.run_dir)
    assert [step for step, loss in found.items() if loss is None] == [2, 3]


def test_a_replay_has_the_recorded_loss_to_the_last_bit_and_shows_the_step_s_text(
    pairs: dict[str, tuple[Path, Path]],
) -> None:
    run_dir = str(pairs["stage 0"][0])
    words = ["inspect", run_dir, "--step", "7", "--replay", "--json", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", *words],
        env=environment(),
        text=True,
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["replayed"]["is_as_recorded"]
    assert found["replayed"]["begun_from"] == "step-00000004"
    assert {stream["n_tokens"] for stream in found["streams"]} == {K * TGT_LEN}
    assert {"layers.0"} < set(found["replayed"]["grad_norms"])


REFUSED: dict[str, tuple[list[str], str]] = {
    "captured": (["--train.cuda-graph", "on"], "use --train.cuda-graph auto"),
    "detaching": (
        ["--model.factory", "linear_attention_model:build_detaching"],
        "with attached=True is detached, so no gradient goes",
    ),
    "another k": (["--train.bptt-segments", "3"], "train.bptt_segments 4, not 3"),
}


def test_what_cannot_be_is_refused_in_one_line(
    pairs: dict[str, tuple[Path, Path]], corpus: Path, tmp_path: Path
) -> None:
    begun_from(pairs["stage 0"][0], 4, tmp_path / "another k")
    cases = [
        Case(tmp_path / name, flags=[*SAVING, *flags], ends=Exit.BAD_INPUT)
        for name, (flags, _) in REFUSED.items()
    ]
    told = run_cases(cases, corpus=corpus, n_ranks=1)
    for line, (_, said) in zip(told, REFUSED.values(), strict=True):
        assert said in line
