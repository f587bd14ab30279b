"""What a sampled token costs as the memory grows, beside what reading everything once would cost.

    .venv/bin/python tests/benchmarks/sampling.py [--mem-len 96 640 1600 3800] [--precision fp32]

A model of wt103-base's sizes with random weights, whose tails are as likely as WikiText-103's, on
one thread of a CPU. Every token reads the layers, the softmax's head, and the keys, values and
projected distances of its memory; a token of a tail reads that tail, too. The limit is the bytes of
all this over the rate at which this machine sums a large tensor. Times are means.
"""

import argparse
import math
import statistics
import time

import torch
from measured.dims import CONFIGS, clusters
from measured.ours import experiment_of

from trainer.config.recipe import ScoringConfig
from trainer.host_cpu import use_cpu_well
from trainer.inference.generate import following_ids
from trainer.inference.sampling_options import Sampling
from trainer.model.transformer_xl import TransformerXL

CPU = torch.device("cpu")
N_TOKENS, N_WARM = 100, 4
READ_BYTES = 1 << 30


def bytes_per_second() -> float:
    """Return the rate at which a tensor is read that fits into no cache."""
    x = torch.ones(READ_BYTES // 4)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        x.sum()
        times.append(time.perf_counter() - begin)
    return READ_BYTES / statistics.median(times)


def milliseconds(model: TransformerXL, mem_len: int, dtype: torch.dtype) -> float:
    """Time of a token after a text that fills the memory."""
    scoring = ScoringConfig(tgt_len=64, mem_len=mem_len, batch_size=1, same_length=True)
    how = {"cutoffs": model.config.cutoffs, "dtype": dtype, "device": CPU}
    sampling = Sampling(n_tokens=N_WARM + N_TOKENS)
    tokens = following_ids(model, [7] * mem_len, sampling=sampling, scoring=scoring, **how)
    for _ in range(N_WARM):
        next(tokens)
    begin = time.perf_counter()
    for _ in range(N_TOKENS):
        next(tokens)
    return 1e3 * (time.perf_counter() - begin) / N_TOKENS


def with_likely_tails(model: TransformerXL, share: float) -> TransformerXL:
    """Give all tails together this share of the targets."""
    n_head, n_tails = model.config.cutoffs[0], len(model.config.cutoffs)
    with torch.no_grad():
        model.softmax.cluster_bias.fill_(math.log(share / (1 - share) * n_head / n_tails))
    return model


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mem-len", type=int, nargs="+", default=[96, 640, 1600, 3800])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
    torch.set_num_threads(1)
    use_cpu_well()
    dims = CONFIGS["wt103-base"]
    model = TransformerXL(experiment_of(dims, 0.0).model, dims.vocab_size).to(dtype).eval()
    in_tails = sum(share for _, share in clusters(dims)[1:])
    model, rate = with_likely_tails(model, in_tails), bytes_per_second()
    tails = sum(table.numel() for table in model.embedding.tables[1:])
    read = in_tails / len(dims.cutoffs)  # of all tails, which are equally likely
    weights = sum(p.numel() for p in model.parameters()) - (1 - read) * tails
    print(f"{options.precision}, {rate / 1e9:.1f} GB/s")
    print("| mem_len | ms per token | limit, ms | times the limit |")
    print("|---|---|---|---|")
    for mem_len in options.mem_len:
        took = milliseconds(model, mem_len, dtype)
        remembered = 3 * mem_len * dims.n_layer * dims.n_head * dims.d_head
        limit = 1e3 * (weights + remembered) * dtype.itemsize / rate
        print(f"| {mem_len:,} | {took:.1f} | {limit:.1f} | {took / limit:.2f} |", flush=True)


if __name__ == "__main__":
    main()
