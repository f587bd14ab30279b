"""What the loop decides by itself: what a micro step draws, and what a step counts and weighs."""

import copy
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_run import bare_run
from builders import CPU, random_documents, tiny_experiment, write_corpus
from ranks import told_by_ranks
from torch import nn

from trainer.checkpoint.state import TrainState
from trainer.config.deepspeed.file import load_ds_config
from trainer.distributed import World
from trainer.engine import deepspeed
from trainer.training.loop import dropout_seed, train_step
from trainer.training.run import Run

N_WORDS = 200


def test_every_micro_step_of_every_rank_drops_elements_of_its_own() -> None:
    places = list(product((1, 2), range(3), range(3), range(3)))
    seeds = {dropout_seed(*place) for place in places}
    assert len(seeds) == len(places)


def test_a_micro_step_done_again_drops_the_same_elements() -> None:
    assert dropout_seed(1, 5, 0, 3) == dropout_seed(1, 5, 0, 3)


def mean_and_its_norm(run: Run) -> tuple[float, float]:
    """Return a first step's nats per token, and the norm of its gradient, by definition."""
    model = copy.deepcopy(run.engine.ds.module)
    segments = [run.streams.segment(0, slot) for slot in range(run.engine.slots)]
    lengths = {"mem_len": run.experiment.train.mem_len, "dtype": torch.float32, "device": CPU}
    outputs = [
        model(segment, model.empty_memory(len(segment.lengths_B), **lengths))
        for segment in segments
    ]
    n_tokens = sum(segment.n_tokens for segment in segments)
    nats = sum(output.loss_sum for output in outputs)
    loss = nats + sum(one for output in outputs for one in output.extra.values())
    grads = torch.autograd.grad(loss / n_tokens, list(model.parameters()), allow_unused=True)
    norm = nn.utils.get_total_norm([grad for grad in grads if grad is not None])
    return float(nats) / n_tokens, float(norm)


def stepped(world: World, folder: Path) -> dict[str, Any]:
    """Take two steps of two slots each; return what was counted."""
    experiment = tiny_experiment(
        model={"cutoffs": (), "dropout": 0.0, "factory": "extra_loss_model:build"},
        train={"train_micro_batch_size_per_gpu": 2},
    )
    world = deepspeed.connect(world, timeout_s=300)
    raw = load_ds_config("zero0_fp32")
    run, state = bare_run(world, folder / "corpus", raw, experiment), TrainState()
    expected = mean_and_its_norm(run)
    began = time.perf_counter()
    first = train_step(run, state)
    elapsed = time.perf_counter() - began
    norm = float(run.engine.grad_norm or 0)
    second = train_step(run, state)
    run.engine.destroy()
    return {
        "expected": expected,
        "mean and norm": (float(first.loss_sum) / first.n_tokens, norm),
        "extra": {
            name: (float(x) / first.n_tokens, str(x.dtype)) for name, x in first.extra.items()
        },
        "nats of streams": float(first.nats_S.sum()) / first.n_tokens,
        "seconds": (first.seconds, elapsed),
        "steps": (state.step, state.data_step, world.progress.n_steps),
        "tokens": (state.n_tokens, first.n_tokens + second.n_tokens),
    }


def test_a_step_counts_nats_tokens_and_itself_and_weighs_every_token_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = random_documents(4000, vocabulary_size=N_WORDS)
    write_corpus(tmp_path / "corpus", vocabulary_size=N_WORDS, train=documents)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    (told,) = told_by_ranks(stepped, tmp_path, n_ranks=1)
    assert told["mean and norm"] == pytest.approx(told["expected"], rel=1e-4)
    share, size = (told["extra"][name] for name in ("share", "size"))
    assert share == [pytest.approx(told["expected"][0] / 2, rel=1e-4), "torch.float64"]
    assert size == [pytest.approx(1.0), "torch.float64"]
    assert told["nats of streams"] == pytest.approx(told["expected"][0], rel=1e-4)
    assert told["steps"] == [2, 2, 2]
    assert 0 < told["seconds"][0] <= told["seconds"][1]
    assert told["tokens"][0] == told["tokens"][1]
