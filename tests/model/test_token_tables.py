"""Vectors of tokens and pairs begin at nothing, and are spread over their rows."""

import numpy as np
import pytest
import torch
from builders import empty, segment_of, tiny_model_config
from pydantic import ValidationError

from trainer.model.build import build_model
from trainer.model.token_tables import hashed

V = 30
TABLES = {"token_tables": 1, "pair_rows": 40}


def test_a_model_with_tables_begins_as_the_one_without() -> None:
    plain, with_tables = (
        build_model(tiny_model_config(**changes), vocabulary_size=V, seed=3)
        for changes in ({}, TABLES)
    )
    own = dict(with_tables.named_parameters())
    assert all(torch.equal(own.pop(name), p) for name, p in plain.named_parameters())
    assert {name: tuple(p.shape) for name, p in own.items()} == {
        "token_tables.0.weight": (V, 8),
        "pairs.weight": (40, 8),
    }
    segment = segment_of(torch.randint(V, (2, 5)))
    one, other = (
        model(segment, empty(model, 2, 4)).nll_BT  # type: ignore[arg-type]
        for model in (plain, with_tables)
    )
    assert torch.equal(one, other)


def test_of_a_table_the_rows_that_were_read_learn() -> None:
    model = build_model(tiny_model_config(**TABLES), vocabulary_size=V, seed=3)
    tokens_BT = torch.tensor([[4, 5, 4, 5, 4], [9, 9, 9, 9, 9]])
    memory = empty(model, 2, 4)  # type: ignore[arg-type]
    model(segment_of(tokens_BT), memory).loss_sum.backward()
    grads = {name: p.grad.abs().sum(1) for name, p in model.named_parameters() if p.dim() == 2}
    assert grads["token_tables.0.weight"].nonzero().flatten().tolist() == [4, 5, 9]
    # (none, 4), (4, 5), (5, 4), (none, 9), (9, 9)
    assert len(grads["pairs.weight"].nonzero()) == 5


@pytest.mark.parametrize("n_rows", [1000, 4096])
def test_pairs_are_spread_over_the_rows_as_by_chance(n_rows: int) -> None:
    token, before = torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij")
    rows = hashed(token, before).flatten() % n_rows
    counts = torch.bincount(rows, minlength=n_rows).double()
    expected = len(rows) / n_rows
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi - n_rows) < 5 * np.sqrt(2 * n_rows)


def test_a_pair_is_another_one_turned_round() -> None:
    token, before = torch.arange(100), torch.arange(100) + 1000
    assert not (hashed(token, before) == hashed(before, token)).any()


def test_the_first_layer_has_no_table_and_others_models_have_none() -> None:
    with pytest.raises(ValidationError, match=r"token_tables 2: .* give at most 1"):
        tiny_model_config(token_tables=2)
    with pytest.raises(ValidationError, match="Transformer-XL's own, and the model is lstm"):
        tiny_model_config(kind="lstm", pair_rows=4)
