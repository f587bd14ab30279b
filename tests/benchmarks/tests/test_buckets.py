"""Buckets change how many messages a step sends and what it copies, never losses or bytes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import random_documents, write_corpus
from ranks import told_by_ranks

from trainer.distributed import World
from trainer.engine import deepspeed

BENCHMARKS = Path(__file__).parents[1]
FILES = ("zero1_bf16", "zero2_bf16")
#: Elements of a bucket, and what else is changed in the file.
SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "small": (3_000, {"overlap": False}),
    "small, on the way": (3_000, {"overlap": True}),
    "large": (100_000, {"overlap": False}),
    "gathered in pieces": (3_000, {"overlap": False, "allgather_bucket_size": 1_000}),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what each rank measures, by file and setting."""
    folder = tmp_path_factory.mktemp("buckets")
    documents = random_documents(4000, vocabulary_size=400)
    write_corpus(folder / "corpus", vocabulary_size=400, train=documents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        return told_by_ranks(measure_all, folder)


@pytest.mark.parametrize("file", FILES)
def test_losses_and_bytes_sent_are_the_same_with_all_buckets(told: Any, file: str) -> None:
    for rank in told:
        first, *others = rank[file].values()
        for other in others:
            assert other["losses"] == first["losses"]
            assert other["sent"] == pytest.approx(first["sent"], rel=0.02)


@pytest.mark.parametrize("file", FILES)
def test_small_buckets_send_more_messages_and_copy_less(told: Any, file: str) -> None:
    for rank in told:
        small, large = rank[file]["small"], rank[file]["large"]
        assert small["messages"] > large["messages"]
        assert small["copied"] < large["copied"]
        assert small["buffers"] < large["buffers"] / 10
        assert rank[file]["small, on the way"]["buffers"] == pytest.approx(2 * small["buffers"])


@pytest.mark.parametrize("file", FILES)
def test_the_bucket_of_gathered_weights_changes_nothing(told: Any, file: str) -> None:
    for rank in told:
        assert rank[file]["gathered in pieces"] == rank[file]["small"]


def measure_all(world: World, folder: Path) -> Any:
    """Return what each file does with each setting, as the benchmark measures it."""
    sys.path.append(str(BENCHMARKS))
    import buckets
    from measured.dims import CONFIGS

    torch.set_num_threads(1)
    world = deepspeed.connect(world, timeout_s=300)
    dims = replace(CONFIGS["wt103-narrow"], n_layer=2, n_streams=4)
    return {
        file: {
            name: buckets.measure(
                world,
                folder / "corpus",
                buckets.with_buckets(file, bucket=bucket, **changes),
                dims,
            )
            for name, (bucket, changes) in SETTINGS.items()
        }
        for file in FILES
    }
