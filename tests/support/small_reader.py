"""A small trained model that no run has made, and what it says read one token at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from builders import CPU, scoring, tiny_experiment, tiny_model, words
from linear_attention_model import build

from trainer.data.rows import one_row
from trainer.inference.trained import TrainedModel
from trainer.protocol import IGNORED, Segment

V = 20


def small_reader(*, memory_reset: str = "epoch", factory: str | None = None) -> TrainedModel:
    """Return a small model of words."""
    experiment = tiny_experiment(data={"memory_reset": memory_reset}, model={"factory": factory})
    module = tiny_model(V, cutoffs=()).float()
    return TrainedModel(
        module=build(experiment.model, V) if factory else module.eval(),
        experiment=experiment,
        vocabulary=words(V),
        path=Path("here"),
        saved={},
        weights_hash={},
        precision="fp32",
        device=CPU,
    )


def text_of(n_words: int, *, seed: int) -> str:
    """Return words at random, in lines."""
    random = np.random.default_rng(seed)
    ends = " ", "\n"
    return "".join(f"w{i}{ends[i % 3 == 0]}" for i in random.integers(2, V, n_words).tolist())


@torch.no_grad()
def one_token_at_a_time(model: TrainedModel, ids: list[int], **lengths: Any) -> list[float]:
    """Return nats of every token but the first, each predicted by a call of its own."""
    at = scoring(**lengths)
    how = {"clamp_len": at.clamp_len, "same_length": at.same_length}
    memory = model.module.empty_memory(1, mem_len=at.mem_len, dtype=torch.float32, device=CPU)
    nats = []
    for begin in range(0, len(ids) - 1, at.tgt_len):
        for end in range(begin + 1, min(begin + at.tgt_len, len(ids) - 1) + 1):
            log_probs, _ = model.module.predict(segment_of(ids[begin:end]), memory, **how)
            nats.append(-float(log_probs[0, -1, ids[end]]))
        memory = model.module(segment_of(ids[begin : begin + at.tgt_len]), memory, **how).memory
    return nats


def segment_of(ids: list[int]) -> Segment:
    """Return the ids as they are read before something else is predicted."""
    tokens = np.array(ids, np.int64)
    return one_row(tokens, np.full_like(tokens, IGNORED), cutoffs=())
