"""A run as a user starts it, `launch/train.py` without a DeepSpeed file, and its evaluation."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from measured.dims import CONFIGS
from measured.ours import corpus_of, experiment_of
from on_card.commands import train, txl
from on_card.rows import Ask, Row, row

from trainer import read_metrics

#: Steps of the run, and steps between its records.
N_STEPS, RECORDED = 80, 20


def default_run(ask: Ask) -> Iterator[Row]:
    """Train the recipe for some steps with all defaults, and score a short test split."""
    is_cpu = ask.device == "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dims = CONFIGS["toy" if is_cpu else "wt103-base-60"]
        (folder / "corpus").mkdir()
        n_test = max(2, 20_000 // (dims.n_streams * dims.tgt_len))
        corpus_of(dims, folder / "corpus", train=N_STEPS + 2, valid=2, test=n_test)
        recipe = folder / "recipe.json"
        recipe.write_text(experiment_of(dims, 0.1).model_dump_json())
        run_dir = folder / "run"
        where = ["--data", folder / "corpus", "--run-dir", run_dir, "--device", ask.device]
        how = {
            "train.max-steps": N_STEPS,
            "valid.interval-steps": N_STEPS,
            "tracking.log-interval-steps": RECORDED,
            "tracking.wandb": "disabled",
        }
        flags = [part for key, value in how.items() for part in (f"--{key}", str(value))]
        train([recipe if is_cpu else "wt103-base", *where, *flags])
        records = read_metrics(run_dir, kind="train")
        yield row("default run", "tokens/s, last record", records[-1]["throughput/tokens_per_s"])
        yield row("default run", "peak GiB", records[-1]["memory/peak_gib"])
        first, last = (records[end]["train/loss"] for end in (0, -1))
        yield row("default run", "loss of the first record", first)
        yield row("default run", "loss of the last record", last, ok=last < first)
        said = (run_dir / "logs" / "rank-00000.log").read_text()
        captured = [line for line in said.splitlines() if "captured" in line or "graph" in line]
        told = captured[-1].strip()[-160:] if captured else "nothing"
        yield row("default run", "of graphs it says", told, ok=is_cpu or "is captured" in told)
        for _ in range(2):  # the first time compiles kernels for longer memory
            txl(["eval", run_dir, "--device", ask.device])
        files = sorted((run_dir / "evals").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
        result = json.loads(files[-1].read_text())
        lengths = result["settings"]
        words = f"{lengths['tgt_len']}/{lengths['mem_len']}/{lengths['clamp_len']}"
        yield row("default run", f"evaluated with {words}, tokens/s", result["tokens_per_s"])
        yield row("default run", "its loss", result["loss"])
