"""What a captured step would take on cards that are not there, by kind of operation: a table.

    .venv/bin/python tests/benchmarks/without_card/ledger.py [wt103-base wt103-large …]

A step of a recipe with all its streams on one GPU, at `zero0_bf16_autocast`, on tensors without
data. Counted are what is dispatched and launched, the bytes of its tensors, each read or written
once (of a table that is indexed, the rows), and the FLOPs of its products. An operation then takes
the longer of its bytes and its FLOPs, and 1 µs in the graph or 2 µs outside. These constants were
fixed before the first prediction, and none of it was measured: `tests/benchmarks/card.py` does that
on a card.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TRITON_INTERPRET"] = "0"
sys.path.append(str(Path(__file__).parents[2] / "support"))
sys.path.append(str(Path(__file__).parents[2] / "support/triton"))

import torch
from as_on_a_gpu import FREE, as_on_a_gpu
from builders import segment_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config.recipe import load_recipe
from trainer.engine.passes.captured import place_for
from trainer.engine.passes.forgetting import forget_in_place
from trainer.engine.passes.usual import nats_by_row
from trainer.memory_tree import leaves
from trainer.model.transformer_xl import TransformerXL
from trainer.model.triton.storage import copies_of, store_aligned
from trainer.protocol import Segment

VOCABULARY = 267_735
RECIPES = ("wt103-base",)
#: Shares of the targets in the clusters of WikiText-103 beyond the head.
TAILS = (0.026, 0.028, 0.0025)
#: Parts of what a card can do that operations reach.
OF_BANDWIDTH, OF_FLOPS = 0.8, 0.6
US_IN_GRAPH, US_OUTSIDE = 1.0, 2.0


class Card(NamedTuple):
    """A card's memory, and its products in bf16."""

    name: str
    bytes_per_s: float
    flops_per_s: float
    """790 TFLOP/s were measured on an H200, four fifths of what is printed on it; so of others."""


CARDS = (
    Card("A100", 2.04e12, 250e12),
    Card("H100", 3.35e12, 790e12),
    Card("H200", 4.80e12, 790e12),
)


@dataclass
class Cost:
    """Costs of all operations of a kind."""

    n: int = 0
    n_bytes: int = 0
    flops: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {card.name: 0.0 for card in CARDS})

    def add(self, n_bytes: int, flops: int, *, us: float) -> None:
        """Count an operation, with the µs that each takes besides."""
        self.n += 1
        self.n_bytes += n_bytes
        self.flops += flops
        for card in CARDS:
            by_bytes = n_bytes / (OF_BANDWIDTH * card.bytes_per_s)
            by_flops = flops / (OF_FLOPS * card.flops_per_s)
            self.seconds[card.name] += max(by_bytes, by_flops) + us * 1e-6


class Ledger(TorchDispatchMode):
    """A count of what is dispatched and launched in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: dict[str, Cost] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name not in FREE and name != "device":
            self._count(name, [*_tensors(args), *_tensors(kwargs), *_tensors(made)])
        return made

    def launch(self, kernel: Any, *args: Any, **keywords: Any) -> None:
        """Count a kernel."""
        self._count(kernel.__name__, [*_tensors(args), *_tensors(keywords)])

    def _count(self, name: str, tensors: list[Tensor]) -> None:
        kind = KINDS.get(name, "element by element")
        if name == UNTOUCHED:
            tensors = tensors[1:2]
        if name in INDEXED:  # as many rows of the first as there are in the others
            first, tensors = tensors[0], [x for x in tensors[1:] if x.shape != tensors[0].shape]
            tensors += [x for x in tensors if x.dtype == first.dtype]
        unique = {(x.untyped_storage()._cdata, x.storage_offset(), x.shape): x for x in tensors}
        n_bytes = sum(x.numel() * x.itemsize for x in unique.values())
        flops = _flops(name, tensors)
        self.costs.setdefault(kind, Cost()).add(n_bytes, flops, us=US_IN_GRAPH)


PRODUCTS = ("mm", "addmm", "bmm")
#: Products of queries and keys, by kernel: of weights, values and their gradients.
ATTENTION = {"forward": 2, "backward_by_query": 3, "backward_by_key": 4}
INDEXED = ("index_select", "index_add", "index_add_", "index_copy", "scatter_")
#: A kernel that only reads flags while every stream's loss is finite.
UNTOUCHED = "_overwrite_kernel"
KINDS = {
    **dict.fromkeys(PRODUCTS, "products"),
    **dict.fromkeys(ATTENTION, "attention"),
    **dict.fromkeys(("_forward_kernel", "_backward_kernel"), "norms and feed-forward, fused"),
    **dict.fromkeys(("_bias_kernel", "_bias_backward_kernel"), "queries with biases"),
    "_softmax_error_kernel": "softmax",
    **dict.fromkeys(("_to_copy", "copy_", "cat", "clone", "_foreach_copy_"), "copies"),
    "constant_pad_nd": "copies",
}


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _tensors(part)
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))


def _flops(name: str, tensors: list[Tensor]) -> int:
    if name in PRODUCTS:
        first, second = tensors[1:3] if name == "addmm" else tensors[:2]
        return 2 * first.numel() * second.shape[-1]
    if name in ATTENTION:
        query_BTHE, old_BM2HE, new_BT2HE = tensors[:3]
        n_keys = old_BM2HE.shape[1] + new_BT2HE.shape[1]
        return ATTENTION[name] * 2 * query_BTHE.numel() * n_keys
    return 0


def _segment(n_streams: int, tgt_len: int, cutoffs: tuple[int, ...]) -> Segment:
    """Return ids with the tails' shares of targets, in lists filled up as a graph reads them."""
    n = n_streams * tgt_len
    ids_N = torch.arange(n) % 1000
    first = 0
    for cutoff, share in zip(cutoffs, TAILS, strict=False):
        ids_N[first : first + int(n * share)] = cutoff
        first += int(n * share)
    segment = segment_of(ids_N.view(n_streams, tgt_len), cutoffs=cutoffs)
    place = [place_for(len(c), n) for c in segment.token_clusters]
    lists = tuple(torch.full((length,), n) for length in place)
    return segment._replace(token_clusters=lists, target_clusters=lists, filled=bool(cutoffs))


