"""The fast softmax equals cross entropy over linear logits, and the embedding's rows join it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import empty, segment_of, tiny_model, tiny_model_config
from torch import Tensor

from trainer.model.cpu import backend
from trainer.model.cpu import linear_nll as module
from trainer.model.cpu.linear_nll import linear_nll
from trainer.model.tied_embedding import Handoff, tied_lookup
from trainer.model.transformer_xl import TransformerXL
from trainer.protocol import IGNORED

V = 20


def problem(n_rows: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return hidden states, targets, and two tables of 7 and 4 words."""
    torch.manual_seed(n_rows)
    leaves = [torch.randn(size, dtype=dtype) for size in ((n_rows, 5), (7, 5), (7,), (4, 5), (4,))]
    targets_N = torch.randint(11, (n_rows,))
    targets_N[1::4] = IGNORED
    hidden_NC, *tables = [leaf.requires_grad_() for leaf in leaves]
    return hidden_NC, targets_N, *tables


@pytest.mark.parametrize("block", [1, 40, 1 << 20])
@pytest.mark.parametrize("n_rows", [0, 1, 16, 17, 60])
@pytest.mark.parametrize("is_uniform", [True, False])
def test_nats_and_gradients_equal_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, block: int, is_uniform: bool
) -> None:
    monkeypatch.setattr(module, "_BLOCK_LOGITS", block)
    monkeypatch.setattr(module, "_MADE_ROWS", 16)
    hidden_NC, targets_N, w, b, w2, b2 = problem(n_rows)
    logits = F.linear(hidden_NC, torch.cat([w, w2]), torch.cat([b, b2]))
    plain_N = F.cross_entropy(logits, targets_N, ignore_index=IGNORED, reduction="none")
    fast_N = linear_nll(hidden_NC, targets_N, [(w, b), (w2, b2)])
    torch.testing.assert_close(fast_N, plain_N)
    weights_N = torch.full((n_rows,), 0.7, dtype=torch.float64)
    if not is_uniform:
        weights_N = torch.randn_like(weights_N)
    leaves = [hidden_NC, w, b, w2, b2]
    plain = torch.autograd.grad(plain_N @ weights_N, leaves)
    for _ in range(2):
        fast = torch.autograd.grad(fast_N @ weights_N, leaves, retain_graph=True)
        torch.testing.assert_close(fast, plain)


@pytest.mark.parametrize(("n_rows", "is_made"), [(5, False), (6, True), (60, True)])
def test_gradients_smaller_than_the_errors_are_made_at_once_and_used_once(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, is_made: bool
) -> None:
    made: list[int] = []
    of_rows = module._write

    def spy(grads: Any, hidden: Tensor, *args: Any, **named: Any) -> None:
        made.append(len(hidden))
        of_rows(grads, hidden, *args, **named)

    monkeypatch.setattr(module, "_write", spy)
    monkeypatch.setattr(module, "_MADE_ROWS", 32)
    hidden_NC, targets_N, w, b, w2, b2 = problem(n_rows)
    nll_N = linear_nll(hidden_NC, targets_N, [(w, b), (w2, b2)])
    at_once = {5: [], 6: [6], 60: [32, 28]}[n_rows]
    assert made == at_once
    nll_N.sum().backward(retain_graph=True)
    assert made == (at_once if is_made else [n_rows])
    nll_N.sum().backward()
    assert sum(made) == 2 * n_rows


def test_large_logits_neither_overflow_nor_lose_small_nats() -> None:
    hidden_NC = torch.tensor([[1e4], [3e4]])
    weight, bias = torch.tensor([[1.0], [-1.0]]), torch.tensor([0.0, 0.0])
    nll_N = linear_nll(hidden_NC, torch.tensor([0, 1]), [(weight, bias)])
    assert nll_N.tolist() == [0, 6e4]


