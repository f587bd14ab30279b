"""Ours against Hugging Face's TransfoXL 4.35.2, side by side: one command, one table.

    bash tests/peer.sh && .venv/bin/python tests/benchmarks/compare.py tiny small
    .venv/bin/python tests/benchmarks/compare.py tiny --peer gpt --peer gpt-adaptive
    .venv/bin/python tests/benchmarks/compare.py tiny --peer kimiyoung=CHECKOUT/pytorch
    .venv/bin/python tests/benchmarks/compare.py tiny --peer earlier=CHECKOUT

Other peers are a plain GPT of equal sizes, with its own full softmax or with our adaptive one (see
peers/gpt_worker.py); kimiyoung/transformer-xl and NVIDIA's example, by the folder of a checkout
that has their mem_transformer.py; and this project as it was, by the root of a checkout: each of
our variants against itself, as far back as `measured.dims` made the same text.

Every implementation is a worker of its own, warm, with the same sizes, text, precision rules and
work: forward, backward, clipping and Adam; or a scoring forward. The workers are timed in turns,
A B B A, by processor time at one thread (by device events on a GPU), so that what else the machine
does falls on both. Before that a guard compares the losses of the first steps from the same weights
without dropout; of a GPT, which is another model, it asks that it learns. Ours runs through
DeepSpeed's engine and `loop.train_step`.

A row shows the median of the rounds and the range that they lie in: what was measured once, on the
processor that is printed first. None of them is a floor.
"""

import argparse
import importlib.util
import json
import math
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measured.dims import COMPARED, CONFIGS, Dims, clusters
from measured.processes import Worker, machine
from measured.variants import Variant, pairs, peer_variants

GUARD_STEPS = 4
#: How far from a guess the first loss of a model may be: a batch has more or less of rare words.
NEAR_FRAC = 0.1


def guard(ours: Variant, peer: Variant, task: dict[str, Any], folder: Path) -> float:
    """Return the largest relative difference of the losses of the first steps, without dropout."""
    theirs, mine = (first_losses(variant, task, folder) for variant in (peer, ours))
    return max(abs(a - b) / b for a, b in zip(theirs, mine, strict=True))


def first_losses(variant: Variant, task: dict[str, Any], folder: Path) -> list[float]:
    """Return losses of the first steps without dropout, nats per target."""
    worker = Worker(variant, task | {"dropout": 0.0}, folder)
    losses: list[float] = worker.steps(GUARD_STEPS)["losses"]
    worker.close()
    return losses


def guess(dims: Dims, softmax: str) -> float:
    """Return the mean nats of a target where all words of each softmax are as likely."""
    if softmax == "full":
        return math.log(dims.vocab_size)
    (n_head, _), *tails = clusters(dims)
    return math.log(n_head + len(tails)) + sum(share * math.log(n) for n, share in tails)


def learning(losses: list[float], *, guess: float, trains: bool) -> list[float]:
    """Return another model's losses on one batch, if they are of one that learns.

    Raises:
        SystemExit: if the first is not that of a guess, or training does not lower it.
    """
    if not all(map(math.isfinite, losses)) or abs(losses[0] - guess) > NEAR_FRAC * guess:
        raise SystemExit(f"the peer's losses {losses} do not begin near a guess, {guess:.2f}")
    if trains and losses[-1] >= losses[0]:
        raise SystemExit(f"the peer's losses {losses} do not fall")
    return losses


def rounds(
    ours: Variant, peer: Variant, task: dict[str, Any], *, n_rounds: int, folder: Path
) -> dict[str, Any]:
    """Time both in turns, A B B A; ratios of speed per round.

    Each from weights of its own, as its users would: to read the other's would leave its mark on
    the peak of memory.
    """
    task = {key: value for key, value in task.items() if key != "weights"}
    workers = {"peer": Worker(peer, task, folder), "ours": Worker(ours, task, folder)}
    n_steps = CONFIGS[task["config"]].n_steps
    for worker in workers.values():
        worker.steps(task["n_warm"])
    seconds: dict[str, list[float]] = {"peer": [], "ours": []}
    peaks: dict[str, float] = {}
    for index in range(n_rounds):
        for name in ("peer", "ours") if index % 2 == 0 else ("ours", "peer"):
            told = workers[name].steps(n_steps)
            seconds[name].append(told["seconds"] / n_steps)
            peaks[name] = told["peak_mib"]
    for worker in workers.values():
        worker.close()
    ratios = [a / b for a, b in zip(seconds["peer"], seconds["ours"], strict=True)]
    dims = CONFIGS[task["config"]]
    n_tokens = dims.n_streams * dims.tgt_len
    return {
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
        "seconds": seconds,
        "tokens_per_s": {k: n_tokens / statistics.median(v) for k, v in seconds.items()},
        "peak_mib": peaks,
    }


