"""What `--dry-run` says a run needs, against what real runs needed: one command, one table.

    OMP_NUM_THREADS=1 .venv/bin/python tests/benchmarks/plan_memory.py [name …]

Each setting trains three steps on the CPU, with a validation and a checkpoint after each, in real
processes over gloo. Measured is the largest peak of a rank's resident memory (VmHWM), less that of
the same run of a model of nearly no size: the same ranks, DeepSpeed file and libraries, so what is
left is what the sizes ask for. Planned is the sum that `--dry-run` prints for the same command.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer import read_metrics
from trainer.data.prepare.from_text import PrepareOptions, prepare

ROOT = Path(__file__).parent.parent.parent
GIB = 1 << 30


@dataclass(frozen=True)
class Setting:
    """Sizes of a run, as flags' values."""

    n_layer: int
    d_model: int
    n_head: int
    d_head: int
    d_inner: int
    batch: int
    tgt_len: int
    mem_len: int
    vocabulary: int
    ds_config: str = "zero0_fp32"
    ranks: int = 1
    cutoffs: tuple[int, ...] = ()
    extra: tuple[str, ...] = field(default=())

    def argv(self, corpus: Path, run_dir: Path) -> list[str]:
        """Return the training command, without the program's name."""
        train = {
            "model.n-layer": self.n_layer,
            "model.d-model": self.d_model,
            "model.n-head": self.n_head,
            "model.d-head": self.d_head,
            "model.d-inner": self.d_inner,
            "train.train-batch-size": self.batch,
            "train.tgt-len": self.tgt_len,
            "train.mem-len": self.mem_len,
            "valid.tgt-len": self.tgt_len,
            "valid.mem-len": self.mem_len,
            "train.max-steps": 3,
            "optim.warmup-steps": 0,
            "valid.interval-steps": 1,
            "valid.batch-size": 2,
            "checkpoint.interval-steps": 1,
            "tracking.log-interval-steps": 1,
            "tracking.wandb": "disabled",
        }
        flags = [text for name, value in train.items() for text in (f"--{name}", str(value))]
        cutoffs = ["--model.cutoffs", *map(str, self.cutoffs)]
        where = ["--data", str(corpus), "--run-dir", str(run_dir), "--device", "cpu"]
        how = ["--deepspeed-config", self.ds_config]
        return ["quickstart", *where, *how, *flags, *cutoffs, *self.extra]

    @property
    def smallest(self) -> "Setting":
        """Return the same run of nearly no size."""
        return Setting(
            1, 8, 1, 8, 8, self.ranks, 8, 8, 100, self.ds_config, self.ranks, (), self.extra
        )


SETTINGS = {
    "layers": Setting(8, 256, 4, 64, 1024, 16, 64, 64, 1_000),
    "long segments": Setting(2, 128, 4, 32, 256, 1, 4096, 256, 1_000),
    "long memory": Setting(4, 128, 4, 32, 512, 4, 512, 2048, 5_000),
    "many words": Setting(2, 128, 2, 64, 256, 8, 32, 32, 250_000, cutoffs=(20_000, 60_000)),
    "full softmax": Setting(2, 128, 2, 64, 256, 16, 64, 64, 50_000),
    "autocast": Setting(8, 320, 5, 64, 1280, 16, 96, 96, 20_000, "zero0_bf16_autocast"),
    "two ranks": Setting(4, 256, 4, 64, 1024, 16, 128, 128, 30_000, ranks=2),
    "zero 1": Setting(4, 256, 4, 64, 1024, 8, 64, 64, 100_000, "zero1_fp32", 2, (20_000,)),
    "zero 2": Setting(6, 384, 6, 64, 1536, 16, 64, 64, 20_000, "zero2_bf16", 2),
    "zero 3": Setting(6, 384, 6, 64, 1536, 16, 64, 64, 20_000, "zero3_bf16", 2),
    "zero 1 alone": Setting(4, 256, 4, 64, 1024, 16, 128, 128, 20_000, "zero1_bf16"),
    "checkpointing": Setting(
        12,
        256,
        4,
        64,
        1024,
        16,
        128,
        128,
        5_000,
        extra=("--model.activation-checkpointing", "True"),
    ),
}


def make_corpus(folder: Path, n_words: int, n_tokens: int = 60_000) -> Path:
    """Make a corpus of just so many words, the frequent ones as frequent as in a text."""
    if folder.is_dir():
        return folder
    rng = np.random.default_rng(1)
    often = 1 / np.arange(1, n_words + 1)
    drawn = rng.choice(n_words, size=max(n_tokens, 1000), p=often / often.sum())
    ids = np.concatenate([drawn, np.arange(n_words - 1)])
    rng.shuffle(ids)
    text = folder.with_suffix(".txt")
    lines = [" ".join(f"w{i}" for i in ids[at : at + 1000]) for at in range(0, len(ids), 1000)]
    text.write_text("\n".join(lines) + "\n")
    valid = folder.with_suffix(".valid.txt")
    valid.write_text("\n".join(lines[:10]) + "\n")
    prepare(PrepareOptions(out=folder, train=(text,), valid=(valid,), tokenizer="words"))
    return folder


def measure(setting: Setting, corpus: Path, folder: Path) -> float:
    """Return bytes of the largest rank's peak, the libraries' own included."""
    command = [sys.executable, "-m", "trainer", "train"]
    if setting.ranks > 1:
        launcher = [
            "torch.distributed.run",
            "--nproc_per_node",
            str(setting.ranks),
            "--master_port",
            "29611",
        ]
        command = [sys.executable, "-m", *launcher, str(ROOT / "launch" / "train.py")]
    run_dir = Path(tempfile.mkdtemp(dir=folder)) / "run"
    done = subprocess.run(
        [*command, *setting.argv(corpus, run_dir)],
        env=environment(),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return GIB * max(r["memory/peak_gib"] for r in read_metrics(run_dir, kind="train"))


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def planned(setting: Setting, corpus: Path, folder: Path) -> float:
    """Return bytes that `--dry-run` prints as their sum, of the same command."""
    environ = environment() | {"WORLD_SIZE": str(setting.ranks), "RANK": "0", "LOCAL_RANK": "0"}
    environ |= {"LOCAL_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}
    flags = [*setting.argv(corpus, folder / "planned"), "--dry-run", "--beyond-memory"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "train", *flags],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return GIB * float(json.loads(done.stdout)["needs"]["gib_per_rank"]["sum"])


def compare(setting: Setting, folder: Path, bases: dict[Setting, float]) -> tuple[float, float]:
    """Return bytes planned and measured; `bases` keeps what was measured of nearly no size."""
    base = setting.smallest
    corpora = [make_corpus(folder / f"words-{s.vocabulary}", s.vocabulary) for s in (setting, base)]
    if base not in bases:
        bases[base] = measure(base, corpora[1], folder)
    measured = measure(setting, corpora[0], folder) - bases[base]
    return planned(setting, corpora[0], folder), measured


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(SETTINGS))
    names = parser.parse_args().names or list(SETTINGS)
    bases: dict[Setting, float] = {}
    print(f"{'setting':16} {'planned':>9} {'measured':>9}  ratio   (MiB per rank)")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            told, found = compare(SETTINGS[name], Path(folder), bases)
            print(
                f"{name:16} {told / 2**20:9,.0f} {found / 2**20:9,.0f}  {told / found:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
