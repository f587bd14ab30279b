"""The softmax of few rows equals cross entropy over linear logits, however the words go by."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import empty, segment_of, tiny_model
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer.model import adaptive, tied_embedding, word_runs
from trainer.model.cpu import streamed_nll as streamed
from trainer.model.cpu.streamed_nll import streamed_nats, streamed_nll
from trainer.model.table_gradients import TableGradients
from trainer.protocol import IGNORED

V, OTHERS, C = 70, 4, 5


def problem(n_rows: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Hidden states, targets, and tables of 70 and 4 words."""
    torch.manual_seed(n_rows)
    shapes = ((n_rows, C), (V, C), (V,), (OTHERS, C), (OTHERS,))
    hidden_NC, *tables = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    targets_N = torch.randint(V + OTHERS, (n_rows,))
    targets_N[1::4] = IGNORED
    targets_N[2::8] = V + 1  # of the other table
    targets_N[4::8] = 3  # the same for several
    return hidden_NC, targets_N, *tables


def kept(apart: TableGradients) -> list[Tensor]:
    """The gradients of the one table and of its biases."""
    (gradient,) = apart
    pieces = [[grad.clone() for grad in grads] for _, *grads in gradient.pieces()]
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]


@pytest.mark.parametrize("slope", [-40.0, 0.0, 40.0])
@pytest.mark.parametrize("words", [16, 48, 4096])
@pytest.mark.parametrize("n_rows", [0, 1, 16, 17, 100])
def test_nats_and_gradients_equal_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, words: int, slope: float
) -> None:
    monkeypatch.setattr(word_runs, "_PIECE_WORDS", words)
    hidden_NC, targets_N, w, b, w2, b2 = problem(n_rows)
    with torch.no_grad():  # the largest logit comes last, first, or anywhere
        b += torch.linspace(0, slope, V)
    logits = F.linear(hidden_NC, torch.cat([w, w2]), torch.cat([b, b2]))
    plain_N = F.cross_entropy(logits, targets_N, ignore_index=IGNORED, reduction="none")
    apart = TableGradients()
    fast_N = streamed_nll(hidden_NC, targets_N, [(w, b), (w2, b2)], apart=apart)
    torch.testing.assert_close(fast_N, plain_N)
    upstream_N = torch.randn(n_rows, dtype=torch.float64)
    wanted = torch.autograd.grad(plain_N @ upstream_N, [hidden_NC, w2, b2, w, b])
    found = torch.autograd.grad(fast_N @ upstream_N, [hidden_NC, w2, b2])
    torch.testing.assert_close(found, wanted[:3])
    torch.testing.assert_close(kept(apart), list(wanted[3:]))
    (norm,) = apart.squared_norms()
    torch.testing.assert_close(norm, sum(grad.square().sum() for grad in wanted[3:]))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("slope", [-40.0, 40.0])
@pytest.mark.parametrize("n_rows", [0, 1, 17, 100])
def test_nats_without_gradients_are_the_same(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, slope: float, autocast: bool
) -> None:
    monkeypatch.setattr(word_runs, "_PIECE_WORDS", 16)
    monkeypatch.setattr(streamed, "_READ_ROWS", 32)
    dtype = torch.float32 if autocast else torch.float64
    hidden_NC, targets_N, w, b, w2, b2 = problem(n_rows, dtype=dtype)
    with torch.no_grad():
        b += torch.linspace(0, slope, V)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        kept_N = streamed_nll(hidden_NC, targets_N, [(w, b), (w2, b2)], apart=TableGradients())
        nll_N = streamed_nats(hidden_NC, targets_N, [(w, b), (w2, b2)])
    assert nll_N.dtype == dtype
    assert not nll_N.requires_grad
    torch.testing.assert_close(nll_N, kept_N, rtol=1e-5 if autocast else 1e-12, atol=1e-5)


def test_large_logits_neither_overflow_nor_lose_small_nats() -> None:
    hidden_NC = torch.tensor([[1e4], [3e4]])
    tables = [(torch.tensor([[1.0], [-1.0]]).requires_grad_(), torch.zeros(2).requires_grad_())]
    apart = TableGradients()
    nll_N = streamed_nll(hidden_NC, torch.tensor([0, 1]), tables, apart=apart)
    assert nll_N.tolist() == [0, 6e4]
    assert streamed_nats(hidden_NC, torch.tensor([0, 1]), tables).tolist() == [0, 6e4]
    nll_N.sum().backward()
    assert kept(apart)[0].tolist() == [[3e4], [-3e4]]
    assert apart.squared_norms()[0] == pytest.approx(2 * 3e4**2 + 2)


