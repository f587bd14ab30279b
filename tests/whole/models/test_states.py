"""A model whose streams carry states of other shapes and dtypes trains as Transformer-XL does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, segment_of, tiny_model_config
from linear_attention_model import LinearAttention, State
from saved_checkpoints import memory_by_stream
from training import Case, begun_from, checkpoint_hashes, losses, overflowing, run_cases

from trainer.errors import Exit
from trainer.memory_tree import forget_streams

KINDS = (
    ("zero0_fp32", 1),
    ("zero0_bf16_autocast", 1),
    ("zero1_bf16", 2),
    ("zero2_fp16", 1),
    ("zero3_bf16", 2),
)
MODEL = ["--model.factory", "linear_attention_model:build"]
FLAGS = [
    *MODEL,
    "--train.max-steps",
    "12",
    "--train.train-micro-batch-size-per-gpu",
    "2",
    "--checkpoint.interval-steps",
    "4",
    "--checkpoint.keep-last",
    "9",
    "--valid.interval-steps",
    "6",
]
LEFT = {"memory.matrix", "memory.shift.0", "memory.shift.1"}


def case_of(kind: str, n_ranks: int, folder: Path, name: str) -> Case:
    """Return one run of a kind on so many ranks."""
    return Case(folder / f"{kind}-{n_ranks}-{name}", overflowing(kind, folder), FLAGS)


@pytest.fixture(scope="module")
def pairs(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, int], tuple[Path, Path]]:
    """Return per kind and ranks a run of 12 steps in one go, and one resumed from its step 8."""
    folder, found = tmp_path_factory.mktemp("states"), {}
    for n_ranks in (1, 2):
        whole = {kind: case_of(kind, n, folder, "whole") for kind, n in KINDS if n == n_ranks}
        resumed = {kind: case_of(kind, n_ranks, folder, "resumed") for kind in whole}
        run_cases(list(whole.values()), corpus=corpus, n_ranks=n_ranks)
        for kind, case in whole.items():
            begun_from(case.run_dir, 8, resumed[kind].run_dir)
            found[kind, n_ranks] = (case.run_dir, resumed[kind].run_dir)
        run_cases(list(resumed.values()), corpus=corpus, n_ranks=n_ranks)
    return found


@pytest.mark.parametrize(("kind", "n_ranks"), KINDS)
def test_resumed_it_is_the_same_run_bit_by_bit(pairs: Any, kind: str, n_ranks: int) -> None:
    whole, resumed = pairs[kind, n_ranks]
    assert losses(resumed) == {step: loss for step, loss in losses(whole).items() if step > 8}
    assert checkpoint_hashes(resumed, 12) == checkpoint_hashes(whole, 12)


@pytest.mark.parametrize(("kind", "n_ranks"), KINDS)
def test_each_state_is_saved_in_its_own_dtype(pairs: Any, kind: str, n_ranks: int) -> None:
    saved = memory_by_stream(pairs[kind, n_ranks][0] / "checkpoints" / "step-00000012")
    assert saved.keys() == LEFT
    narrow = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    assert saved["memory.matrix"].dtype == torch.float32
    assert saved["memory.matrix"].shape == (8, 2, 2, 16, 16)
    assert saved["memory.shift.1"].dtype == narrow[kind.split("_")[1]]
    assert len(saved["memory.matrix"].flatten(1).unique(dim=0)) == 8


def test_its_streams_move_from_one_rank_to_two_and_back(corpus: Path, tmp_path: Path) -> None:
    exact = [*FLAGS, "--model.dropout", "0"]
    one = Case(tmp_path / "one", "zero1_fp32", exact)
    run_cases([one], corpus=corpus, n_ranks=1)
    begun_from(one.run_dir, 4, tmp_path / "two")
    two = Case(tmp_path / "two", "zero2_fp32", exact)
    run_cases([two], corpus=corpus, n_ranks=2)
    begun_from(two.run_dir, 8, tmp_path / "back")
    back = Case(tmp_path / "back", "zero0_fp32", exact)
    run_cases([back], corpus=corpus, n_ranks=1)
    undisturbed = losses(one.run_dir)
    for run_dir in (two.run_dir, back.run_dir):
        told = losses(run_dir)
        assert told == pytest.approx({step: undisturbed[step] for step in told}, rel=1e-5)
    found, expected = (
        memory_by_stream(run_dir / "checkpoints" / "step-00000012")
        for run_dir in (back.run_dir, one.run_dir)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_each_stream_is_forgotten_alone() -> None:
    torch.manual_seed(0)
    model = LinearAttention(tiny_model_config(), 20)
    unread = model.empty_memory(1, mem_len=6, dtype=torch.bfloat16, device=CPU)
    start = model.empty_memory(4, mem_len=6, dtype=torch.bfloat16, device=CPU)
    memory: State = model(segment_of(torch.randint(20, (4, 5))), start).memory
    for stream in range(4):
        keep_B = torch.arange(4) != stream
        left = forget_streams(memory, keep_B, unread=unread)
        assert left.matrix.dtype == torch.float32
        for new, old in zip(
            (left.matrix, *left.shift), (memory.matrix, *memory.shift), strict=True
        ):
            assert torch.equal(new[keep_B], old[keep_B])
            assert old[stream].any()
            assert not new[stream].any()


BAD = {
    1: "memory.matrix is attached to the graph: detach it",
    2: "memory.matrix lies where the memory before it lies: return a new tensor",
    3: "memory.matrix is 3×4×2×16×16 in float32, not 4 streams first",
}


@pytest.fixture(scope="module")
def told(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Return what each model that misbehaves was told, by its number of layers."""
    folder = tmp_path_factory.mktemp("misbehaved")
    cases = [
        Case(
            folder / str(n_layer),
            flags=[
                "--model.factory",
                "linear_attention_model:build_misbehaved",
                "--model.n-layer",
                str(n_layer),
                "--train.train-micro-batch-size-per-gpu",
                "4",
            ],
            ends=Exit.BAD_INPUT,
        )
        for n_layer in BAD
    ]
    return dict(zip(BAD, run_cases(cases, corpus=corpus, n_ranks=1), strict=True))


@pytest.mark.parametrize("n_layer", BAD)
def test_a_state_that_cannot_be_carried_is_told_in_one_line(
    told: dict[int, Any], n_layer: int
) -> None:
    assert BAD[n_layer] in told[n_layer]
    assert "\n" not in told[n_layer].strip()
