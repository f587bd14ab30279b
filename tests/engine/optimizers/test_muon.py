"""Muon is its formulas on whole matrices, whatever pieces of them ZeRO hands to the optimizer."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from cut_up import Piece, cut_up
from hypothesis import given
from hypothesis import strategies as st
from plain_muon import BETAS, EPS, PlainMuon, orthogonal
from torch import Tensor, nn

from trainer.engine.full_state import Fragment
from trainer.engine.optimizers.muon import Muon, orthogonalised
from trainer.model import matrices as batching
from trainer.model.matrices import Matrices


def made(
    flats: list[nn.Parameter],
    fragments: dict[Tensor, list[Fragment]],
    sizes: dict[str, Matrices],
    *,
    dtype: torch.dtype = torch.float64,
    sum_over_ranks: Callable[[Tensor], None] | None = None,
    share: tuple[int, int] | None = None,
) -> Muon:
    optimizer = Muon(flats, lr=0.02, betas=BETAS, eps=EPS, weight_decay=0.1, dtype=dtype)
    optimizer.cut(fragments, matrices=sizes, sum_over_ranks=sum_over_ranks, share=share)
    return optimizer


def of_size(n: int, rows: int, columns: int) -> Matrices:
    return Matrices(n, rows, columns, max(rows, columns))


sizes_drawn = st.lists(
    st.sampled_from([(1, 3, 5), (1, 5, 3), (2, 3, 5), (1, 4, 4), (1, 1, 6), (0, 4, 3), (0, 1, 7)]),
    min_size=1,
    max_size=7,
)


@given(
    drawn=sizes_drawn,
    cuts=st.lists(st.integers(0, 200), max_size=4),
    largest=st.sampled_from([1, 40, 1 << 24]),
    decay=st.sampled_from([0.0, 0.1]),
)
def test_the_update_does_not_depend_on_how_matrices_are_cut_nor_batched(
    drawn: list[tuple[int, int, int]], cuts: list[int], largest: int, decay: float
) -> None:
    """One call with several flat tensors, between whose fragments there is what is no number."""
    torch.manual_seed(0)
    names = [f"p{i}" for i in range(len(drawn))]
    shapes = [(max(n, 1) * rows, columns) for n, rows, columns in drawn]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    parameters = {name: nn.Parameter(t.clone()) for name, t in zip(names, tensors, strict=True)}
    numbers = {name: n for name, (n, _, _) in zip(names, drawn, strict=True) if n}
    sizes = {name: of_size(*d) for name, d in zip(names, drawn, strict=True) if d[0]}
    plain = PlainMuon(parameters, numbers, decay=decay)
    flats, fragments, places = cut_up([t.flatten() for t in tensors], names, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "BATCH", largest)
        optimizer = made(flats, fragments, sizes)
    optimizer.param_groups[0]["weight_decay"] = decay
    for step in range(3):
        for flat in flats:
            flat.grad = torch.full_like(flat, torch.nan)
        for p, pieces in zip(parameters.values(), places, strict=True):
            p.grad = torch.randn_like(p) * 1e-6
            for at, flat, start, numel in pieces:
                assert flat.grad is not None
                flat.grad[start : start + numel] = p.grad.flatten()[at : at + numel]
        for one in (plain, optimizer):
            one.param_groups[0]["lr"] = 0.02 * (step + 1)
            one.step()
    for p, pieces in zip(parameters.values(), places, strict=True):
        found = torch.cat([flat[start : start + n] for _, flat, start, n in pieces])
        torch.testing.assert_close(found.detach(), p.detach().flatten(), rtol=1e-9, atol=1e-11)


@given(
    drawn=sizes_drawn,
    cuts=st.lists(st.integers(0, 200), min_size=2, max_size=2),
    largest=st.sampled_from([1, 40, 1 << 24]),
    whole=st.booleans(),
)
def test_ranks_that_each_have_a_part_or_all_of_it_make_the_same_update(
    drawn: list[tuple[int, int, int]], cuts: list[int], largest: int, whole: bool
) -> None:
    """Three ranks, of which some may have no fragment; threads stand for them."""
    torch.manual_seed(0)
    names = [f"p{i}" for i in range(len(drawn))]
    tensors = [torch.randn(max(n, 1) * rows * columns).double() for n, rows, columns in drawn]
    sizes = {name: of_size(*d) for name, d in zip(names, drawn, strict=True) if d[0]}
    grads = [torch.randn_like(t) for t in tensors]
    meeting = Meeting()
    alone, *ranks = (
        [cut_up(tensors, names, []) for _ in range(4)]
        if whole
        else [cut_up(tensors, names, []), *of_each_rank(tensors, names, cuts)]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "BATCH", largest)
        optimizers = [made(alone[0], alone[1], sizes)]
        for i, (flats, fragments, _) in enumerate(ranks):
            share = (i, 3) if whole else None
            optimizers.append(
                made(flats, fragments, sizes, sum_over_ranks=meeting.sum, share=share)
            )
    for flats, _, places in (alone, *ranks):
        for flat in flats:
            flat.grad = torch.full_like(flat, torch.nan)
        for grad, pieces in zip(grads, places, strict=True):
            for at, flat, start, numel in pieces:
                assert flat.grad is not None
                flat.grad[start : start + numel] = grad[at : at + numel]
    optimizers[0].step()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(optimizer.step) for optimizer in optimizers[1:]]
        for one in waiting:
            one.result(timeout=1000)
    expected = updated(tensors, [alone])
    for found in (
        [updated(tensors, [rank]) for rank in ranks] if whole else [updated(tensors, ranks)]
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


class Meeting:
    """A sum over three threads."""

    def __init__(self) -> None:
        self.barrier, self.given = threading.Barrier(3, timeout=300), list[Tensor]()

    def sum(self, tensor: Tensor) -> None:
        self.given.append(tensor)
        self.barrier.wait()
        total = torch.stack(self.given).sum(0)
        if self.barrier.wait() == 0:
            self.given.clear()
        self.barrier.wait()
        tensor.copy_(total)


def of_each_rank(
    tensors: list[Tensor], names: list[str], cuts: list[int]
) -> Iterator[tuple[list[nn.Parameter], dict[Tensor, list[Fragment]], list[list[Piece]]]]:
    """Yield a flat tensor of each of three ranks, which are cut at these places."""
    flats, fragments, places = cut_up(tensors, names, cuts)
    for flat in flats:
        own = [[piece for piece in pieces if piece[1] is flat] for pieces in places]
        yield [flat], {flat: fragments[flat]}, own


def updated(tensors: list[Tensor], ranks: Sequence[Any]) -> list[Tensor]:
    """Return tensors as they are after an update, from what ranks have of each."""
    found = [torch.full_like(t, torch.nan) for t in tensors]
    for _, _, places in ranks:
        for tensor, pieces in zip(found, places, strict=True):
            for at, flat, start, numel in pieces:
                tensor[at : at + numel] = flat.detach()[start : start + numel]
    return found


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (24, 24), (1, 9)])
@pytest.mark.parametrize(
    ("dtype", "rel"),
    [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.float16, 0.01), (torch.bfloat16, 0.06)],
)
def test_matrices_are_made_orthogonal(
    shape: tuple[int, int], dtype: torch.dtype, rel: float
) -> None:
    torch.manual_seed(1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    matrices = torch.randn(3, *shape, dtype=wide) * torch.tensor([1e-12, 1, 1e9]).view(3, 1, 1)
    found = orthogonalised(matrices, dtype=dtype)
    assert found.dtype == dtype
    for one, given_matrix in zip(found, matrices, strict=True):
        expected = orthogonal(given_matrix)
        assert float((one - expected).norm() / expected.norm()) < rel
        values = torch.linalg.svdvals(one.double())
        assert 0.67 - rel < float(values.min()) <= float(values.max()) < 1.21 + rel


def test_zeros_stay_zeros_and_so_do_pads() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7)
    x[0] = 0
    padded = torch.zeros(2, 8, 8)
    padded[:, :5, :7] = x
    for dtype in (torch.float32, torch.bfloat16):
        found = orthogonalised(padded, dtype=dtype)
        assert torch.equal(found[0], torch.zeros(8, 8, dtype=dtype))
        assert torch.count_nonzero(found[1, 5:]) == torch.count_nonzero(found[1, :, 7:]) == 0
        expected = orthogonalised(x, dtype=dtype)
        torch.testing.assert_close(found[:, :5, :7], expected, rtol=0.05, atol=0.02)


def test_a_step_is_pytorch_s_own_muon_s() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(12, 30)) for _ in range(2))
    optimizer = Muon(
        [ours], lr=0.02, betas=(0.95, 0.9), eps=EPS, weight_decay=0.1, dtype=torch.bfloat16
    )
    fragments = {ours: [Fragment("w", 0, 360)]}
    optimizer.cut(fragments, matrices={"w": of_size(1, 12, 30)}, sum_over_ranks=None)
    peer = torch.optim.Muon([theirs], lr=0.02, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        before = theirs.detach().clone()
        ours.data.copy_(theirs.data)
        theirs.grad = torch.randn(12, 30)
        ours.grad = theirs.grad.clone()
        optimizer.step()
        peer.step()
        moved = (theirs - before).detach()
        assert float((ours - theirs).detach().norm() / moved.norm()) < 0.04


def test_a_gradient_may_lie_in_another_order_than_its_weights() -> None:
    for sizes in ({}, {"w": of_size(1, 4, 6)}):
        found = []
        for transposed in (False, True):
            torch.manual_seed(0)
            p = nn.Parameter(torch.ones(4, 6))
            grad = torch.randn(4, 6)
            p.grad = grad.T.contiguous().T if transposed else grad
            made([p], {p: [Fragment("w", 0, 24)]}, sizes, dtype=torch.float32).step()
            found.append(p.detach())
        assert torch.equal(*found)


def test_a_parameter_without_a_gradient_is_passed_over() -> None:
    parameters = {name: nn.Parameter(torch.ones(4, 3)) for name in ("a", "b", "c", "d")}
    fragments = {p: [Fragment(name, 0, 12)] for name, p in parameters.items()}
    sizes = {name: of_size(1, 4, 3) for name in ("a", "b")}
    optimizer = made(list(parameters.values()), fragments, sizes, dtype=torch.float32)
    for name in ("a", "c"):
        parameters[name].grad = torch.ones(4, 3)
    optimizer.step()
    for name, p in parameters.items():
        assert torch.equal(p, torch.ones(4, 3)) == (name in ("b", "d"))
        assert (p in optimizer.state) == (name in ("a", "c"))
    state = optimizer.state[parameters["a"]]
    assert state.keys() == {"step", "exp_avg", "exp_avg_sq"}