def test_the_norm_of_what_is_almost_certain_keeps_its_digits() -> None:
    """Errors of 1e-6 are not what is left of a difference of ones."""
    table_VC, bias_V = torch.zeros(3, 1, requires_grad=True), torch.tensor([14.0, 0.0, 0.0])
    bias_V.requires_grad_()
    apart = TableGradients()
    nll_N = streamed_nll(torch.ones(2, 1), torch.tensor([0, 0]), [(table_VC, bias_V)], apart=apart)
    nll_N.sum().backward()
    exact_V = 2 * torch.tensor([14.0, 0.0, 0.0]).double().softmax(0)
    exact_V[0] = -exact_V[1:].sum()
    (norm,) = apart.squared_norms()
    assert float(norm) == pytest.approx(2 * float(exact_V.square().sum()), rel=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_rows_that_cancel_have_a_norm_of_nothing(autocast: bool) -> None:
    """What they share is what the model says: no gradient is left, of errors that are large."""
    table_VC, bias_V = torch.randn(3, 4).requires_grad_(), torch.zeros(3)
    hidden_NC = torch.randn(4).expand(60, 4)
    with torch.no_grad():
        bias_V -= F.linear(hidden_NC[0], table_VC)  # all words are as likely
    tables, apart = [(table_VC, bias_V.requires_grad_())], TableGradients()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        nll_N = streamed_nll(hidden_NC, torch.arange(60) % 3, tables, apart=apart)
    nll_N.sum().backward()
    (norm,) = apart.squared_norms()
    assert 0 <= float(norm) < (10 if autocast else 1e-4) < float((1 - 1 / 3) ** 2 * 60 * 60)


def test_words_may_be_ruled_out_by_their_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_runs, "_PIECE_WORDS", 16)
    hidden_NC, targets_N, w, b, _, _ = problem(3)
    with torch.no_grad():
        b[:48] = -torch.inf
    plain_N = F.cross_entropy(F.linear(hidden_NC, w, b), targets_N % 20 + 50, reduction="none")
    apart = TableGradients()
    nll_N = streamed_nll(hidden_NC, targets_N % 20 + 50, [(w, b)], apart=apart)
    torch.testing.assert_close(nll_N, plain_N)
    torch.testing.assert_close(
        streamed_nats(hidden_NC, targets_N % 20 + 50, [(w, b)]), plain_N.detach()
    )
    nll_N.sum().backward()
    torch.testing.assert_close(kept(apart)[0], torch.autograd.grad(plain_N.sum(), w)[0])


def test_logits_rounded_by_more_than_one_leave_a_norm_of_their_size() -> None:
    hidden_NC, targets_N, w, b, _, _ = problem(40, dtype=torch.float32)
    with torch.no_grad():
        w *= 1e8
    apart = TableGradients()
    streamed_nll(hidden_NC, targets_N % V, [(w, b)], apart=apart).sum().backward()
    exact = [grad.square().sum() for grad in kept(apart)]
    assert 0.1 < apart.squared_norms()[0] / sum(exact) < 10


def test_under_checkpointing_it_is_the_parameters_whose_gradients_are_kept() -> None:
    hidden_NC, targets_N, w, b, _, _ = problem(30)
    apart = TableGradients()
    nll_N = checkpoint(
        streamed_nll, hidden_NC, targets_N % V, [(w, b)], apart=apart, use_reentrant=False
    )
    nll_N.sum().backward()
    (gradient,) = apart
    assert [id(p) for p in gradient.parameters] == [id(w), id(b)]
    plain = F.cross_entropy(F.linear(hidden_NC, w, b), targets_N % V, reduction="sum")
    torch.testing.assert_close(kept(apart), list(torch.autograd.grad(plain, [w, b])))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(bad: float) -> None:
    hidden_NC, targets_N, w, b, _, _ = problem(3)
    with torch.no_grad():
        w[0, 0] = bad
    apart = TableGradients()
    streamed_nll(hidden_NC, targets_N % V, [(w, b)], apart=apart).sum().backward()
    assert not torch.isfinite(apart.squared_norms()[0])


def test_autocast_gives_gradients_in_the_parameters_dtype() -> None:
    hidden_NC, targets_N, w, b, w2, b2 = problem(30, dtype=torch.float32)
    tables, apart = [(w, b), (w2, b2)], TableGradients()
    with torch.autocast("cpu", torch.bfloat16):
        nll_N = streamed_nll(hidden_NC, targets_N, tables, apart=apart)
    logits = F.linear(hidden_NC, torch.cat([w, w2]), torch.cat([b, b2]))
    plain_N = F.cross_entropy(logits, targets_N, ignore_index=IGNORED, reduction="none")
    assert nll_N.dtype == torch.float32
    torch.testing.assert_close(nll_N, plain_N, rtol=0.05, atol=0.05)
    found = [*torch.autograd.grad(nll_N.sum(), [hidden_NC, w2, b2]), *kept(apart)]
    wanted = torch.autograd.grad(plain_N.sum(), [hidden_NC, w2, b2, w, b])
    for fast, plain in zip(found, wanted, strict=True):
        assert fast.dtype == torch.float32
        torch.testing.assert_close(fast, plain, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(("worth", "streamed"), [(0, []), (16, [8]), (10**6, [8, 40])])
def test_a_model_streams_where_rows_are_few_and_gradients_kept_apart(
    monkeypatch: pytest.MonkeyPatch, worth: int, streamed: list[int]
) -> None:
    n_rows: list[int] = []
    n_read: list[int] = []

    def read(hidden_NC: Tensor, *args: Any) -> Tensor:
        n_read.append(len(hidden_NC))
        return streamed_nats(hidden_NC, *args)

    def spy(hidden_NC: Tensor, *args: object, **named: object) -> Tensor:
        n_rows.append(len(hidden_NC))
        return streamed_nll(hidden_NC, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(adaptive, "streamed_nats", read)
    monkeypatch.setattr(adaptive, "streamed_nll", spy)
    monkeypatch.setattr(tied_embedding, "_WORTH", worth)
    model = tiny_model(V)
    segments = [segment_of(torch.arange(n)[None]) for n in (8, 40)]
    for segment in segments:
        model(segment, empty(model, 1, 4))
    assert n_rows == []  # nothing takes what is kept apart
    model.table_gradients = TableGradients()
    with torch.no_grad():
        model(segments[0], empty(model, 1, 4))
    assert n_rows == []
    assert n_read == [8]
    for segment in segments:
        model(segment, empty(model, 1, 4))
    assert n_rows == streamed
