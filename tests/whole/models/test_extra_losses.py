"""Extra losses join the backward pass as nats do, and are recorded under their names alone."""

import math
from pathlib import Path

import pytest
from builders import streams_of
from training import Case, begun_from, checkpoint_hashes, events, losses, run_cases

from trainer import read_metrics
from trainer.data.corpus import open_corpus

N_STEPS = 12
FLAGS = [
    "--model.factory",
    "extra_loss_model:build",
    "--train.max-steps",
    str(N_STEPS),
    "--checkpoint.interval-steps",
    "4",
    "--checkpoint.keep-last",
    "9",
    "--valid.interval-steps",
    "6",
]
IN_SLOTS = ["--train.train-micro-batch-size-per-gpu", "2"]
#: Records whose window a checkpoint cuts.
LONG = ["--tracking.log-interval-steps", "3"]
#: What is trained, by name: its DeepSpeed file, and flags.
CASES: dict[str, tuple[str, list[str]]] = {
    "usual": ("zero0_fp32", []),
    "joined": ("zero0_fp32", ["--model.options.joined"]),
    "slots": ("zero0_fp32", [*IN_SLOTS, *LONG]),
    "captured": ("zero0_fp32", [*IN_SLOTS, *LONG, "--train.cuda-graph", "on"]),
    "whole graph": ("zero0_fp32", ["--train.cuda-graph", "on"]),
    "zero3": ("zero3_fp32", []),
}
OF_TWO = {"two ranks": ("zero0_fp32", LONG), "two ranks, zero2": ("zero2_fp32", LONG)}


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the runs of `CASES`, on one rank and on two, and some that go on from step 8."""
    folder = tmp_path_factory.mktemp("extra")
    poison = ["--model.options.poison", str(token_of(corpus))]
    all_cases = CASES | {"poisoned": ("zero0_fp32", [*poison, "--limits.nonfinite-steps", "9"])}
    cases = {name: Case(folder / name, ds, FLAGS + more) for name, (ds, more) in all_cases.items()}
    two = {name: Case(folder / name, ds, FLAGS + more) for name, (ds, more) in OF_TWO.items()}
    run_cases(list(cases.values()), corpus=corpus, n_ranks=1)
    run_cases(list(two.values()), corpus=corpus, n_ranks=2)
    again = {
        name: Case(begun_from(folder / begun, 8, folder / name), "zero0_fp32", FLAGS + more)
        for name, begun, more in [
            ("slots, resumed", "slots", [*IN_SLOTS, *LONG]),
            ("from two ranks", "two ranks", LONG),
        ]
    }
    run_cases(list(again.values()), corpus=corpus, n_ranks=1)
    return {name: case.run_dir for name, case in (cases | two | again).items()}


def steps_with(corpus: Path, token: int) -> list[int]:
    """Return the steps whose segments hold a token."""
    lengths = {"train_batch_size": 8, "tgt_len": 12, "slots": 1, "rank": 0, "world_size": 1}
    fixed = {"epoch_order": "same", "memory_reset": "epoch", "seed": 0, "cutoffs": ()}
    streams = streams_of(split=open_corpus(corpus).splits["train"], **lengths, **fixed)
    read = (streams.segment(step, 0).tokens_BT for step in range(N_STEPS))
    return [step + 1 for step, tokens_BT in enumerate(read) if (tokens_BT == token).any()]


def token_of(corpus: Path) -> int:
    """Return a token that two of the steps read."""
    return next(i for i in range(500) if len(steps_with(corpus, i)) == 2)


def extra(run_dir: Path, name: str) -> dict[int, float]:
    """Return an extra loss by step."""
    records = read_metrics(run_dir, kind="train")
    return {record["step"]: record[f"train/extra/{name}"] for record in records}


def test_they_train_as_if_they_were_part_of_the_nats(runs: dict[str, Path]) -> None:
    usual, joined = runs["usual"], runs["joined"]
    assert checkpoint_hashes(usual, N_STEPS) == checkpoint_hashes(joined, N_STEPS)
    size, share, alone = extra(usual, "size"), extra(usual, "share"), losses(usual)
    for step, whole in losses(joined).items():
        assert alone[step] + size[step] + share[step] == pytest.approx(whole, rel=1e-6)
        assert share[step] == pytest.approx(alone[step] / 2, rel=1e-6)
        assert size[step] > 0
    assert size[N_STEPS] != size[1]


def test_validations_and_perplexities_do_not_count_them(runs: dict[str, Path]) -> None:
    valid = [
        [(r["step"], r["valid/loss"], r["valid/ppl"]) for r in read_metrics(run, kind="valid")]
        for run in (runs["usual"], runs["joined"])
    ]
    assert valid[0] == valid[1]
    for record in read_metrics(runs["usual"], kind="train"):
        assert record["train/ppl"] == pytest.approx(math.exp(record["train/loss"]))


def by_window(values: dict[int, float]) -> dict[int, float]:
    """Return means of three steps, by the last of them."""
    return {step: sum(values[step - i] for i in range(3)) / 3 for step in range(3, N_STEPS + 1, 3)}


@pytest.mark.parametrize("name", ["slots", "captured", "two ranks", "two ranks, zero2"])
@pytest.mark.parametrize("loss", ["size", "share"])
def test_their_means_do_not_depend_on_how_the_batch_is_split(
    runs: dict[str, Path], name: str, loss: str
) -> None:
    expected = by_window(extra(runs["usual"], loss))
    assert extra(runs[name], loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["whole graph", "zero3"])
def test_captured_or_shared_out_they_are_the_same(runs: dict[str, Path], name: str) -> None:
    for loss in ("size", "share"):
        assert extra(runs[name], loss) == pytest.approx(extra(runs["usual"], loss), rel=1e-5)


def test_a_resumed_run_records_the_same_to_the_last_bit(runs: dict[str, Path]) -> None:
    whole, resumed = runs["slots"], runs["slots, resumed"]
    for loss in ("size", "share"):
        assert extra(resumed, loss) == {step: extra(whole, loss)[step] for step in (9, 12)}
    assert checkpoint_hashes(resumed, N_STEPS) == checkpoint_hashes(whole, N_STEPS)


def test_on_other_ranks_the_window_goes_on_with_the_sums_of_all(runs: dict[str, Path]) -> None:
    for loss in ("size", "share"):
        begun, resumed = extra(runs["two ranks"], loss), extra(runs["from two ranks"], loss)
        assert resumed == pytest.approx({step: begun[step] for step in (9, 12)}, rel=1e-5)


def test_a_step_whose_extra_loss_is_not_finite_is_skipped_as_one_whose_nats_are_not(
    runs: dict[str, Path], corpus: Path
) -> None:
    skipped = [record["step"] for record in events(runs["poisoned"], "skip")]
    assert skipped == steps_with(corpus, token_of(corpus))
    recorded = {record["step"]: record for record in read_metrics(runs["poisoned"], kind="train")}
    for step, size in extra(runs["poisoned"], "size").items():
        assert (size is None) == (step in skipped)
        assert math.isfinite(recorded[step]["train/loss"])
