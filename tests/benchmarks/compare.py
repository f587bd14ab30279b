"""Ours against Hugging Face's TransfoXL 4.35.2, side by side: one command, one table.

    bash tests/peer.sh && .venv/bin/python tests/benchmarks/compare.py tiny small
    .venv/bin/python tests/benchmarks/compare.py tiny --peer kimiyoung=CHECKOUT/pytorch
    .venv/bin/python tests/benchmarks/compare.py tiny --peer earlier=CHECKOUT

Other peers are kimiyoung/transformer-xl and NVIDIA's example, by the folder of a checkout that has
their mem_transformer.py, and this project as it was, by the root of a checkout: each of our
variants against itself.

Every implementation is a worker of its own, warm, with the same sizes, text, precision rules and
work: forward, backward, clipping at 0.25 and Adam; or a scoring forward. The workers are timed in
turns, A B B A, by processor time at one thread (by device events on a GPU), so that what else the
machine does falls on both. Before that a guard compares the losses of the first steps from the
same weights without dropout. Ours runs through DeepSpeed's engine and `loop.train_step`.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from measured.dims import COMPARED, CONFIGS

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GUARD_STEPS = 4
OURS_WORKER = "ours_worker.py"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """An implementation, and how it is run."""

    name: str
    script: str
    matmul: str = "highest"
    ds_config: str = ""
    checkout: str = ""
    """Whose code it is, if not this one's."""
    kernels: str = "auto"


def peer_variants(told: str) -> tuple[Variant, ...]:
    """Of what `--peer` says, ``huggingface`` or ``NAME=PATH``: as shipped, and as fast as ours.

    Of an earlier state of this project, where it is.
    """
    name, _, path = told.partition("=")
    if name == "earlier" and path:
        return (Variant(name=name, script=OURS_WORKER, checkout=str(Path(path).resolve())),)
    scripts = (
        {"huggingface": "peers/huggingface_worker.py"}
        if not path
        else dict.fromkeys(("kimiyoung", "nvidia"), "peers/mem_transformer_worker.py")
    )
    if name not in scripts:
        raise argparse.ArgumentTypeError(
            "is huggingface, kimiyoung=PATH, nvidia=PATH or earlier=PATH"
        )
    script, checkout = scripts[name], str(Path(path).resolve()) if path else ""
    return (
        Variant(name=f"{name}, as shipped", script=script, checkout=checkout),
        Variant(name=f"{name}, medium matmul", script=script, checkout=checkout, matmul="medium"),
    )


OURS = {
    "cpu": (
        Variant(name="ours, fp32", script=OURS_WORKER, ds_config="zero0_fp32"),
        Variant(name="ours, bf16 autocast", script=OURS_WORKER, ds_config="zero0_bf16_autocast"),
    ),
    "cuda": (
        Variant(name="ours, bf16", script=OURS_WORKER, ds_config="zero1_bf16"),
        Variant(name="ours, fp16", script=OURS_WORKER, ds_config="zero1_fp16"),
    ),
}


def python_path(*first: Path) -> str:
    """PYTHONPATH: these, and then what is on it."""
    return os.pathsep.join(filter(None, [*map(str, first), os.environ.get("PYTHONPATH", "")]))


