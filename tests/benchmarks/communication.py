"""When to send the tied embedding's gradient: what to expect of 2 to 64 ranks.

    .venv/bin/python tests/benchmarks/communication.py

The gradient of wt103-base is 73 % tables. Its softmax part is there when the backward pass begins;
what the embedding adds when it ends are rows of the tokens, which can be gathered as (ids, rows).
The model puts every message on one link when it is ready, in order, and tells what of it the rest
of the backward pass does not hide.

Tables first were built for stage 0 on CPUs, and taken out again: two processes over gloo, which
compute on the cores that send, trained `small` 0.96, 1.00, 1.00 and 1.04 times as fast with them.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

from measured import cost_model
from measured.dims import CONFIGS, Dims, clusters

RANKS = (2, 4, 8, 16, 32, 64)
#: Bytes that a rank can send in a second.
LINKS = {"NVLink": 450e9, "InfiniBand": 50e9, "10 GbE": 1.25e9}


@dataclass(frozen=True)
class Message:
    """A message of one rank, and the time from which on it could be sent."""

    ready_s: float
    n_bytes: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Ranks that have a batch each of a model."""

    dims: Dims
    n_ranks: int
    itemsize: int
    flops_per_s: float

    @property
    def layers_s(self) -> float:
        """Return the time of the backward pass of all layers: what is left after the softmax's."""
        layer = cost_model.attention(self.dims).flops + cost_model.feed_forward(self.dims).flops
        return 2 / 3 * self.dims.n_layer * layer / self.flops_per_s

    @property
    def step_s(self) -> float:
        """Return the time of what is computed, as if it all were products of matrices."""
        return cost_model.step(self.dims).flops / self.flops_per_s

    def reduced(self, n_elements: float) -> float:
        """Return bytes of an all-reduce."""
        return 2 * (1 - 1 / self.n_ranks) * n_elements * self.itemsize

    def sent(self, *, tables_first: bool, rest_as_it_comes: bool) -> Iterator[Message]:
        """Yield a step's messages; the backward pass after the softmax's is at 0 … layers_s."""
        tokens, width = self.dims.n_streams * self.dims.tgt_len, self.dims.d_model
        tables, early, rows = width * self.dims.vocab_size, 0, 0.0
        for n_words, share in clusters(self.dims) if tables_first else ():
            if tokens * self.n_ranks <= n_words:  # the rows of all ranks are less
                early, rows = early + width * n_words, rows + tokens * share
        yield Message(0.0, self.reduced(early))
        rest, n_layer = cost_model.n_parameters(self.dims) - tables, self.dims.n_layer
        for layer in range(1, n_layer + 1):
            ready_s = self.layers_s * (layer / n_layer if rest_as_it_comes else 1)
            yield Message(ready_s, self.reduced(rest / n_layer))
        yield Message(self.layers_s, self.reduced(tables - early))
        yield Message(self.layers_s, (self.n_ranks - 1) * rows * (width * self.itemsize + 8))

    def waited_s(self, link: float, *, is_zero: bool = False, **when: bool) -> float:
        """Return what messages take after the backward pass; for half of it ZeRO-1 gathers."""
        share, free_s, gathered = 0.5 if is_zero else 1.0, 0.0, 0.0
        for message in self.sent(**when):
            free_s = max(free_s, message.ready_s) + share * message.n_bytes / link
            gathered += (1 - share) * message.n_bytes / link
        return max(free_s, self.layers_s) - self.layers_s + gathered


SCHEMES: dict[str, dict[str, bool]] = {
    "all at the end": {"tables_first": False, "rest_as_it_comes": False},
    "layers as they come": {"tables_first": False, "rest_as_it_comes": True},
    "tables first": {"tables_first": True, "rest_as_it_comes": False},
    "tables first, then layers": {"tables_first": True, "rest_as_it_comes": True},
    "ZeRO-1, all at the end": {
        "tables_first": False,
        "rest_as_it_comes": False,
        "is_zero": True,
    },
    "ZeRO-1, tables first": {"tables_first": True, "rest_as_it_comes": False, "is_zero": True},
}


def expect(told: argparse.Namespace) -> None:
    """Print a table per kind of link."""
    dims = replace(CONFIGS["wt103-base"], n_streams=told.streams)
    settings = [
        Setting(dims=dims, n_ranks=n, itemsize=told.itemsize, flops_per_s=1e12 * told.tflops)
        for n in RANKS
    ]
    print(
        f"wt103-base, {told.streams} streams a rank, {told.itemsize} bytes a gradient, "
        f"{told.tflops} TFLOP/s: computing a step takes {1e3 * settings[0].step_s:.2f} ms, its "
        f"layers' backward pass {1e3 * settings[0].layers_s:.2f}"
    )
    print(f"{'MB sent by a rank':36}" + "".join(f"{s.n_ranks:5} ranks" for s in settings))
    for name in ("all at the end", "tables first"):
        sizes = [sum(m.n_bytes for m in s.sent(**SCHEMES[name])) / 1e6 for s in settings]
        print(f"{name:36}" + "".join(f"{size:11,.1f}" for size in sizes))
    for link, rate in LINKS.items():
        print(f"{f'ms of {link} that nothing hides':36}")
        for name, when in SCHEMES.items():
            waits = [1e3 * s.waited_s(rate, **when) for s in settings]
            print(f"  {name:34}" + "".join(f"{wait:11,.2f}" for wait in waits))


def main() -> None:
    """Print what is expected and, if asked to, what is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=15, help="of 150 tokens, per rank")
    parser.add_argument("--itemsize", type=int, default=2, help="bytes of a gradient's element")
    parser.add_argument("--tflops", type=float, default=240, help="of one rank's device")
    expect(parser.parse_args())


if __name__ == "__main__":
    main()
