"""Evaluations of a run, in this process and on ranks."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from builders import lone_world
from training import ROOT, environment

from trainer.inference.eval_options import EvalOptions
from trainer.inference.evaluate import evaluate_run


def evaluated(run: Path, **options: Any) -> dict[str, Any]:
    """Return the one result of an evaluation of the valid split, as its file has it."""
    (result,) = evaluate_run(
        EvalOptions(run_dir=run, **{"split": "valid", **options}), lone_world()
    )
    return result.model_dump(mode="json") | {"version": 2}


def ranks(n_ranks: int, run: Path, *flags: object) -> str:
    """Return what `txl eval` of the valid split prints under torchrun."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(n_ranks),
        "--rdzv_backend",
        "c10d",
        "--rdzv_endpoint",
        "localhost:0",
        "-m",
        "trainer",
        "eval",
        str(run),
        "--split",
        "valid",
        "--device",
        "cpu",
        *map(str, flags),
    ]
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
