"""Lengths that change while a run trains: by the text, exact on any ranks and after any stop."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from builders import CPU
from saved_checkpoints import memory_by_stream
from training import Case, begun_from, checkpoint_hashes, losses, run_cases

from trainer import read_metrics
from trainer.model.memory.inputs import LayerInputs, resized

#: At step 4 segments grow in the middle of an epoch, at 6 memory shrinks, at 9 it grows.
LENGTHS = [
    *("--train.tgt-len", "12", "--train.tgt-len-schedule", "[[0, 8], [4, 12]]"),
    *("--train.mem-len", "20", "--train.mem-len-schedule", "[[0, 16], [6, 5], [9, 20]]"),
]
SEVERAL = ["--train.bptt-segments", "3", "--train.bptt-segments-schedule", "[[0, 1], [7, 3]]"]
COMMON = ["--train.max-steps", "12", "--checkpoint.interval-steps", "1"]
COMMON += ["--checkpoint.keep-last", "20", "--data.memory-reset", "document"]
EXACT = [*COMMON, "--model.dropout", "0"]
#: With clusters a captured step's products have other numbers of rows.
ONE_SOFTMAX = ["--model.cutoffs"]
DROPPED = [*COMMON, "--model.dropout", "0.2"]


def micro(streams: int) -> list[str]:
    return ["--train.train-micro-batch-size-per-gpu", str(streams)]


@pytest.fixture(scope="module")
def runs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs by what is special in them."""
    folder = tmp_path_factory.mktemp("schedules")
    one = {
        "one rank": Case(folder / "one", "zero0_fp32", [*EXACT, *LENGTHS, *SEVERAL]),
        "slots": Case(folder / "slots", "zero1_fp32", [*EXACT, *LENGTHS, *SEVERAL, *micro(2)]),
        "usual": Case(folder / "usual", "zero0_fp32", [*DROPPED, *LENGTHS, *ONE_SOFTMAX]),
        "captured": Case(
            folder / "captured",
            "zero0_fp32",
            [*DROPPED, *LENGTHS, *ONE_SOFTMAX, "--train.cuda-graph", "on"],
        ),
        "dropped": Case(folder / "dropped", "zero1_bf16", [*DROPPED, *LENGTHS, *SEVERAL]),
    }
    two = {"two ranks": Case(folder / "two", "zero2_fp32", [*EXACT, *LENGTHS, *SEVERAL, *micro(4)])}
    run_cases(list(one.values()), corpus=corpus, n_ranks=1)
    run_cases(list(two.values()), corpus=corpus, n_ranks=2)
    return {name: case.run_dir for name, case in (one | two).items()}


def tokens(run_dir: Path) -> list[int]:
    read = [0, *(record["tokens"] for record in read_metrics(run_dir, kind="train"))]
    return [after - before for before, after in pairwise(read)]


def test_steps_read_what_their_lengths_say(runs: dict[str, Path]) -> None:
    assert tokens(runs["usual"])[:6] == [64, 64, 64, 64, 96, 96]
    assert tokens(runs["one rank"])[4:9] == [96, 96, 96, 288, 288]


def test_losses_do_not_depend_on_stage_ranks_and_slots(runs: dict[str, Path]) -> None:
    reference = losses(runs["one rank"])
    assert len(reference) == 12
    for name in ("slots", "two ranks"):
        assert losses(runs[name]) == pytest.approx(reference, rel=1e-5), name


def test_a_captured_run_is_the_run_bit_by_bit(runs: dict[str, Path]) -> None:
    said = (runs["captured"] / "logs" / "rank-00000.log").read_text()
    assert said.count("is captured") == 4, "of other lengths, each once"
    assert losses(runs["captured"]) == losses(runs["usual"])
    hashes, memories = [], []
    for name in ("captured", "usual"):
        found = checkpoint_hashes(runs[name], 12)
        hashes.append({file: h for file, h in found.items() if not file.startswith("memory")})
        memories.append(memory_by_stream(runs[name] / "checkpoints" / "step-00000012"))
        del memories[-1]["memory.valid_min"]  # a bound that is known without asking
    assert hashes[0] == hashes[1]
    torch.testing.assert_close(memories[0], memories[1], rtol=0, atol=0)


@pytest.mark.parametrize("step", [3, 4, 6, 7, 8, 9])
def test_resumed_at_a_border_and_beside_it_it_is_the_run_bit_by_bit(
    runs: dict[str, Path], corpus: Path, tmp_path: Path, step: int
) -> None:
    whole = runs["dropped"]
    again = Case(tmp_path / "again", "zero1_bf16", [*DROPPED, *LENGTHS, *SEVERAL])
    begun_from(whole, step, again.run_dir)
    run_cases([again], corpus=corpus, n_ranks=1)
    after = {at: loss for at, loss in losses(whole).items() if at > step}
    assert losses(again.run_dir) == after
    assert checkpoint_hashes(again.run_dir, 12) == checkpoint_hashes(whole, 12)


@pytest.mark.parametrize("mem_len", [0, 1, 3, 4, 9])
def test_memory_of_another_length_holds_the_newest(mem_len: int) -> None:
    layers = tuple(torch.randn(2, 4, 3, device=CPU) for _ in range(2))
    memory = LayerInputs(layers, torch.tensor([4, 2]), 2)
    found = resized(memory, mem_len)
    assert found.mem_len == mem_len
    assert found.valid_B.tolist() == [min(4, mem_len), min(2, mem_len)]
    assert found.valid_min == min(2, mem_len)
    for old_BMD, new_BMD in zip(layers, found.layers, strict=True):
        n = min(4, mem_len)
        assert torch.equal(new_BMD[:, mem_len - n :], old_BMD[:, 4 - n :])
        assert not new_BMD[:, : mem_len - n].any()
