"""Nats that are read without logits equal cross entropy, however the words go by."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import empty, segment_of, tiny_model
from torch import Tensor

from trainer.model.cpu import backend, word_runs
from trainer.model.cpu import streamed_nats as module
from trainer.model.cpu.streamed_nats import streamed_nats
from trainer.protocol import IGNORED

V, OTHERS, C = 70, 4, 5


def problem(n_rows: int, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return hidden states, targets, and tables of 70 and 4 words."""
    torch.manual_seed(n_rows)
    shapes = ((n_rows, C), (V, C), (V,), (OTHERS, C), (OTHERS,))
    hidden_NC, *tables = [torch.randn(shape, dtype=dtype) for shape in shapes]
    targets_N = torch.randint(V + OTHERS, (n_rows,))
    targets_N[1::4] = IGNORED
    targets_N[2::8] = V + 1  # of the other table
    targets_N[4::8] = 3  # the same for several
    return hidden_NC, targets_N, *tables


def plain_nats(hidden_NC: Tensor, targets_N: Tensor, *tables: Tensor) -> Tensor:
    """Return PyTorch's own cross entropy over all words, in fp32 at least."""
    logits = F.linear(hidden_NC, torch.cat(tables[::2]), torch.cat(tables[1::2]))
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets_N, ignore_index=IGNORED, reduction="none")


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("slope", [-40.0, 0.0, 40.0])
@pytest.mark.parametrize("words", [16, 48, 4096])
@pytest.mark.parametrize("n_rows", [0, 1, 17, 100])
def test_nats_equal_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, words: int, slope: float, autocast: bool
) -> None:
    monkeypatch.setattr(word_runs, "_PIECE_WORDS", words)
    monkeypatch.setattr(module, "_READ_ROWS", 32)
    dtype = torch.float32 if autocast else torch.float64
    hidden_NC, targets_N, w, b, w2, b2 = problem(n_rows, dtype=dtype)
    b += torch.linspace(0, slope, V)  # the largest logit comes last, first, or anywhere
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        nll_N = streamed_nats(hidden_NC, targets_N, [(w, b), (w2, b2)])
        plain_N = plain_nats(hidden_NC, targets_N, w, b, w2, b2)
    assert nll_N.dtype == dtype
    tolerance = {"rtol": 0.05, "atol": 0.05} if autocast else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(nll_N, plain_N, **tolerance)


def test_large_logits_neither_overflow_nor_lose_small_nats() -> None:
    hidden_NC = torch.tensor([[1e4], [3e4]])
    tables = [(torch.tensor([[1.0], [-1.0]]), torch.zeros(2))]
    assert streamed_nats(hidden_NC, torch.tensor([0, 1]), tables).tolist() == [0, 6e4]


def test_words_may_be_ruled_out_by_their_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_runs, "_PIECE_WORDS", 16)
    hidden_NC, targets_N, w, b, _, _ = problem(3)
    b[:48] = -torch.inf
    targets_N = targets_N % 20 + 50
    nll_N = streamed_nats(hidden_NC, targets_N, [(w, b)])
    torch.testing.assert_close(nll_N, plain_nats(hidden_NC, targets_N, w, b))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(bad: float) -> None:
    hidden_NC, targets_N, w, b, _, _ = problem(3)
    w[0, 0] = bad
    assert not torch.isfinite(streamed_nats(hidden_NC, targets_N % V, [(w, b)])).all()


def test_a_model_reads_so_where_no_gradient_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    n_read: list[int] = []

    def read(hidden_NC: Tensor, *args: Any) -> Tensor:
        n_read.append(len(hidden_NC))
        return streamed_nats(hidden_NC, *args)

    monkeypatch.setattr(backend, "streamed_nats", read)
    model = tiny_model(V)
    segment = segment_of(torch.arange(8)[None])
    model(segment, empty(model, 1, 4))
    assert n_read == []
    with torch.no_grad():
        model(segment, empty(model, 1, 4))
    assert n_read == [8]
