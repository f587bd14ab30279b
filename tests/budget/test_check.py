"""Needs of planned runs, held against real models, real runs and what there is."""

import re
from typing import Any

import pytest
import torch
from builders import (
    CPU,
    lone_world,
    random_documents,
    recipes_of_transformer_xl,
    tiny_experiment,
    tiny_model_config,
    write_corpus,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.budget.check import Budget, count_weights, words_of
from trainer.budget.forecast import Machine, forecast
from trainer.budget.machine import There
from trainer.budget.sizes import Words
from trainer.config.deepspeed.file import load_ds_config, resolve
from trainer.config.recipe import ExperimentConfig, ModelConfig, load_recipe
from trainer.data.corpus import Corpus
from trainer.model.build import build_model
from trainer.model.transformer_xl import TransformerXL
from trainer.model.triton.storage import multiplied

V = 300


@pytest.fixture(scope="module")
def corpus_of_300(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("budget") / "corpus"
    return write_corpus(folder, vocabulary_size=V, train=random_documents(9000, vocabulary_size=V))


def budget(corpus: Corpus, *, ds: str = "zero0_fp32", **parts: Any) -> Budget:
    experiment = tiny_experiment(**parts)
    resolved = resolve(load_ds_config(ds), experiment, world_size=1, where=ds)
    return Budget(experiment, words_of(experiment.model, corpus), resolved, lone_world())


@pytest.mark.parametrize("recipe", recipes_of_transformer_xl())
def test_weights_of_recipes_are_those_of_the_model(recipe: str) -> None:
    config = load_recipe(recipe).model
    assert_counted(config, config.cutoffs[-1] + 7 if config.cutoffs else 1000)


@given(
    cutoffs=st.sampled_from([(), (9,), (4, 20)]),
    div_val=st.sampled_from([1, 2]),
    d_embed=st.sampled_from([None, 4, 12]),
    tie_embedding=st.booleans(),
    tie_projections=st.sampled_from(["none", "tails", "all"]),
    position_biases=st.sampled_from(["shared", "per_layer"]),
    norm=st.sampled_from(["pre", "post"]),
    n_layer=st.integers(2, 3),
    token_tables=st.integers(0, 1),
    pair_rows=st.sampled_from([0, 7, 200]),
    d_inner=st.integers(1, 9),
)
def test_weights_are_those_of_the_model(**sizes: Any) -> None:
    assert_counted(tiny_model_config(**sizes), 30)


def assert_counted(config: ModelConfig, size: int) -> None:
    with torch.device("meta"):
        model = build_model(config, vocabulary_size=size, seed=0)
    assert isinstance(model, TransformerXL)
    counted = count_weights(config, size)
    assert counted.total == sum(p.numel() for p in model.parameters())
    assert counted.layer == sum(p.numel() for p in model.layers[0].parameters())
    assert counted.largest == max(p.numel() for p in model.parameters())
    assert counted.multiplied == sum(weight.numel() for weight in multiplied(model))
    assert list(counted.tables) == [tuple(table.shape) for table in model.softmax.tables]


def test_a_million_layers_are_counted_without_being_built() -> None:
    config = load_recipe("quickstart").model
    layer = count_weights(config, V).layer
    deep = config.model_copy(update={"n_layer": 10**6})
    assert count_weights(deep, V).total > 10**6 * layer


def test_a_model_of_others_is_counted_whole(corpus_of_300: Corpus) -> None:
    config = ModelConfig(**tiny_experiment().model.model_dump() | {"factory": "killed_model:build"})
    counted = count_weights(config, V)
    assert counted.tables == ()
    assert counted.total == count_weights(tiny_experiment().model, V).total


class Counter(nn.Module):
    """A model with a state of its own, which reads no size of Transformer-XL."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.rows = nn.Linear(vocabulary_size, 5)

    def empty_memory(
        self, n_streams: int, *, mem_len: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[torch.Tensor, ...]:
        ids = torch.zeros(n_streams, mem_len, dtype=torch.int64, device=device)
        return torch.zeros(n_streams, 7, 3, dtype=dtype, device=device), ids

    predict = nn.Module.forward


@pytest.mark.parametrize("ds", ["zero0_fp32", "zero0_bf16_autocast", "zero1_bf16", "zero3_fp32"])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_state_of_others_counts_with_its_own_size(ds: str, on_gpu: bool) -> None:
    values = tiny_experiment().model_dump() | {"model": {"factory": f"{__name__}:Counter"}}
    experiment = ExperimentConfig.model_validate(values)
    machine = Machine(n_devices=1, on_gpu=on_gpu, memory_gib=80, flops_per_s=1e12, bytes_per_s=1e9)
    files = {ds: resolve(load_ds_config(ds), experiment, world_size=1, where=ds)}
    found = forecast(experiment, Words(V, (1.0,)), machine, files=files, n_tokens=None)
    state = Counter(experiment.model, V).empty_memory(
        experiment.train.train_batch_size,
        mem_len=experiment.train.mem_len,
        dtype=torch.float32 if ds.endswith("fp32") else torch.bfloat16,
        device=CPU,
    )
    (row,) = found.rows
    is_captured = on_gpu and row.stage <= 1
    assert row.memory == (2 + is_captured) * sum(part.nbytes for part in state)
    assert found.parameters == 5 * (V + 1)
    assert row.fits


def test_what_a_machine_cannot_have_is_refused_with_what_fits(corpus_of_300: Corpus) -> None:
    needed = budget(
        corpus_of_300,
        model={"n_layer": 12, "n_head": 16, "d_head": 8, "d_model": 128},
        train={"train_batch_size": 256, "tgt_len": 512, "mem_len": 1024},
    )
    there = There(23 << 30, 20 << 30, "this machine")
    told = needed.problem(there, n_sharing=1, device=None)
    assert told is not None
    assert re.match(r"the run needs [\d,]+\.\d GiB per rank, .* of them attention at ", told)
    assert "this machine has 23.0" in told
    fits = re.search(r"micro-batch-size-per-gpu (\d+) \(now 256\) fits", told)
    assert fits
    train = {"train_batch_size": 256, "tgt_len": 512, "mem_len": 1024}
    model = {"n_layer": 12, "n_head": 16, "d_head": 8, "d_model": 128}
    for micro, has_room in ((int(fits[1]), True), (2 * int(fits[1]), False)):
        train["train_micro_batch_size_per_gpu"] = micro
        smaller = budget(corpus_of_300, model=model, train=train)
        assert (smaller.problem(there, n_sharing=1, device=None) is None) == has_room


def test_ranks_of_one_host_share_its_memory(corpus_of_300: Corpus) -> None:
    needed = budget(corpus_of_300)
    there = There(3 * needed.needs.device_bytes, 0, "this job's control group")
    assert needed.problem(there, n_sharing=3, device=None) is None
    told = needed.problem(there, n_sharing=4, device=None)
    assert told is not None
    assert "this job's control group has" in told
    assert "for 4 ranks" in told


def test_what_is_to_be_lowered_is_what_needs_the_most(corpus_of_300: Corpus) -> None:
    nothing = There(1 << 20, 1 << 20, "this machine")
    cases: dict[str, dict[str, Any]] = {
        "--valid.batch-size": {"valid": {"batch_size": 4096, "tgt_len": 512, "mem_len": 512}},
        "a smaller --model.d-model": {"model": {"d_model": 512, "d_inner": 4096}},
        "--train.tgt-len (800)": {"train": {"train_batch_size": 1, "tgt_len": 800}},
    }
    for advice, parts in cases.items():
        told = budget(corpus_of_300, **parts).problem(nothing, n_sharing=1, device=None)
        assert told is not None
        assert advice in told


def test_a_gpu_s_memory_is_each_rank_s_own(corpus_of_300: Corpus) -> None:
    needed = budget(corpus_of_300)
    gpu = There(needed.needs.device_bytes - 1, 0, "NVIDIA H100")
    there = There(1 << 50, 1 << 50, "this machine")
    told = needed.problem(there, n_sharing=8, device=gpu)
    assert told is not None
    assert "and NVIDIA H100 has" in told
