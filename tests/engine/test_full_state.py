"""Weights, moments and memory keep every bit, whatever stage, precision and number of ranks."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_run import bare_run
from builders import random_documents, tiny_experiment, write_corpus
from ranks import told_by_ranks
from saved_checkpoints import memory_by_stream
from training import ROOT, Case, run_cases

from trainer.checkpoint import folder as files
from trainer.checkpoint.contents.index import read_index
from trainer.checkpoint.contents.parts import Parts
from trainer.config.deepspeed.file import load_ds_config
from trainer.distributed import World
from trainer.engine import deepspeed, full_state
from trainer.engine.full_state import MOMENTS
from trainer.model.triton.alignment import Pads

#: Every stage in fp32, and the others that keep their weights in fp32 beside those they train.
ENGINES = (
    "zero0_fp32",
    "zero1_fp32",
    "zero2_fp32",
    "zero3_fp32",
    "zero1_fp16",
    "zero2_bf16",
    "zero3_bf16",
)


@pytest.fixture(scope="module")
def written(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a run's checkpoint, and what engines of every kind on one and two ranks made of it."""
    folder = tmp_path_factory.mktemp("engines")
    flags = ["--train.max-steps", "9", "--model.dropout", "0.1"]
    source = Case(folder / "source", "zero1_fp32", flags)
    origin = files.directory(source.run_dir) / files.name_of(9)
    forks = {
        (kind, n_ranks): Case(
            folder / f"{kind}-{n_ranks}",
            small_partitions(kind, folder),
            [*flags, "--resume-from", str(origin)],
        )
        for kind in ENGINES
        for n_ranks in (1, 2)
    }
    for n_ranks in (1, 2):
        cases = [case for (_, n), case in forks.items() if n == n_ranks]
        run_cases([source, *cases] if n_ranks == 1 else cases, corpus=corpus, n_ranks=n_ranks)
    return origin, {
        key: files.directory(case.run_dir) / files.name_of(9) for key, case in forks.items()
    }


def small_partitions(kind: str, folder: Path) -> str:
    """Write a DeepSpeed file like `kind` that at stage 3 shares out nearly all parameters."""
    values = json.loads((ROOT / "ds_configs" / f"{kind}.json").read_text())
    if values["zero_optimization"]["stage"] == 3:
        values["zero_optimization"]["stage3_param_persistence_threshold"] = 100
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(values))
    return str(path)


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("kind", ENGINES)
def test_every_engine_gives_back_the_weights_and_moments_it_was_given(
    written: Any, kind: str, n_ranks: int
) -> None:
    origin, copies = written
    for part in ("weights", "optimizer"):
        expected, found = tensors(origin, part), tensors(copies[kind, n_ranks], part)
        assert found.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("n_ranks", [1, 2])
@pytest.mark.parametrize("kind", ENGINES)
def test_every_engine_gives_back_the_memory_it_was_given_in_its_own_precision(
    written: Any, kind: str, n_ranks: int
) -> None:
    origin, copies = written
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = dtypes.get(kind.split("_")[1], torch.float32)
    expected, found = memory_by_stream(origin), memory_by_stream(copies[kind, n_ranks])
    assert found.keys() == expected.keys()
    for name, saved in expected.items():
        assert torch.equal(found[name], saved.to(dtype) if saved.is_floating_point() else saved)


def written_and_told(world: World, folder: Path) -> list[list[float]]:
    """Write a number into all weights; return those that are there when it is told."""
    world = deepspeed.connect(world, timeout_s=300)
    experiment = tiny_experiment(model={"cutoffs": ()})
    run = bare_run(world, folder / "corpus", load_ds_config("zero0_fp32"), experiment)
    module, state, told = run.engine.ds.module, run.engine.full_state, []
    state._when_written = lambda: told.append([float(p.mean()) for p in module.parameters()])
    state.write(lambda name, key, begin, into_N: into_N.fill_(2.0), optimizer_step=0)
    run.engine.destroy()
    return told


def test_once_all_weights_are_written_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies of the weights in 16 bits are made anew then."""
    documents = random_documents(400, vocabulary_size=20)
    write_corpus(tmp_path / "corpus", vocabulary_size=20, train=documents)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    ((weights,),) = told_by_ranks(written_and_told, tmp_path, n_ranks=1)
    assert set(weights) == {2.0}


@pytest.mark.parametrize("borders", [(0, 32), (0, 3, 11, 32), (0, 8, 16, 24, 32), (0, 23, 30, 32)])
def test_each_part_of_a_weight_is_read_around_its_pads(borders: tuple[int, ...]) -> None:
    pads = Pads(shape=(15,), blocks=(3, 5), stored_blocks=(4, 8), stored_shape=(32,))
    values_M = torch.arange(1.0, 16.0)

    def read(name: str, key: str, begin: int, into_N: torch.Tensor) -> None:
        into_N.copy_(values_M[begin : begin + len(into_N)])

    stored_N = torch.zeros(32)
    for begin, end in itertools.pairwise(borders):
        full_state._read(read, "table", "weight", begin, stored_N[begin:end], pads)
    assert torch.equal(stored_N, pads.added(values_M))


def tensors(path: Path, part: str) -> dict[str, torch.Tensor]:
    """Return all tensors of a part, each put together from every rank's file."""
    index = read_index(path)
    parts, found = Parts(path, index), {}
    for name, (shape, _) in index.items():
        for key in ("weight",) if part == "weights" else MOMENTS:
            found[f"{name}|{key}"] = torch.full((math.prod(shape),), torch.nan)
            parts.read(name, key, 0, found[f"{name}|{key}"])
    return found
