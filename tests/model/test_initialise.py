"""A model filled part by part has the values of a whole one, to the last bit."""

from typing import Any

import pytest
import torch
from builders import tiny_model_config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.config.recipe import ModelConfig
from trainer.model import initialise
from trainer.model.build import build_in_parts, build_model
from trainer.model.transformer_xl import TransformerXL

V, SEED = 300, 7

MODELS: dict[str, dict[str, Any]] = {
    "tied, full softmax": {},
    "untied": {"tie_embedding": False},
    "clusters of one width": {"cutoffs": (40, 100)},
    "clusters untied": {"cutoffs": (40, 100), "tie_embedding": False},
    "narrower clusters": {"cutoffs": (40, 100), "div_val": 2},
    "projections untied": {"cutoffs": (40, 100), "div_val": 2, "tie_projections": "none"},
    "projections tied": {"cutoffs": (40, 100), "div_val": 2, "tie_projections": "all"},
    "narrow embedding": {"d_embed": 4},
    "tables of tokens and pairs": {"token_tables": 1, "pair_rows": 70},
    "biases per layer, pre-norm": {"position_biases": "per_layer", "norm": "pre"},
}


def in_parts(config: ModelConfig, *, n_parts: int) -> dict[str, Tensor]:
    """Return every parameter put together from parts that are filled by each rank by itself."""
    parts: dict[str, list[Tensor]] = {}
    for rank in range(n_parts):
        model, fills = build_in_parts(config, vocabulary_size=V, seed=SEED)
        names = {id(p): name for name, p in model.named_parameters()}
        for parameter, fill in fills:
            begin, end = (parameter.numel() * i // n_parts for i in (rank, rank + 1))
            part_N = torch.full((end - begin,), torch.nan)
            fill(part_N, begin)
            parts.setdefault(names[id(parameter)], []).append(part_N)
    return {name: torch.cat(found) for name, found in parts.items()}


@pytest.mark.parametrize("n_parts", [1, 3])
@pytest.mark.parametrize("piece", [64, initialise.PIECE])
@pytest.mark.parametrize("name", MODELS)
def test_parts_have_the_values_of_the_whole(
    name: str, piece: int, n_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_model_config(**MODELS[name])
    whole = dict(build_model(config, vocabulary_size=V, seed=SEED).named_parameters())
    after = torch.get_rng_state()
    monkeypatch.setattr(initialise, "PIECE", piece)
    found = in_parts(config, n_parts=n_parts)
    assert found.keys() == whole.keys()
    differing = [key for key, p in whole.items() if not torch.equal(found[key], p.flatten())]
    assert differing == []
    assert torch.equal(torch.get_rng_state(), after)  # the next draws are the same, too


@pytest.mark.parametrize("name", MODELS)
def test_what_is_tied_in_the_whole_is_tied_in_a_model_without_weights(name: str) -> None:
    config = tiny_model_config(**MODELS[name])
    whole = TransformerXL(config, V)
    unbuilt = build_in_parts(config, vocabulary_size=V, seed=SEED).model
    assert ties(unbuilt) == ties(whole)
    assert all(p.is_meta for p in unbuilt.parameters())


def ties(model: nn.Module) -> list[tuple[str, ...]]:
    """Return names of each parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [tuple(found) for found in names.values()]


@given(n_elements=st.integers(0, 700), piece=st.integers(1, 20).map(lambda n: 16 * n))
def test_pieces_cover_a_parameter_and_draw_what_one_draw_draws(n_elements: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(initialise, "PIECE", piece)
        pieces = list(initialise.pieces(n_elements))
    assert [low for low, _ in pieces] == [0, *(high for _, high in pieces[:-1])]
    assert pieces[-1][1] == n_elements
    assert max(high - low for low, high in pieces) < piece + 16
    torch.manual_seed(n_elements)
    whole = torch.empty(n_elements).normal_()
    torch.manual_seed(n_elements)
    assert torch.equal(
        torch.cat([torch.empty(high - low).normal_() for low, high in pieces]), whole
    )