class Worker:
    """A process that does steps when it is told to."""

    def __init__(self, variant: Variant, task: dict[str, Any], folder: Path) -> None:
        file = folder / f"{variant.name.replace(' ', '-')}.json"
        file.write_text(json.dumps(task | asdict(variant)))
        device = str(task["device"])
        is_earlier = variant.script == OURS_WORKER and variant.checkout
        root = Path(variant.checkout) if is_earlier else ROOT
        paths = python_path(ROOT / ".peer", root, root / HERE.relative_to(ROOT))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        if device == "cpu":
            environment["DS_ACCELERATOR"] = "cpu"
        self._log = (folder / f"{file.stem}.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", root / HERE.relative_to(ROOT) / variant.script, file],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._read()

    def steps(self, n_steps: int) -> dict[str, Any]:
        """Do steps; gives seconds, losses and the peak of memory."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"steps": n_steps}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        self._log.seek(0)
        raise SystemExit(f"a worker ended:\n{self._log.read()[-4000:]}")


def guard(ours: Variant, peer: Variant, task: dict[str, Any], folder: Path) -> float:
    """Largest relative difference of the losses of the first steps, without dropout."""
    found = []
    for variant in (peer, ours):
        worker = Worker(variant, task | {"dropout": 0.0}, folder)
        found.append(worker.steps(GUARD_STEPS)["losses"])
        worker.close()
    return max(abs(a - b) / b for a, b in zip(*found, strict=True))


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
        "least": min(ratios),
        "spread": statistics.pstdev(ratios),
        "seconds": seconds,
        "tokens_per_s": {k: n_tokens / statistics.median(v) for k, v in seconds.items()},
        "peak_mib": peaks,
    }


def compare(
    config: str, device: str, peers: tuple[Variant, ...], *, n_rounds: int, only: str
) -> list[dict[str, Any]]:
    """All our variants against a peer as shipped, and one against it at medium precision."""
    dims = CONFIGS[config]
    n_warm = 2 + dims.mem_len // dims.tgt_len  # until every peer's memory is full
    is_earlier = peers[0].script == OURS_WORKER
    writer_of_weights = peer_variants("huggingface")[0] if is_earlier else peers[0]
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = {
            "config": config,
            "device": device,
            "dropout": 0.1,
            "weights": str(folder / "weights"),
            "mode": "evaluate" if config.startswith("eval") else "train",
            "n_warm": n_warm,
            "n_segments": GUARD_STEPS + n_warm + n_rounds * dims.n_steps,
            "style": writer_of_weights.name.partition(",")[0],
        }
        writer = Worker(writer_of_weights, task | {"save_weights": task["weights"]}, folder)
        writer.close()
        root = peers[0].checkout
        pairs = [
            (ours, replace(ours, name=f"earlier {ours.name}", checkout=root))
            if is_earlier
            else (ours, peers[0])
            for ours in OURS[device]
            if only in ours.name
        ]
        if device == "cpu" and not only and not is_earlier:
            pairs.append((OURS[device][0], peers[1]))
        for ours, peer in pairs:
            difference = guard(ours, peer, task, folder)
            found = rounds(ours, peer, task, n_rounds=n_rounds, folder=folder)
            results.append(
                {
                    "config": config,
                    "ours": asdict(ours),
                    "peer": asdict(peer),
                    "loss_difference": difference,
                    **found,
                }
            )
            print(line(results[-1]), flush=True)
    return results


def line(result: dict[str, Any]) -> str:
    """A row of the table."""
    speed, peak = result["tokens_per_s"], result["peak_mib"]
    return (
        f"{result['config']:12} {result['ours']['name']:28} vs {result['peer']['name']:26} "
        f"{result['ratio']:5.2f}x (least {result['least']:.2f}, spread {result['spread']:.2f})  "
        f"{speed['ours']:8,.0f} vs {speed['peer']:8,.0f} tok/s  "
        f"memory {peak['ours'] / peak['peer']:.2f}x ({peak['ours']:,.0f} MiB)  "
        f"loss differs by {result['loss_difference']:.1e}"
    )


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Ratios as bars, their spread as whiskers."""
    from matplotlib.figure import Figure

    labels = [f"{r['config']}\n{r['ours']['name']}\nvs {r['peer']['name']}" for r in results]
    figure = Figure(figsize=(1.7 * len(results) + 2, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(labels, [r["ratio"] for r in results], yerr=[r["spread"] for r in results])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("times as fast")
    axes.tick_params(axis="x", labelsize=6)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="*", default="all", choices=["all", *CONFIGS])
    parser.add_argument(
        "--peer", action="append", type=peer_variants, help="huggingface (default) or NAME=PATH"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="our variants whose name holds this")
    parser.add_argument("--out", type=Path, help="write the results there as JSON")
    parser.add_argument("--plot", type=Path, help="draw them there")
    told = parser.parse_args()
    if told.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: .venv/bin/pip install -e '.[plots]'")
    results = [
        result
        for config in (COMPARED if "all" in told.configs else told.configs)
        for peers in told.peer or [peer_variants("huggingface")]
        for result in compare(config, told.device, peers, n_rounds=told.rounds, only=told.only)
    ]
    versions = {name: metadata.version(name) for name in ("torch", "deepspeed", "numpy")}
    if told.out:
        made = {"machine": platform.processor(), "versions": versions, "results": results}
        told.out.write_text(json.dumps(made, indent=1) + "\n")
    if told.plot:
        plot(results, told.plot)


if __name__ == "__main__":
    main()
