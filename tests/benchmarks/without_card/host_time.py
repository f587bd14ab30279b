"""The host's time of a step at wt103-base's number of layers and tensors, ours beside its peers'.

    bash tests/peer.sh && .venv/bin/python tests/benchmarks/without_card/host_time.py [--rounds 7]
    … host_time.py --peer kimiyoung=CHECKOUT/pytorch [zero1_bf16 …]

Where a GPU waits for the Python that launches its operations, this is the step. Widths are tiny, so
that computing takes next to nothing, and everything runs on a CPU; ours is asked for what it would
ask of a GPU, and its kernels and its graph do nothing. A peer is always Hugging Face's TransfoXL;
others are named as for `compare.py`. All take turns, in processes of one thread each; told are
medians of processor time and their range.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from measured.dims import CONFIGS
from measured.processes import Worker, machine
from measured.variants import Variant, peer_variants
from without_card.files import FILES

CONFIG, WARM = "wt103-narrow", 6
PEER, *_ = peer_variants("huggingface")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", default=FILES, help="as of operations.py")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", type=peer_variants, action="append", default=[])
    options = parser.parse_args()
    ours = (
        Variant(name=f"ours, {file}", script="without_card/host_worker.py", ds_config=file)
        for file in options.files
    )
    variants = (PEER, *(shipped for shipped, *_ in options.peer), *ours)
    n_rounds, n_steps = options.rounds, CONFIGS[CONFIG].n_steps
    n_segments = WARM + n_rounds * n_steps + 1
    task = {
        "config": CONFIG,
        "device": "cpu",
        "mode": "train",
        "dropout": 0.1,
        "n_segments": n_segments,
    }
    ms: dict[str, list[float]] = {variant.name: [] for variant in variants}
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            (
                variant.name,
                Worker(variant, task | {"style": variant.name.partition(",")[0]}, Path(folder)),
            )
            for variant in variants
        ]
        for _, worker in workers:
            worker.steps(WARM)
        for turn in range(n_rounds):
            for name, worker in workers[:: 1 if turn % 2 else -1]:
                ms[name].append(1e3 * worker.steps(n_steps)["seconds"] / n_steps)
        for _, worker in workers:
            worker.close()
    print(machine("cpu"))
    peer = statistics.median(ms[PEER.name])
    print("| host, ms a step | median | range | of Hugging Face's |\n|---|---|---|---|")
    for name, found in ms.items():
        middle = statistics.median(found)
        print(
            f"| {name} | {middle:.1f} | {min(found):.1f}–{max(found):.1f} | {middle / peer:.2f} |"
        )


if __name__ == "__main__":
    main()
