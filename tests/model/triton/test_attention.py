"""Fused attention equals the plain one: under Triton's interpreter, and on a GPU if there is one.

Triton chooses between interpreter and compiler when it is imported, so the interpreter runs in a
process of its own, and so does the compiler, which needs no GPU to compile for one.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_attention_cases import (
    Fused,
    Problem,
    Sizes,
    fused,
    hidden_keys,
    multiply_in_tf32,
    naive,
    visible_from,
)
from triton_processes import compile_only, interpret

from trainer.model.attention import rel_shift

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@contextmanager
def process(prepare: Callable[[], None]) -> Iterator[Fused]:
    """Yield `fused` in a process of its own, prepared before Triton is imported."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=prepare) as pool:
        yield lambda *args, **keywords: pool.submit(fused, *args, **keywords).result()


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Fused]:
    with process(interpret) as run:
        yield run


def on_gpu(*args: Tensor, **keywords: Any) -> list[Tensor]:
    moved = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in keywords.items()}
    return [x.cpu() for x in fused(*(x.cuda() for x in args), **moved)]


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def run(request: pytest.FixtureRequest) -> Fused:
    """Return `fused` where it can run, from and to the CPU."""
    if request.param == "gpu":
        if not torch.cuda.is_available():
            pytest.skip("no GPU")
        return on_gpu
    return request.getfixturevalue("interpreter")


VISIBLE = ["everything", "same_length", "rows", "documents"]
SIZES = [
    Sizes(B=1, T=1, M=0, H=1, E=5),
    Sizes(B=2, T=1, M=40, H=3, E=16),
    Sizes(B=3, T=7, M=5, H=1, E=16),
    Sizes(B=2, T=33, M=0, H=1, E=5),
    Sizes(B=1, T=33, M=40, H=2, E=41),
]
MIDDLE = Sizes(B=2, T=18, M=6, H=2, E=24)
# Without memory same_length is refused: a query would see no key.
CASES = [(s, kind) for s in SIZES for kind in VISIBLE if s.M > 0 or kind != "same_length"]


@pytest.mark.parametrize(
    ("sizes", "kind"), CASES, ids=lambda x: "-".join(map(str, x)) if isinstance(x, Sizes) else x
)
def test_output_and_all_gradients_equal_plain_attention(
    run: Fused, sizes: Sizes, kind: str
) -> None:
    problem = Problem(sizes)
    from_BT = visible_from(kind, sizes)
    plain = problem.plain(hidden_keys(from_BT, sizes))
    ours = problem.fused(run, visible_from_BT=from_BT)
    torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cut", [(32, 16), (16, 32), None])
def test_the_result_does_not_depend_on_how_the_work_is_cut(
    run: Fused, cut: tuple[int, int] | None
) -> None:
    problem = Problem(MIDDLE)
    keywords = {"visible_from_BT": visible_from("documents", MIDDLE), "dropout": 0.25, "seed": 3}
    torch.testing.assert_close(
        problem.fused(run, cut=cut, **keywords), problem.fused(run, **keywords)
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)],
    ids=str,
)
def test_narrow_types_stay_near_fp64(run: Fused, dtype: torch.dtype, tolerance: float) -> None:
    problem = Problem(MIDDLE)
    parts = [x.detach().to(dtype) for x in problem.parts]
    d_out_BTHE = problem.d_out_BTHE.to(dtype)
    from_BT = visible_from("documents", MIDDLE)
    ours = run(*parts, d_out_BTHE=d_out_BTHE, visible_from_BT=from_BT)
    exact = naive([x.double() for x in parts], d_out_BTHE.double(), hidden_keys(from_BT, MIDDLE))
    assert {x.dtype for x in ours} == {dtype}
    for x, y in zip(ours, exact, strict=True):
        assert (x.double() - y).norm() < tolerance * y.norm()


def test_inputs_may_have_any_strides(run: Fused) -> None:
    problem = Problem(MIDDLE)
    query_BTHE, kv_BS2HE, position_BHTS = (x.detach() for x in problem.parts)
    whole = run(*(x.detach() for x in problem.parts), d_out_BTHE=torch.ones_like(query_BTHE))
    wide_kv = torch.cat([kv_BS2HE, kv_BS2HE], dim=-1)[..., : MIDDLE.E]
    heads_first = query_BTHE.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    rows_first = position_BHTS.permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    keys_first = position_BHTS.transpose(2, 3).contiguous().transpose(2, 3)
    ones = torch.ones((), dtype=torch.float64).expand(query_BTHE.shape)
    for position in (rows_first, keys_first):
        assert not any(x.is_contiguous() for x in (heads_first, wide_kv, position, ones))
        assert all(map(torch.equal, run(heads_first, wide_kv, position, d_out_BTHE=ones), whole))


@pytest.mark.parametrize("kind", ["everything", "documents"])
def test_position_scores_that_no_query_looks_at_are_not_read_and_get_gradient_zero(
    run: Fused, kind: str
) -> None:
    problem = Problem(MIDDLE)
    query, kv, position_BHTS = (x.detach() for x in problem.parts)
    from_BT = visible_from(kind, MIDDLE)
    hidden = hidden_keys(from_BT, MIDDLE).expand(position_BHTS.shape)
    looked_at = torch.zeros_like(position_BHTS).requires_grad_()
    rel_shift(looked_at).masked_fill(hidden, 0).sum().backward()
    assert looked_at.grad is not None
    unread = looked_at.grad == 0
    assert unread[:, :, 0, : MIDDLE.T - 1].all()
    keywords = {"d_out_BTHE": problem.d_out_BTHE, "visible_from_BT": from_BT}
    clean = run(query, kv, position_BHTS, **keywords)
    poisoned = run(query, kv, position_BHTS.masked_fill(unread, torch.nan), **keywords)
    assert all(map(torch.equal, poisoned, clean))
    assert (clean[3][unread] == 0).all()
    assert (clean[3][~unread] != 0).any()


