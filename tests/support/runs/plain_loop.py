"""Ten lines of torch that train what an engine trains: without ranks, slots, or DeepSpeed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from builders import streams_of
from torch import Tensor, nn
from training import TINY

from trainer.config.command_line.arguments import parse_train
from trainer.data.corpus import open_corpus
from trainer.engine.optimizers.schedules import cosine
from trainer.model.build import build_model


class Records(NamedTuple):
    """Records of a run, step by step."""

    loss: list[float]
    grad_norm: list[float]
    lr: list[float]
    update: list[int]


def plain_loop(
    corpus: Path, flags: list[str], *, n_steps: int, optimizer_of: Callable[[nn.Module], Any]
) -> tuple[Records, dict[str, Tensor]]:
    """Train on all 8 streams at a time; returns what was recorded, and the weights by name.

    `flags` are those of the engine's run; the optimizer is anything that is used like torch's.
    """
    experiment = parse_train(["quickstart", "--data", str(corpus), *TINY, *flags]).experiment
    opened, settings = open_corpus(corpus), experiment.optim
    streams = streams_of(
        split=opened.splits["train"],
        train_batch_size=8,
        tgt_len=12,
        slots=1,
        rank=0,
        world_size=1,
        cutoffs=experiment.model.cutoffs,
    )
    model: Any = build_model(
        experiment.model, vocabulary_size=opened.vocabulary.size, seed=experiment.seed
    )
    optimizer = optimizer_of(model)
    memory = model.empty_memory(8, mem_len=20, dtype=torch.float32, device=torch.device("cpu"))
    found = Records([], [], [], [])
    for step in range(n_steps):
        segment = streams.segment(step, 0)
        output = model(segment, memory)
        memory, loss = output.memory, output.loss_sum / segment.n_tokens
        model.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clipping)
        lr = cosine(
            step + 1,
            lr=settings.lr,
            min_lr=settings.min_lr,
            warmup_steps=settings.warmup_steps,
            max_steps=experiment.train.max_steps,
        )
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        for values, value in zip(found, (loss.item(), float(norm), lr, step + 1), strict=True):
            values.append(value)
    return found, {name: p.detach() for name, p in model.named_parameters()}
