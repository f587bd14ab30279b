"""`txl eval --as-fairseq` is what a plain loop over chunks, as fairseq's, comes to."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import empty, lone_world, random_documents, scoring, tiny_model, write_split
from reference import NaiveStream

from trainer.config.recipe import ScoringConfig
from trainer.inference.score import score
from trainer.model.memory.inputs import LayerInputs
from trainer.model.transformer_xl import TransformerXL

V = 20

LENGTHS: dict[str, dict[str, Any]] = {
    "memory longer": {"tgt_len": 4, "mem_len": 6},
    "memory shorter": {"tgt_len": 5, "mem_len": 3},
    "no memory": {"tgt_len": 7, "mem_len": 0},
    "same length, clamped": {"tgt_len": 3, "mem_len": 6, "same_length": True, "clamp_len": 4},
}


def fairseq_loss(model: TransformerXL, ids: list[int], settings: ScoringConfig) -> float:
    """Return mean nats that fairseq reports: chunk by chunk, predicting inside the chunk alone."""
    stream = NaiveStream(
        model,
        mem_len=settings.mem_len,
        clamp_len=settings.clamp_len,
        same_length=settings.same_length,
    )
    zero = torch.zeros(model.config.d_model, dtype=torch.float64)
    stream.memory = [[(zero, 0)] * settings.mem_len for _ in model.layers]
    nats = []
    for begin in range(0, len(ids), settings.tgt_len):
        chunk = ids[begin : begin + settings.tgt_len]
        log_probs = stream.read(chunk, starts=set())
        nats += [-float(log_probs[i][word]) for i, word in enumerate(chunk[1:])]
    return sum(nats) / len(nats)


def zeros(model: TransformerXL, rows: int, mem_len: int) -> LayerInputs:
    """Return a memory of zeros that are attended."""
    memory = empty(model, rows, mem_len)
    return memory._replace(valid_B=torch.full((rows,), mem_len), valid_min=mem_len)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("n_tokens", [60, 57, 61])
def test_as_fairseq_is_what_fairseq_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: str, n_tokens: int
) -> None:
    # Ranks take turns, and the test adds up: one process cannot reduce over two.
    monkeypatch.setattr("trainer.inference.score.sum_floats", lambda values, world: values)
    model = tiny_model(V, cutoffs=(6, 12), n_layer=3).eval()
    documents = random_documents(n_tokens, vocabulary_size=V, n_documents=4, seed=3)
    split = write_split(tmp_path / "corpus", documents, vocabulary_size=V)
    ids = split.tokens.tolist()
    settings = scoring(**LENGTHS[lengths])
    with torch.no_grad():
        expected = fairseq_loss(model, ids, settings)
    multiples = range(0, n_tokens, settings.tgt_len)
    for batch_size, world_size in [(1, 1), (2, 1), (3, 2), (16, 1)]:
        told: dict[int, float] = {}

        def keep(position: int, nll_T: torch.Tensor, told: dict[int, float] = told) -> None:
            told.update(enumerate(nll_T.tolist(), start=position))

        scores = [
            score(
                model,
                split,
                scoring=settings.model_copy(update={"batch_size": batch_size}),
                reach=model.reach,
                on_tokens=keep,
                as_fairseq=True,
                first_memory=lambda rows, mem_len: zeros(model, rows, mem_len),
                cutoffs=model.config.cutoffs,
                cut_documents=False,
                world=lone_world(rank=rank, world_size=world_size),
            )
            for rank in range(world_size)
        ]
        assert sorted(told) == sorted(set(range(n_tokens)) - set(multiples))
        assert {one.n_tokens for one in scores if one} == {len(told)}
        assert sum(one.loss for one in scores if one) == pytest.approx(expected, abs=1e-6)
        assert sum(told.values()) / len(told) == pytest.approx(expected, abs=1e-6)