def test_columns_that_align_rows_are_not_read_and_get_gradient_zero(run: Fused) -> None:
    problem = Problem(MIDDLE)
    query, kv, position_BHTS = (x.detach() for x in problem.parts)
    keywords = {"d_out_BTHE": problem.d_out_BTHE}
    *wanted, d_position = run(query, kv, position_BHTS, **keywords)
    wide = F.pad(position_BHTS, (0, 5), value=torch.nan)
    for rows in (wide, wide.transpose(0, 1).contiguous().transpose(0, 1)):
        *others, d_rows = run(query, kv, rows, **keywords)
        assert all(map(torch.equal, others, wanted))
        assert torch.equal(d_rows, F.pad(d_position, (0, 5)))


def drop_mask(run: Fused, sizes: Sizes, **keywords: Any) -> Tensor:
    """Return the factors of weights, `[B, H, T, S]`, seen through values that name their key."""
    B, T, M, H, E = sizes
    assert E >= M + T
    kv_BS2HE = torch.zeros(B, M + T, 2, H, E)
    kv_BS2HE[:, :, 1] = torch.eye(M + T, E)[:, None]
    query_BTHE = torch.zeros(B, T, H, E)
    position_BHTS = torch.zeros(B, H, T, M + T)
    parts = [query_BTHE, kv_BS2HE, position_BHTS]
    (out_BTHE,) = run(*parts, d_out_BTHE=None, **keywords)
    n_visible_T1 = torch.arange(T)[:, None] + M + 1
    return out_BTHE.transpose(1, 2)[..., : M + T] * n_visible_T1


def test_dropout_keeps_the_given_share_of_weights_and_scales_them_up(run: Fused) -> None:
    mask_BHTS = drop_mask(run, MIDDLE, dropout=0.25, seed=7)
    seen_BHTS = ~hidden_keys(None, MIDDLE).expand(mask_BHTS.shape)
    kept = mask_BHTS[seen_BHTS] > 0
    torch.testing.assert_close(mask_BHTS[seen_BHTS][kept], torch.full((int(kept.sum()),), 4 / 3))
    share, n_weights = kept.double().mean(), kept.numel()
    assert abs(share - 0.75) < 4 * (0.25 * 0.75 / n_weights) ** 0.5
    rows = mask_BHTS[:, :, -5:].flatten(0, 2) > 0
    assert len(rows.unique(dim=0)) == len(rows), "each stream, head and query has its own"


def test_what_is_dropped_is_a_function_of_the_seed(run: Fused) -> None:
    big = 1 << 40
    masks = [drop_mask(run, MIDDLE, dropout=0.5, seed=seed) for seed in (1, 1, 2, 1 + big)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[3])


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_the_weights_that_were_kept(run: Fused, recompute: bool) -> None:
    problem = Problem(MIDDLE)
    drop = {"dropout": 0.25, "seed": 7}
    mask_BHTS = drop_mask(run, MIDDLE, **drop).double()
    parts = [x.detach() for x in problem.parts]
    masked = naive(parts, problem.d_out_BTHE, hidden_keys(None, MIDDLE), mask_BHTS)
    ours = run(*parts, d_out_BTHE=problem.d_out_BTHE, recompute=recompute, **drop)
    torch.testing.assert_close(ours, masked, rtol=1e-5, atol=1e-5)  # 1 / (1 - p) is fp32


def test_two_runs_are_equal_bit_by_bit_with_and_without_autocast(run: Fused) -> None:
    problem = Problem(MIDDLE, torch.float32)
    parts = [x.detach() for x in problem.parts]
    keywords = {"d_out_BTHE": problem.d_out_BTHE, "dropout": 0.25, "seed": 7}
    first, second = (run(*parts, autocast=on, **keywords) for on in (False, True))
    assert all(map(torch.equal, first, second))


def test_large_scores_neither_overflow_nor_lose_the_others(run: Fused) -> None:
    problem = Problem(MIDDLE)
    parts = [x.detach() * 300 for x in problem.parts]
    hidden = hidden_keys(None, MIDDLE)
    ours = run(*parts, d_out_BTHE=problem.d_out_BTHE)
    torch.testing.assert_close(ours, naive(parts, problem.d_out_BTHE, hidden))


@pytest.fixture(scope="module")
def compiler() -> Iterator[Fused]:
    """Yield `fused` without running a kernel, but compiling each for cards that are not there."""
    with process(compile_only) as run:
        yield run


@pytest.mark.parametrize(
    ("dtype", "sizes", "all_on"),
    [
        (torch.bfloat16, Sizes(B=2, T=10, M=5, H=3, E=41), False),
        (torch.float16, Sizes(B=2, T=16, M=16, H=2, E=128), True),
        (torch.float32, Sizes(B=1, T=1, M=5, H=1, E=64), True),
    ],
    ids=str,
)
def test_every_kernel_compiles(
    compiler: Fused, dtype: torch.dtype, sizes: Sizes, all_on: bool
) -> None:
    problem = Problem(sizes)
    inputs = [x.detach().to(dtype) for x in problem.parts]
    extras = {"visible_from_BT": visible_from("documents", sizes), "dropout": 0.25, "seed": 1}
    compiler(
        *inputs, d_out_BTHE=problem.d_out_BTHE.to(dtype), cut=None, **(extras if all_on else {})
    )


@pytest.mark.parametrize("asked", [False, True])
def test_products_in_fp32_are_rounded_to_tf32_where_that_is_asked_for(asked: bool) -> None:
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=compile_only) as pool:
        assert pool.submit(multiply_in_tf32, asked=asked).result() == {asked}
