"""Real training in real processes: runs of the tests' corpus under torchrun over gloo."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from made_text import made_text

from trainer import read_metrics
from trainer.data.prepare.from_text import PrepareOptions, prepare
from trainer.errors import Exit

ROOT = Path(__file__).parents[3]
SUPPORT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("training_worker.py")

#: Titles and numbers of lines of the stories that the tests train on, and of the one to validate.
STORIES = {"the mill": 240, "the harbour": 180, "the long road": 300}
VALID = "the keeper", 40

#: DeepSpeed files that a CPU can run.
KINDS = (
    "zero0_fp32",
    "zero0_bf16_autocast",
    "zero0_fp16_autocast",
    "zero1_fp32",
    "zero1_bf16",
    "zero1_fp16",
    "zero2_fp32",
    "zero2_bf16",
    "zero2_fp16",
    "zero3_fp32",
    "zero3_bf16",
    "zero3_fp16",
)

TINY = [
    "--model.norm",
    "post",
    "--model.n-layer",
    "2",
    "--model.d-model",
    "32",
    "--model.n-head",
    "2",
    "--model.d-head",
    "16",
    "--model.d-inner",
    "48",
    "--model.cutoffs",
    "100",
    "400",
    "--model.div-val",
    "2",
    "--train.train-batch-size",
    "8",
    "--train.tgt-len",
    "12",
    "--train.mem-len",
    "20",
    "--train.max-steps",
    "30",
    "--optim.lr",
    "1e-2",
    "--optim.warmup-steps",
    "4",
    "--optim.gradient-clipping",
    "0.25",
    "--tracking.log-interval-steps",
    "1",
    "--tracking.wandb",
    "disabled",
    "--valid.interval-steps",
    "0",
    "--valid.batch-size",
    "2",
    "--valid.tgt-len",
    "12",
    "--valid.mem-len",
    "20",
    "--eval.tgt-len",
    "12",
    "--eval.mem-len",
    "20",
    "--eval.batch-size",
    "2",
    "--checkpoint.interval-steps",
    "0",
    "--device",
    "cpu",
]


def make_corpus(folder: Path) -> Path:
    """Prepare three stories to train on and one to validate with, by words."""
    texts = folder.with_name(f"{folder.name} texts")  # kept: some tests prepare them again
    texts.mkdir(parents=True)
    train = tuple(
        write_text(texts / f"{title}.txt", title, n_lines=n_lines)
        for title, n_lines in STORIES.items()
    )
    valid = (write_text(texts / "valid.txt", *VALID),)
    prepare(PrepareOptions(out=folder, train=train, valid=valid, tokenizer="words"))
    return folder


def write_text(path: Path, title: str, n_lines: int) -> Path:
    """Write the story `title` to `path`, and give it back."""
    path.write_text(made_text(title, n_lines=n_lines), encoding="utf-8")
    return path


@dataclass
class Case:
    """One run: its directory, its DeepSpeed file and what it changes of `TINY`."""

    run_dir: Path
    ds_config: str = "zero0_fp32"
    flags: list[str] = field(default_factory=list)
    recipe: str = "quickstart"
    corpus: Path | None = None
    """Another than that of the other cases."""
    ends: Exit = Exit.DONE
    """The code that it is to exit with."""
    asked: tuple[str, int, int] | None = None
    """A signal's name or STOP, the rank that gets it, and the look for requests just before."""
    left: dict[str, Any] = field(default_factory=dict)
    """The contents of the directory when it had ended: `training_worker.left_in`."""

    def argv(self, corpus: Path) -> list[str]:
        """Return the training command."""
        where = ["--data", str(self.corpus or corpus), "--run-dir", str(self.run_dir)]
        how = ["--deepspeed-config", self.ds_config]
        return [self.recipe, *where, *how, *TINY, *self.flags]


