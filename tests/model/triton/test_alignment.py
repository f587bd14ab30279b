"""Pads of stored weights: added, removed, and left out of any part of a flat parameter."""

from itertools import pairwise

import pytest
import torch

from trainer.model.triton.alignment import Pads, pads_of, store_rows, store_weight

WEIGHTS = {
    "table": ((5, 11), {}),
    "bias": ((13,), {}),
    "heads": ((2, 3), {}),
    "linear": ((9, 10), {"n_in": 1, "n_out": 1}),
    "projected": ((15, 10), {"n_in": 1, "n_out": 3}),
    "output": ((10, 15), {"n_in": 3, "n_out": 1}),
    "wide rows": ((16, 10), {"n_in": 2, "n_out": 2}),
}


def stored(name: str) -> tuple[torch.Tensor, torch.nn.Parameter, Pads]:
    """Return a weight, and how it is stored."""
    shape, sides = WEIGHTS[name]
    weight = torch.randn(shape)
    parameter = torch.nn.Parameter(weight.clone())
    if sides:
        store_weight(parameter, **sides)
    else:
        store_rows(parameter)
    pads = pads_of(parameter)
    assert pads is not None
    return weight, parameter, pads


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_is_stored_with_zeros_and_found_again(name: str) -> None:
    weight, parameter, pads = stored(name)
    assert parameter.shape == pads.stored_shape
    assert parameter.shape[-1] % 8 == 0
    assert parameter.numel() > weight.numel()
    assert float(parameter.detach().abs().sum()) == pytest.approx(float(weight.abs().sum()))
    assert torch.equal(pads.removed(parameter.detach()), weight)
    assert torch.equal(pads.added(weight), parameter)


@pytest.mark.parametrize("name", WEIGHTS)
def test_parts_cut_anywhere_make_the_whole_without_its_pads(name: str) -> None:
    weight, parameter, pads = stored(name)
    flat_N, whole_N = parameter.detach().flatten(), weight.flatten()
    for n_parts in (1, 2, 3, 7, len(flat_N)):
        cuts = [len(flat_N) * i // n_parts for i in range(n_parts + 1)]
        read_N = torch.zeros_like(flat_N)
        for begin, end in pairwise(cuts):
            first, last = pads.n_before(begin), pads.n_before(end)
            taken = pads.taken(flat_N[begin:end], begin)
            assert torch.equal(taken.flatten(), whole_N[first:last])
            pads.put(read_N[begin:end], begin, whole_N[first:last])
        assert pads.n_before(cuts[-1]) == len(whole_N)
        assert torch.equal(read_N, flat_N)


def test_an_aligned_weight_is_left_as_it_is() -> None:
    parameter = torch.nn.Parameter(torch.randn(16, 24))
    store_weight(parameter, n_in=3, n_out=2)
    store_rows(parameter)
    assert pads_of(parameter) is None
