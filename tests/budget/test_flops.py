"""The operations of a model are those that PyTorch counts in its forward pass, one by one."""

from typing import Any

import pytest
import torch
from builders import empty, segment_of, tiny_model
from triton_device import interpret

from trainer.budget import flops
from trainer.budget.activations import PassSize
from trainer.budget.sizes import Weights
from trainer.config.recipe import load_recipe
from trainer.engine.optimizers.muon import orthogonalised
from trainer.model.matrices import Matrices

with pytest.MonkeyPatch.context() as importing:
    interpret(importing)  # PyTorch's counter imports Triton, which asks then how to be
    from torch.utils.flop_counter import FlopCounterMode

N_WORDS, SIZE = 40, PassSize(n_rows=3, tgt_len=8, mem_len=5)

CASES: dict[str, dict[str, Any]] = {
    "one softmax": {},
    "clusters": {"cutoffs": (10, 25)},
    "div_val 2": {"cutoffs": (10, 25), "div_val": 2},
    "div_val 4, wide": {"cutoffs": (10,), "div_val": 4, "d_embed": 32, "norm": "pre"},
    "narrow": {"cutoffs": (10, 25), "d_embed": 6, "position_biases": "per_layer"},
}


@pytest.mark.parametrize("case", CASES)
def test_they_are_those_that_pytorch_counts(case: str) -> None:
    model = tiny_model(N_WORDS, kernels="plain", **CASES[case]).float()
    tokens = torch.arange(SIZE.n_positions).view(SIZE.n_rows, SIZE.tgt_len) * 7 % N_WORDS
    segment = segment_of(tokens, tokens, cutoffs=model.config.cutoffs)
    memory = empty(model, SIZE.n_rows, SIZE.mem_len)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(segment, memory)
    tables = Weights.of(model.config, N_WORDS).tables
    n_targets = [len(positions) for positions in segment.target_clusters] or [SIZE.n_positions]
    shares = [1.0, *(n / SIZE.n_positions for n in n_targets[1:])]
    per_token = flops.per_token(model.config, SIZE, tables=tables, shares=shares)
    expected = flops.TRAINING * counted.get_total_flops()
    assert per_token * SIZE.n_positions == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(6, 20), (20, 6), (9, 9)])
def test_those_of_an_orthogonal_matrix_are_those_that_pytorch_counts(
    n_rows: int, n_columns: int
) -> None:
    size = Matrices(2, n_rows, n_columns, max(n_rows, n_columns))
    with FlopCounterMode(display=False) as counted:
        orthogonalised(torch.ones(2, n_rows, n_columns), dtype=torch.float32)
    assert flops.orthogonal([size, size]) == 2 * counted.get_total_flops()


def test_a_weight_counts_six_times_per_token_where_nothing_else_is_there() -> None:
    config = load_recipe("wt103-base").model
    short = PassSize(n_rows=10**6, tgt_len=1, mem_len=0)
    per_layer = flops.attention(config, short) + flops.feed_forward(config, short)
    n_weights = 4 * 410 * 410 + 2 * 410 * 2100
    expected = 2 * n_weights * short.n_positions
    assert per_layer == pytest.approx(expected, rel=1e-3)
