"""LAMB is the paper's on whole matrices, whatever pieces of them ZeRO hands to the optimizer."""

import pytest
import torch
from builders import tiny_model
from cut_up import cut_up
from hypothesis import given
from hypothesis import strategies as st
from plain_lamb import BETAS, EPS, PaperLamb
from torch import nn

from trainer.engine.full_state import Fragment
from trainer.engine.optimizers.lamb import Lamb, matrices


def ours(model: nn.ParameterDict, *, weight_decay: float, lr: float) -> Lamb:
    """Return the optimizer, handed whole parameters."""
    made = Lamb(model.values(), lr=lr, betas=BETAS, eps=EPS, weight_decay=weight_decay)
    made.cut(
        {p: [Fragment(name, 0, p.numel())] for name, p in model.items()},
        matrices={name: name for name in model},
        sum_over_ranks=None,
    )
    return made


def random_model(dtype: torch.dtype) -> nn.ParameterDict:
    """Return a matrix larger than the clamp, small ones, one of zeros, a single number."""
    torch.manual_seed(0)
    tensors = {
        "large": torch.randn(20, 30),
        "small": 0.1 * torch.randn(5, 3),
        "zero": torch.zeros(4),
        "one": torch.ones(1),
        "still": torch.randn(3),
    }
    return nn.ParameterDict({k: nn.Parameter(t.to(dtype)) for k, t in tensors.items()})


def give_gradients(*models: nn.ParameterDict, seed: int) -> None:
    """Give the same gradients to all; those of ``still`` are zeros."""
    for model in models:
        torch.manual_seed(seed)
        for name, p in model.items():
            p.grad = torch.randn(p.shape, dtype=torch.float64).to(p.dtype) * (name != "still")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_whole_parameters_are_updated_by_the_formulas(
    dtype: torch.dtype, rel: float, weight_decay: float
) -> None:
    model, copy = random_model(dtype), random_model(dtype)
    paper = PaperLamb([[p] for p in copy.values()], weight_decay=weight_decay)
    optimizer = ours(model, weight_decay=weight_decay, lr=0.0)
    for step in range(6):
        give_gradients(model, copy, seed=step)
        for made in (paper, optimizer):
            made.param_groups[0]["lr"] = 0.02 * (step + 1)
            made.step()
        for name, p in model.items():
            torch.testing.assert_close(p, copy[name], rtol=rel, atol=rel)


def test_zeros_are_trusted_like_adam_and_large_matrices_no_more_than_the_clamp() -> None:
    model, before = random_model(torch.float64), random_model(torch.float64).requires_grad_(False)
    give_gradients(model, seed=1)
    ours(model, weight_decay=0.0, lr=0.01).step()
    moved = {name: (p - before[name]).detach() for name, p in model.items()}
    grad = model["zero"].grad
    assert grad is not None
    step = 0.1 * grad / ((0.001 * grad**2).sqrt() + EPS)
    torch.testing.assert_close(moved["zero"], -0.01 * step)
    assert float(before["large"].norm()) > 10
    assert float(moved["large"].norm()) == pytest.approx(0.01 * 10, rel=1e-6)
    assert float(moved["small"].norm()) == pytest.approx(0.01 * float(before["small"].norm()))
    assert torch.equal(moved["still"], torch.zeros(3).double())


def test_a_parameter_without_a_gradient_is_passed_over() -> None:
    model, before = random_model(torch.float32), random_model(torch.float32)
    optimizer = ours(model, weight_decay=0.1, lr=0.01)
    give_gradients(model, seed=1)
    model["small"].grad = None
    optimizer.step()
    assert torch.equal(model["small"], before["small"])
    assert not torch.equal(model["large"], before["large"])
    assert model["small"] not in optimizer.state
    assert optimizer.state[model["large"]].keys() == {"step", "exp_avg", "exp_avg_sq"}


@given(
    numels=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 240), max_size=4),
    joined=st.booleans(),
)
def test_the_update_does_not_depend_on_how_matrices_are_cut(
    numels: list[int], cuts: list[int], joined: bool
) -> None:
    """One call with several flat tensors, between whose fragments there is what is no number."""
    torch.manual_seed(0)
    tensors = [torch.randn(n, dtype=torch.float64) for n in numels]
    names = [f"p{i}" for i in range(len(numels))]
    owners = {name: names[0] if joined else name for name in names}
    parameters = [nn.Parameter(t.clone()) for t in tensors]
    groups = [parameters] if joined else [[p] for p in parameters]
    paper = PaperLamb(groups, weight_decay=0.1)
    flats, fragments, places = cut_up(tensors, names, cuts)
    optimizer = Lamb(flats, lr=0.02, betas=BETAS, eps=EPS, weight_decay=0.1)
    optimizer.cut(fragments, matrices=owners, sum_over_ranks=None)
    for _ in range(3):
        grads = [torch.randn_like(t) for t in tensors]
        for flat in flats:
            flat.grad = torch.full_like(flat, torch.nan)
        for p, grad, pieces in zip(parameters, grads, places, strict=True):
            p.grad = grad
            for at, flat, start, numel in pieces:
                assert flat.grad is not None
                flat.grad[start : start + numel] = grad[at : at + numel]
        paper.param_groups[0]["lr"] = 0.02
        paper.step()
        optimizer.step()
    for p, pieces in zip(parameters, places, strict=True):
        found = torch.cat([flat[start : start + n] for _, flat, start, n in pieces])
        torch.testing.assert_close(found.detach(), p.detach(), rtol=1e-12, atol=1e-14)


def test_the_norm_of_a_large_matrix_is_exact() -> None:
    torch.manual_seed(0)
    model = nn.ParameterDict({"w": nn.Parameter(torch.full((20_000_000,), 1e-3))})
    before = model["w"].detach().clone()
    model["w"].grad = torch.ones_like(before)
    ours(model, weight_decay=0.0, lr=1.0).step()
    moved = (model["w"].detach() - before).double().norm()
    assert float(moved) == pytest.approx(float(before.double().norm()), rel=1e-5)


def test_parts_of_the_authors_matrices_are_joined() -> None:
    parts = {"layers.0.attention.query.weight", "layers.0.attention.key_value.weight"}
    tables = {"embedding.tables.0", "embedding.tables.1", "embedding.tables.2"}
    biases = {"softmax.biases.0", "softmax.biases.1", "softmax.biases.2"}
    one_width = tiny_model(cutoffs=(4, 9), n_layer=1)
    widths = tiny_model(cutoffs=(4, 9), n_layer=1, div_val=2)
    for model, expected in ((one_width, [parts, tables, biases]), (widths, [parts])):
        found: dict[str, set[str]] = {}
        for name, matrix in matrices(model).items():
            found.setdefault(matrix, set()).add(name)
        assert set().union(*found.values()) == {name for name, _ in model.named_parameters()}
        joined = [names for names in found.values() if len(names) > 1]
        assert sorted(joined, key=min) == sorted(expected, key=min)
