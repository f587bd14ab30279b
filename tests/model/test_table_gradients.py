"""Gradients that are kept apart equal those that autograd adds up, and so does their use."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from builders import empty, segment_of, tiny_model
from torch import Tensor, nn

from trainer.engine.adam import Adam
from trainer.model import tied_embedding, word_runs
from trainer.model.cpu.streamed_nll import streamed_nll
from trainer.model.table_gradients import TableGradient, TableGradients

N_WORDS, CUTOFFS = 60, (5, 20)
MODELS: dict[str, dict[str, Any]] = {
    "one table": {},
    "clusters": {"cutoffs": CUTOFFS},
    "halved": {"cutoffs": CUTOFFS, "div_val": 2},
    "untied": {"cutoffs": CUTOFFS, "tie_embedding": False},
}


@pytest.fixture(autouse=True)
def _in_several_pieces_and_of_at_most_eight_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_runs, "_PIECE_WORDS", 16)
    monkeypatch.setattr(tied_embedding, "_WORTH", 16)


def backward(model: nn.Module, *n_tokens: int, more: Callable[..., Tensor] | None = None) -> None:
    """Of one loss, in passes of so many tokens, and more of the table and its biases."""
    generator = torch.Generator().manual_seed(n_tokens[0])
    loss, memory = torch.zeros((), dtype=torch.float64), empty(cast(Any, model), 1, 4)
    for n in n_tokens:
        tokens_BT = torch.randint(N_WORDS, (1, n), generator=generator)
        output = model(segment_of(tokens_BT, cutoffs=model.config.cutoffs), memory)
        loss, memory = loss + output.loss_sum, output.memory
    if more is not None:
        loss = loss + more(*first_table(model))
    loss.backward()


def first_table(model: nn.Module) -> tuple[Tensor, Tensor]:
    module = cast(Any, model)
    return module.softmax.tables[0], module.softmax.biases[0]


def kept_parameters(apart: TableGradients) -> set[Tensor]:
    return {parameter for gradient in apart for parameter in gradient.parameters}


def assert_same_gradients(model: nn.Module, apart: TableGradients, plain: nn.Module) -> None:
    """What a model has, and what is apart, of others, are what a plain one has."""
    found = {p: grad for gradient in apart for p, grad in whole(gradient).items()}
    wanted = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter not in found
        grad, wanted_grad = found.get(parameter, parameter.grad), wanted[name].grad
        assert (grad is None) == (wanted_grad is None), name
        if grad is not None:
            torch.testing.assert_close(grad, wanted_grad, msg=name)


def whole(gradient: TableGradient) -> dict[Tensor, Tensor]:
    """By parameter, of a table and its biases."""
    pieces = [[grad.clone() for grad in grads] for _, *grads in gradient.pieces()]
    assert len(pieces) > 1 or len(gradient.parameters[0]) <= 16
    wholes = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return dict(zip(gradient.parameters, wholes, strict=True))


@pytest.mark.parametrize("n_tokens", [(1,), (8,), (40,), (1, 5), (8, 40), (40, 8), (3, 40, 8)])
@pytest.mark.parametrize("kind", MODELS)
def test_parts_of_a_models_gradient_are_what_autograd_adds_up(
    kind: str, n_tokens: tuple[int, ...]
) -> None:
    plain, model = (tiny_model(N_WORDS, **MODELS[kind]) for _ in range(2))
    model.table_gradients = apart = TableGradients()
    backward(plain, *n_tokens)
    backward(model, *n_tokens)
    apart.join_wholes()
    squares = apart.squared_norms()
    assert_same_gradients(model, apart, plain)
    of_kept = [sum(g.square().sum() for g in whole(gradient).values()) for gradient in apart]
    torch.testing.assert_close(squares, of_kept)
    if kind == "one table":
        assert bool(of_kept) == (max(n_tokens) <= 8)


@pytest.mark.parametrize("n_tokens", [(4, 4), (4, 6), (6, 4), (6, 4, 6), (40, 6, 4), (4, 6, 40)])
def test_passes_of_any_ways_share_a_backward(
    monkeypatch: pytest.MonkeyPatch, n_tokens: tuple[int, ...]
) -> None:
    """Of 4 rows errors are made again, of 6 they are carried, and of 40 the gradient is."""
    monkeypatch.setattr(tied_embedding, "_WORTH", 6)
    plain, model = (tiny_model(N_WORDS) for _ in range(2))
    model.table_gradients = apart = TableGradients()
    for one in (plain, model):
        backward(one, *n_tokens)
    apart.join_wholes()
    assert_same_gradients(model, apart, plain)


@pytest.mark.parametrize("which", [0, 1])
def test_a_loss_of_more_terms_has_them_all(which: int) -> None:
    plain, model = (tiny_model(N_WORDS) for _ in range(2))
    model.table_gradients = apart = TableGradients()
    for one in (plain, model):
        backward(one, 4, more=lambda *table: table[which].square().sum())
    assert list(apart)
    apart.join_wholes()
    assert not list(apart)
    assert_same_gradients(model, apart, plain)


UNUSUAL: dict[str, Callable[[Tensor], object]] = {
    "frozen": lambda parameter: parameter.requires_grad_(False),
    "hooked": lambda parameter: parameter.register_hook(lambda grad: 2 * grad),
    "watched": lambda parameter: parameter.register_post_accumulate_grad_hook(lambda _: None),
    "out of order": lambda parameter: setattr(parameter, "data", parameter.t().contiguous().t()),
}


@pytest.mark.parametrize(("how", "which"), [(how, 0) for how in UNUSUAL] + [("frozen", 1)])
def test_a_parameter_treated_unusually_has_its_gradient_to_itself(how: str, which: int) -> None:
    plain, model = (tiny_model(N_WORDS) for _ in range(2))
    model.table_gradients = apart = TableGradients()
    for one in (plain, model):
        UNUSUAL[how](first_table(one)[which])
        backward(one, 4)
    assert not list(apart)
    assert_same_gradients(model, apart, plain)


def test_what_is_cleared_is_gone() -> None:
    model = tiny_model(N_WORDS)
    model.table_gradients = apart = TableGradients()
    backward(model, 2)
    assert kept_parameters(apart) == set(first_table(model))
    apart.clear()
    assert kept_parameters(apart) == set()
    assert apart.squared_norms() == []


def kept(
    n_rows: int, *, n_words: int = 40, width: int = 8, autocast: bool = False
) -> tuple[TableGradient, list[Tensor]]:
    """Of one softmax, and its table's and biases' gradients as autograd makes them."""
    torch.manual_seed(n_rows)
    table_VC, bias_V = torch.randn(n_words, width), torch.randn(n_words)
    hidden_NC, targets_N = torch.randn(n_rows, width), torch.randint(n_words, (n_rows,))
    gradients = TableGradients()
    leaves = [x.requires_grad_() for x in (table_VC, bias_V)]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        nll_N = streamed_nll(
            hidden_NC.requires_grad_(), targets_N, [(table_VC, bias_V)], apart=gradients
        )
    nll_N.sum().backward()
    (gradient,) = gradients
    plain = F.cross_entropy(F.linear(hidden_NC, *leaves), targets_N, reduction="sum")
    return gradient, list(torch.autograd.grad(plain, leaves))


@pytest.mark.parametrize("ids", [[], [3], [3, 3, 0, 39, 16, 15], list(range(40))])
def test_rows_join_the_words_that_they_are_of(ids: list[int]) -> None:
    gradient, (table_VC, bias_V) = kept(4)
    rows_NC, ids_N = torch.randn(len(ids), 8), torch.tensor(ids, dtype=torch.int64)
    gradient.add_rows(ids_N, rows_NC)
    wanted = [table_VC.index_add(0, ids_N, rows_NC), bias_V]
    torch.testing.assert_close(list(whole(gradient).values()), wanted)
    norm = sum(grad.square().sum() for grad in wanted)
    torch.testing.assert_close(gradient.squared_norm(), norm)


def test_the_norm_of_gradients_in_16_bits_is_in_32() -> None:
    gradient, exact = kept(20, n_words=3000, width=16, autocast=True)
    found = gradient.squared_norm()
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(sum(float(x.square().sum()) for x in exact), rel=1e-2)
    for of_parameter, wanted in zip(whole(gradient).values(), exact, strict=True):
        assert of_parameter.dtype == torch.float32
        torch.testing.assert_close(of_parameter, wanted, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("grad_scale", [None, torch.tensor(4.0)])
def test_adam_takes_the_parts_as_it_takes_the_gradient(
    decoupled: bool, grad_scale: Tensor | None
) -> None:
    models = [tiny_model(N_WORDS, cutoffs=CUTOFFS) for _ in range(2)]
    settings: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.1, "fused": True}
    plain, adam = (
        Adam(m.parameters(), decoupled_weight_decay=decoupled, **settings) for m in models
    )
    for table_VC in models[1].parameters():
        zeros = {key: torch.zeros_like(table_VC) for key in ("exp_avg", "exp_avg_sq")}
        adam.state[table_VC] = {"step": torch.tensor(0.0), **zeros}
    models[1].table_gradients = adam.table_gradients = TableGradients()
    plain.grad_scale = adam.grad_scale = grad_scale
    for n_tokens in (3, 8, 5):
        for model, optimizer in zip(models, (plain, adam), strict=True):
            backward(model, n_tokens)
            optimizer.step()
            optimizer.zero_grad()
        assert not list(adam.table_gradients)
    wanted = dict(models[0].named_parameters())
    for name, parameter in models[1].named_parameters():
        torch.testing.assert_close(parameter, wanted[name], msg=name)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(adam.state[parameter][key], plain.state[wanted[name]][key])