def compare(
    config: str, device: str, peers: tuple[Variant, ...], *, n_rounds: int, only: str
) -> list[dict[str, Any]]:
    """Measure and print every pair of ours and a peer; see `pairs`."""
    dims = CONFIGS[config]
    n_warm = 2 + dims.mem_len // dims.tgt_len  # until every peer's memory is full
    # Another model and our earlier state say nothing of how a memory of ours has to begin.
    same_model = not (peers[0].is_another_model or peers[0].is_earlier)
    writer = peers[0] if same_model else peer_variants("huggingface")[0]
    scores = config.startswith("eval")
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = {
            "config": config,
            "device": device,
            "dropout": 0.1,
            "mode": "evaluate" if scores else "train",
            "n_warm": n_warm,
            "n_segments": GUARD_STEPS + n_warm + n_rounds * dims.n_steps,
            "style": "" if peers[0].is_another_model else writer.name.partition(",")[0],
        }
        if not peers[0].is_another_model:
            task["weights"] = str(folder / "weights")
            Worker(writer, task | {"save_weights": task["weights"]}, folder).close()
        for ours, peer in pairs(peers, device=device, scores=scores, only=only):
            found: dict[str, Any] = {"ours": asdict(ours), "peer": asdict(peer)}
            if peer.is_another_model:
                losses = first_losses(peer, task | {"n_segments": 1}, folder)
                begin = guess(dims, peer.softmax)
                found["peer_losses"] = learning(losses, guess=begin, trains=not scores)
            else:
                found["loss_difference"] = guard(ours, peer, task, folder)
            found |= rounds(ours, peer, task, n_rounds=n_rounds, folder=folder)
            results.append({"config": config, **found})
            print(line(results[-1]), flush=True)
    return results


def line(result: dict[str, Any]) -> str:
    """Return a row of the table."""
    speed, peak, (low, high) = result["tokens_per_s"], result["peak_mib"], result["range"]
    if "loss_difference" in result:
        losses = f"loss differs by {result['loss_difference']:.1e}"
    else:
        first, *_, last = result["peer_losses"]
        losses = f"another model, losses not compared: its own {first:.3f} to {last:.3f}"
    return (
        f"{result['config']:12} {result['ours']['name']:20} vs {result['peer']['name']:26} "
        f"{result['ratio']:5.2f}x (median; rounds {low:.2f} to {high:.2f})  "
        f"{speed['ours']:8,.0f} vs {speed['peer']:8,.0f} tok/s  "
        f"memory {peak['ours'] / peak['peer']:.2f}x ({peak['ours']:,.0f} MiB)  {losses}"
    )


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios as bars, and the range of their rounds as whiskers."""
    from matplotlib.figure import Figure

    labels = [f"{r['config']}\n{r['ours']['name']}\nvs {r['peer']['name']}" for r in results]
    figure = Figure(figsize=(1.7 * len(results) + 2, 4), layout="constrained")
    axes = figure.add_subplot()
    ratios = [r["ratio"] for r in results]
    whiskers = [[abs(r["ratio"] - r["range"][end]) for r in results] for end in (0, 1)]
    axes.bar(labels, ratios, yerr=whiskers)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("times as fast")
    axes.tick_params(axis="x", labelsize=6)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", default="all", choices=["all", *CONFIGS])
    parser.add_argument(
        "--peer",
        action="append",
        type=peer_variants,
        help="huggingface (default), gpt, gpt-adaptive or NAME=PATH",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="our variants whose name holds this")
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    parser.add_argument("--plot", type=Path, help="draw them there")
    told = parser.parse_args()
    if told.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: .venv/bin/pip install -e '.[plots]'")
    made_on = machine(told.device)
    print(", ".join(f"{name} {value}" for name, value in made_on.items()), flush=True)
    results = [
        result
        for config in (COMPARED if "all" in told.configs else told.configs)
        for peers in told.peer or [peer_variants("huggingface")]
        for result in compare(config, told.device, peers, n_rounds=told.rounds, only=told.only)
    ]
    if told.out:
        made = {"machine": made_on, "n_rounds": told.rounds, "results": results}
        told.out.write_text(json.dumps(made, indent=1) + "\n")
    if told.plot:
        plot(results, told.plot)


if __name__ == "__main__":
    main()