def run_cases(
    cases: list[Case], *, corpus: Path, n_ranks: int, timeout_s: float = 1000
) -> list[str]:
    """Train the cases one after the other in the same `n_ranks` processes.

    Each must end as it says. Returns, in their order, what those that were refused were told.
    """
    command = [sys.executable, str(WORKER)]
    if n_ranks > 1:
        rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
        torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", str(n_ranks), *rendezvous]
        command[1:1] = torchrun
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.json"
        keys = ("by", "rank", "look")
        commands = [
            (case.argv(corpus), dict(zip(keys, case.asked, strict=True)) if case.asked else None)
            for case in cases
        ]
        spec = {"commands": commands, "outcomes": str(outcomes)}
        done = subprocess.run(
            command,
            input=json.dumps(spec),
            env=environment(),
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
        found = json.loads(outcomes.read_text())
    for case, (code, told, left) in zip(cases, found, strict=True):
        case.left = left
        assert code == case.ends, f"{case} ended with {code}: {told}\n{done.stderr[-4000:]}"
    return [told for code, told, _ in found if code == Exit.BAD_INPUT]


def ds_file_like(kind: str, path: Path, **blocks: dict[str, Any]) -> str:
    """Return a DeepSpeed file at `path` like a packaged one, with some of its blocks changed."""
    values = json.loads((ROOT / "ds_configs" / f"{kind}.json").read_text())
    for block, changes in blocks.items():
        values[block] = values.get(block, {}) | changes
    path.write_text(json.dumps(values))
    return str(path)


def overflowing(kind: str, folder: Path) -> str:
    """Return a DeepSpeed file like `kind` whose loss scale overflows now and then; in fp16 only.

    At stage 3 it shares out all but the smallest parameters.
    """
    values = json.loads((ROOT / "ds_configs" / f"{kind}.json").read_text())
    if "fp16" in values:
        values["fp16"] |= {"initial_scale_power": 24, "loss_scale_window": 4, "hysteresis": 1}
    if kind.startswith("zero3"):
        values["zero_optimization"]["stage3_param_persistence_threshold"] = 100
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(values))
    return str(path)


def begun_from(source: Path, step: int, target: Path) -> Path:
    """Return a run directory that knows nothing but the checkpoint of `source` at `step`."""
    name = f"step-{step:08d}"
    (target / "checkpoints").mkdir(parents=True)
    shutil.copy(source / "config.json", target)
    shutil.copytree(source / "checkpoints" / name, target / "checkpoints" / name)
    return target


def environment(**changes: str) -> dict[str, str]:
    """Return an environment of one thread per process: two that spin wait for each other."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    before = os.environ.get("PYTHONPATH", "")
    rooms = [SUPPORT, *(room for room in sorted(SUPPORT.iterdir()) if room.is_dir())]
    paths = os.pathsep.join(filter(None, [str(ROOT), *map(str, rooms), before]))
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths} | changes


def unmeasured() -> dict[str, str]:
    """Return an environment for a process that gets signals while it does anything at all.

    What measures coverage holds a lock now and then; a handler that ends the process waits for it.
    """
    return {k: v for k, v in environment().items() if not k.startswith("COVERAGE_")}


def losses(run_dir: Path) -> dict[int, float]:
    """Return the training loss by step."""
    return {record["step"]: record["train/loss"] for record in read_metrics(run_dir, kind="train")}


def checkpoint_hashes(run_dir: Path, step: int) -> dict[str, str]:
    """Return the hash of every tensor file of a checkpoint; equal hashes are equal contents."""
    path = run_dir / "checkpoints" / f"step-{step:08d}" / "manifest.json"
    files = json.loads(path.read_text())["files"]
    return {name: entry["xxh3_128"] for name, entry in files.items() if name.endswith("tensors")}


def events(run_dir: Path, name: str) -> list[dict]:
    """Return the run's events of that name."""
    return [record for record in read_metrics(run_dir, kind="event") if record["event"] == name]
