"""What attention's blocks and aligned rows are worth on a card, timed alone."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from on_card.rows import Ask, Row, row
from on_card.steps import dims_on
from torch import Tensor

from trainer.model.triton.alignment import aligned

if TYPE_CHECKING:
    from trainer.model.triton.attention import Cut


def milliseconds(work: Callable[[], object], device: str, *, n: int = 20) -> float:
    """Return the time of one call, warm; on a GPU in a graph, for the host is slower than it."""
    for _ in range(3):
        work()
    if device == "cpu":
        began = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - began)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(n):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / n


def blocks(ask: Ask) -> Iterator[Row]:
    """Yield attention forward and backward, by how each kernel cuts its work."""
    from trainer.model.triton.attention import Blocks, Cut, default_cut, fused_attention

    device, (_, dims) = ask.device, dims_on(ask.device)
    width, n_keys = -(-dims.d_head // 8) * 8, dims.tgt_len + dims.mem_len
    shapes = [
        (dims.n_streams, dims.tgt_len, dims.n_head, width),
        (dims.n_streams, dims.mem_len, 2, dims.n_head, width),
        (dims.n_streams, dims.tgt_len, 2, dims.n_head, width),
        (dims.n_streams, dims.n_head, dims.tgt_len, -(-n_keys // 8) * 8),
    ]
    leaves = [
        torch.randn(shape, device=device, dtype=torch.bfloat16).requires_grad_() for shape in shapes
    ]
    default = default_cut(width, torch.bfloat16)
    sizes = [(q, k, warps) for q in (32, 64, 128) for k in (16, 32, 64) for warps in (4, 8)]
    tried = [Blocks(*size, stages) for size in sizes for stages in (1, 2, 3)]

    def attend(cut: Cut) -> None:
        out = fused_attention(*leaves, visible_from_BT=None, dropout=0.0, seed=None, cut=cut)
        torch.autograd.grad(out, leaves, torch.ones_like(out))

    usual = milliseconds(partial(attend, default), device)
    yield row("blocks", f"the default, {default}, ms", usual)
    if device == "cpu":
        return
    cuts = {(name, one): default._replace(**{name: one}) for name in Cut._fields for one in tried}
    # Compiled by all processors at once; here they are found among the compiled ones.
    pool = ProcessPoolExecutor(mp_context=get_context("spawn"))
    ready = {pool.submit(_compile, shapes, cut): named for named, cut in cuts.items()}
    times: dict[str, dict[Blocks, float]] = {name: {} for name in Cut._fields}
    for future in as_completed(ready):
        kernel, choice = ready[future]
        if future.exception() is not None:  # too much shared memory is a result, too
            told = type(future.exception()).__name__
            yield row("blocks", f"{kernel}, {choice}", told)
        else:
            times[kernel][choice] = 0.0
    for kernel, choices in times.items():
        for choice in choices:
            choices[choice] = milliseconds(partial(attend, cuts[kernel, choice]), device)
        for choice in sorted(choices, key=lambda c: choices[c])[:4]:
            yield row("blocks", f"{kernel}, {choice}, ms of all", choices[choice])


def _compile(shapes: list[tuple[int, ...]], cut: "Cut") -> None:
    """Compile the kernels of a cut, by using them once."""
    from trainer.model.triton.attention import fused_attention

    leaves = [
        torch.zeros(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for shape in shapes
    ]
    out = fused_attention(*leaves, visible_from_BT=None, dropout=0.0, seed=None, cut=cut)
    torch.autograd.grad(out.sum(), leaves)
    torch.cuda.synchronize()


def products(ask: Ask) -> Iterator[Row]:
    """Yield what aligned rows are worth, with what it costs to align them."""
    device, (_, dims) = ask.device, dims_on(ask.device)
    n, width, inner = dims.n_streams * dims.tgt_len, dims.d_model, dims.d_inner
    n_words = dims.cutoffs[0]
    for name, n_columns in (("feed-forward", inner), ("softmax's head", n_words)):
        x, weight = (
            torch.randn(shape, device=device, dtype=torch.bfloat16)
            for shape in ((n, width), (n_columns, width))
        )
        as_it_is, wide = partial(F.linear, x, weight), aligned(x)
        yield row("products", f"{name}, rows of {width}, ms", milliseconds(as_it_is, device))
        copied = milliseconds(partial(_copied_product, wide, weight), device)
        yield row("products", f"{name}, copied and aligned, ms", copied)


def _copied_product(wide: Tensor, weight: Tensor) -> Tensor:
    return F.linear(wide, aligned(weight))