@contextmanager
def _as_captured(ledger: Ledger) -> Iterator[FakeTensorMode]:
    with FakeTensorMode() as fake, ExitStack() as stack:
        stack.enter_context(as_on_a_gpu("triton", ledger.launch))
        yield fake


def step_of(recipe: str) -> tuple[dict[str, Cost], int]:
    """Return costs of a step by kind, and the number of parameters."""
    loaded, ledger = load_recipe(recipe), Ledger()
    config, train = loaded.model, loaded.train
    n_streams = train.train_batch_size
    segment = _segment(n_streams, train.tgt_len, config.cutoffs)
    with _as_captured(ledger) as fake:
        segment = segment.map(fake.from_tensor)
        module = TransformerXL(config, VOCABULARY)
        n_parameters = sum(p.numel() for p in module.parameters())
        store_aligned(module)
        copies_of(module, torch.bfloat16)
        how = {"dtype": torch.bfloat16}
        device = torch.device("cpu")
        memory, unread = (
            module.empty_memory(n, mem_len=train.mem_len, device=device, **how)
            for n in (n_streams, 1)
        )
        with ledger:
            with torch.autocast("cpu", torch.bfloat16):
                output = module(segment, memory, same_length=train.same_length)
            (output.loss_sum * 0.1).backward()
            finite_B = nats_by_row(output, n_rows=n_streams).isfinite()
            after = output.memory
            pairs = [[x for _, x in leaves(m) if isinstance(x, Tensor)] for m in (memory, after)]
            torch._foreach_copy_(*pairs)
            forget_in_place(memory, finite_B, unread=unread)
    stored = sum(p.numel() for p in module.parameters())
    update = Cost()
    update.add(4 * stored, 0, us=10 * US_OUTSIDE)  # the norm
    # Adam: four numbers are read, three written, and the copies in 16 bits
    update.add((16 + 12 + 2) * stored, 0, us=US_OUTSIDE)
    return {**ledger.costs, "update": update}, n_parameters


def main() -> None:
    """Print a table per recipe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    for recipe in parser.parse_args().recipes:
        costs, n_parameters = step_of(recipe)
        print(f"\n{recipe}: {n_parameters:,} parameters\n")
        names = " | ".join(card.name for card in CARDS)
        print(f"| ms, predicted | operations | GB | TFLOP | {names} |\n|---|{'---|' * 6}")
        total = Cost()
        for kind, cost in sorted(costs.items(), key=lambda item: -item[1].seconds["H100"]):
            print(_row(kind, cost))
            total.n, total.n_bytes = total.n + cost.n, total.n_bytes + cost.n_bytes
            total.flops += cost.flops
            for name, seconds in cost.seconds.items():
                total.seconds[name] += seconds
        print(_row("in all", total))


def _row(kind: str, cost: Cost) -> str:
    ms = " | ".join(f"{1e3 * seconds:.2f}" for seconds in cost.seconds.values())
    return f"| {kind} | {cost.n:,} | {cost.n_bytes / 1e9:.2f} | {cost.flops / 1e12:.3f} | {ms} |"


if __name__ == "__main__":
    main()