def test_autocast_gives_gradients_in_the_parameters_dtype() -> None:
    hidden_NC, targets_N, w, b, _, _ = problem(30, dtype=torch.float32)
    targets_N = targets_N.clamp(max=6)
    with torch.autocast("cpu", torch.bfloat16):
        nll_N = linear_nll(hidden_NC, targets_N, [(w, b)])
        plain_N = F.cross_entropy(
            F.linear(hidden_NC, w, b).float(), targets_N, reduction="none", ignore_index=IGNORED
        )
    assert nll_N.dtype == torch.float32
    torch.testing.assert_close(nll_N, plain_N)
    for fast, plain in zip(
        torch.autograd.grad(nll_N.sum(), [hidden_NC, w, b]),
        torch.autograd.grad(plain_N.sum(), [hidden_NC, w, b]),
        strict=True,
    ):
        assert fast.dtype == torch.float32
        torch.testing.assert_close(fast, plain, rtol=0.05, atol=0.05)


MODELS: dict[str, dict[str, Any]] = {
    "full": {},
    "clusters": {"cutoffs": (5, 12)},
    "halved": {"cutoffs": (5, 12), "div_val": 2},
    "untied": {"cutoffs": (5, 12), "tie_embedding": False},
}


@pytest.mark.parametrize("shape", [(1, 2), (2, 6)])
@pytest.mark.parametrize("n_passes", [1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_the_fast_model_equals_the_plain_one_also_over_several_passes(
    kind: str, n_passes: int, shape: tuple[int, int]
) -> None:
    models = {
        kernels: tiny_model(V, kernels=kernels, **MODELS[kind]) for kernels in ("auto", "plain")
    }
    torch.manual_seed(1)
    tokens_BT = torch.randint(V, shape)
    segment = segment_of(tokens_BT, cutoffs=models["auto"].config.cutoffs)
    grads = {}
    for kernels, model in models.items():
        loss = torch.zeros((), dtype=torch.float64)
        memory = empty(model, shape[0], 4)
        for _ in range(n_passes):
            output = model(segment, memory)
            loss, memory = loss + output.loss_sum, output.memory
        loss.backward()
        grads[kernels] = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(grads["auto"], grads["plain"])


@pytest.mark.parametrize("shape", [(1, 2), (2, 12)])
def test_one_pass_makes_one_dense_gradient_of_each_table(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    left: list[int] = []
    put = Handoff.put

    def spy(self: Handoff, cluster: int, grad_VC: Tensor) -> Tensor | None:
        left.append(grad_VC.data_ptr())
        return put(self, cluster, grad_VC)

    monkeypatch.setattr(Handoff, "put", spy)
    model = TransformerXL(tiny_model_config(d_model=64, cutoffs=(5, 12)), V)
    tokens_BT = torch.arange(shape[0] * shape[1]).view(shape) % 5
    model(segment_of(tokens_BT, cutoffs=(5, 12)), empty(model, shape[0], 4)).loss_sum.backward()
    grads = [p.grad for p in model.embedding.tables]
    assert sorted(left) == sorted(g.data_ptr() for g in grads if g is not None)


def test_the_plain_path_knows_of_no_handoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Handoff, "__init__", lambda *_, **__: pytest.fail("a handoff"))
    model = TransformerXL(tiny_model_config(cutoffs=(5, 12), kernels="plain"), V)
    segment = segment_of(torch.randint(V, (2, 6)), cutoffs=(5, 12))
    model(segment, empty(model, 2, 4)).loss_sum.backward()


def test_a_tail_has_few_different_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    n_rows: set[int] = set()
    monkeypatch.setattr(
        backend,
        "linear_nll",
        lambda hidden_NC, *args, **named: (
            n_rows.add(len(hidden_NC)) or linear_nll(hidden_NC, *args, **named)
        ),
    )
    model = TransformerXL(tiny_model_config(cutoffs=(5,)), V)
    for n_of_tail in (0, 1, 7, 16, 17, 30):
        tokens_BT = torch.tensor([[19] * n_of_tail + [0] * (33 - n_of_tail)])
        model(segment_of(tokens_BT, cutoffs=(5,)), empty(model, 1, 4))
    assert n_rows == {33, 0, 16, 32}


def test_an_embedding_without_its_softmax_makes_its_own_gradient() -> None:
    table_VC = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    ids_N = torch.tensor([1, 1, 3])
    rows = tied_lookup(ids_N, table_VC, Handoff(), 0)
    (grad,) = torch.autograd.grad((rows**2).sum(), table_VC)
    (wanted,) = torch.autograd.grad((F.embedding(ids_N, table_VC) ** 2).sum(), table_VC)
    torch.testing.assert_close(grad, wanted)
