"""What attention's blocks and aligned rows are worth on a card, timed alone."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from on_card.rows import Ask, Row, row
from on_card.steps import dims_on
from torch import Tensor

from trainer.model.triton.alignment import aligned


def milliseconds(work: Callable[[], object], device: str, *, n: int = 20) -> float:
    """Return the time of one call, warm; by the device's events on a GPU."""
    for _ in range(3):
        work()
    if device == "cpu":
        began = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - began)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(n):
        work()
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
    sizes = [(q, k, warps) for q in (32, 64, 128) for k in (32, 64) for warps in (4, 8)]
    tried = [Blocks(*size, stages) for size in sizes for stages in (1, 2)]

    def attend(cut: Cut) -> None:
        out = fused_attention(*leaves, visible_from_BT=None, dropout=0.0, seed=None, cut=cut)
        torch.autograd.grad(out.sum(), leaves)

    for kernel in () if device == "cpu" else Cut._fields:
        times = {}
        for choice in tried:
            try:
                cut = default._replace(**{kernel: choice})
                times[choice] = milliseconds(partial(attend, cut), device)
            except Exception as error:  # too much shared memory is a result, too
                yield row("blocks", f"{kernel}, {choice}", type(error).__name__)
        for choice in sorted(times, key=lambda c: times[c])[:3]:
            yield row("blocks", f"{kernel}, {choice}, ms of all", times[choice])
    yield row(
        "blocks", f"the default, {default}, ms", milliseconds(partial(attend, default), device)
    )


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
