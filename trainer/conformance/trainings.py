"""Checks of training: short runs of the model in real processes over gloo, on a made-up corpus.

One rank trains, goes on from a checkpoint, and hands it to two ranks, whose checkpoint one rank
takes up again. Two ranks train at each stage of ZeRO. All read the same text, so all losses have to
agree: bitwise where a run goes on in the same way, else up to the order of sums.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.checkpoint.folder import directory
from trainer.config.deepspeed.file import load_ds_config
from trainer.config.recipe import ExperimentConfig
from trainer.conformance.checks import Checked
from trainer.conformance.subject import Finding, words_of
from trainer.data.prepare.writer import SplitWriter
from trainer.data.vocabulary.files import VOCABULARY_FILE, WordVocabulary, save_vocabulary
from trainer.launchers import RENDEZVOUS, complete_environ
from trainer.track.record.metrics import read_metrics
from trainer.wording import counted

#: Steps of each run, and between its checkpoints.
_STEPS, _SAVED = 6, 2
_STREAMS, _TGT_LEN, _MEM_LEN = 4, 6, 12
#: Losses agree if they differ by no more than this, relative: sums are taken in another order.
_AGREE = 1e-3
#: No process takes longer.
_TIMEOUT_S = 300

_STAGES = ("zero1", "zero2", "zero3")
#: What findings call each run.
_WORDS = {
    "whole": "in one go",
    "again": f"resumed after step {_SAVED} of {_STEPS} on the same rank",
    "two": f"resumed by two ranks after step {_SAVED} of {_STEPS} of one",
    "one": f"resumed by one rank after step {2 * _SAVED} of {_STEPS} of two",
    "zero1": "on two ranks at ZeRO stage 1",
    "zero2": "on two ranks at ZeRO stage 2",
    "zero3": "on two ranks at ZeRO stage 3",
}

#: What is checked, by name, and why it matters.
TRAININGS = {
    "resume bitwise": "a run that is interrupted would be another run than one that is not",
    "1, 2 and 1 ranks": "a run could not go on with other devices than it began with",
    "ZeRO 1, 2 and 3": "a model that outgrows one device could not be trained",
}


def trained(experiment: ExperimentConfig, *, environ: Mapping[str, str]) -> Iterator[Checked]:
    """Yield what becomes of the checks of training; `environ` is for the processes."""
    with tempfile.TemporaryDirectory(prefix="txl-check-") as folder:
        runs = _Runs(Path(folder), experiment, environ)
        for (name, why), find in zip(TRAININGS.items(), (_resume, _ranks, _zero), strict=True):
            yield Checked(name=name, why=why, finding=find(runs))


class _Runs:
    """Runs of a model in a folder."""

    def __init__(
        self, folder: Path, experiment: ExperimentConfig, environ: Mapping[str, str]
    ) -> None:
        self.folder, self._ended = folder, dict[str, Finding | None]()
        self._environ = {k: v for k, v in environ.items() if k not in RENDEZVOUS}
        self._environ |= {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *map(_whole, sys.path)]),
            "OMP_NUM_THREADS": "1",
        }
        (folder / "recipe.json").write_text(json.dumps(_recipe(experiment)))
        _write_corpus(folder / "corpus", words_of(experiment.model))

    def train(self, runs: Mapping[str, Sequence[str]], *, n_ranks: int) -> None:
        """Train runs, of which each has a name and words of the command line."""
        recipe, corpus = str(self.folder / "recipe.json"), str(self.folder / "corpus")
        where = ["--data", corpus, "--device", "cpu"]
        commands = [
            [recipe, "--run-dir", str(self.folder / name), *where, *words]
            for name, words in runs.items()
        ]
        spec, outcomes = self.folder / "commands.json", self.folder / "outcomes.json"
        spec.write_text(json.dumps(commands))
        outcomes.unlink(missing_ok=True)
        said = self._processes([str(spec), str(outcomes)], n_ranks)
        told = json.loads(outcomes.read_text()) if outcomes.exists() else [said] * len(runs)
        for name, words in zip(runs, told, strict=True):
            where_ = f"{_STEPS} steps of training on {counted(n_ranks, 'rank')}, {_WORDS[name]}"
            self._ended[name] = None if words is None else Finding(where_, words)

    def failed(self, *names: str) -> Finding | None:
        """Return why one of some runs did not reach its end; None if all did."""
        return next((end for name in names if (end := self._ended[name]) is not None), None)

    def _processes(self, argv: list[str], n_ranks: int) -> str:
        """Run the worker on each rank; return what rank 0 and then others said."""
        port = complete_environ({})["MASTER_PORT"]
        command = [sys.executable, "-m", "trainer.conformance.worker", *argv]
        said = [self.folder / f"rank {rank}.txt" for rank in range(n_ranks)]
        processes = []
        for rank, path in enumerate(said):
            values = (*2 * (str(rank), str(n_ranks)), "127.0.0.1", port)
            place = dict(zip(RENDEZVOUS, values, strict=True))
            with path.open("w") as file:
                processes.append(
                    subprocess.Popen(
                        command,
                        env=self._environ | place,
                        cwd=self.folder,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        try:
            for process in processes:
                process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"it did not end within {_TIMEOUT_S} s"
        finally:
            for process in processes:
                process.kill()
                process.wait()
        texts = (path.read_text(errors="replace") for path in said)
        lines = [line for text in texts for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else "a process ended without a word"

    def losses(self, name: str) -> dict[int, float]:
        """Return the loss of each step of a run."""
        records = read_metrics(self.folder / name, kind="train")
        return {record["step"]: record["train/loss"] for record in records}

    def checkpoint(self, name: str, step: int) -> Path:
        """Return the folder of a run's checkpoint."""
        return directory(self.folder / name) / f"step-{step:08d}"

    def from_checkpoint(self, name: str, step: int) -> list[str]:
        """Return the words that make a run go on from a checkpoint of another."""
        return ["--resume-from", str(self.checkpoint(name, step)), *_ds("zero0_fp32")]


def _ds(name: str) -> list[str]:
    return ["--deepspeed-config", name]


def _resume(runs: _Runs) -> Finding | None:
    whole = {"whole": _ds("zero0_fp32")}
    runs.train(whole | {"again": runs.from_checkpoint("whole", _SAVED)}, n_ranks=1)
    finding = runs.failed("whole", "again") or _differs(runs, "again", most=0.0)
    if finding is not None:
        return finding
    hashes = [_hashes(runs.checkpoint(name, _STEPS)) for name in ("whole", "again")]
    other = sorted(name for name in hashes[0] if hashes[0][name] != hashes[1].get(name))
    seen = f"{', '.join(other)} of the last checkpoint differ, though no loss does"
    return Finding(_WORDS["again"], seen) if other else None


def _hashes(checkpoint: Path) -> dict[str, str]:
    """Return the hash of each file of tensors."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: entry["xxh3_128"] for name, entry in files.items() if name.endswith("tensors")}


def _ranks(runs: _Runs) -> Finding | None:
    if runs.failed("whole"):
        return runs.failed("whole")
    # Two ranks meet once, for all that is asked of them.
    runs.train({"two": runs.from_checkpoint("whole", _SAVED)} | _stages(runs), n_ranks=2)
    finding = runs.failed("two") or _differs(runs, "two", most=_AGREE)
    if finding is not None:
        return finding
    runs.train({"one": runs.from_checkpoint("two", 2 * _SAVED)}, n_ranks=1)
    return runs.failed("one") or _differs(runs, "one", most=_AGREE)


def _zero(runs: _Runs) -> Finding | None:
    if runs.failed("whole"):
        return runs.failed("whole")
    found = (runs.failed(name) or _differs(runs, name, most=_AGREE) for name in _STAGES)
    return next((finding for finding in found if finding is not None), None)


def _stages(runs: _Runs) -> dict[str, list[str]]:
    """Return the runs of ZeRO's stages, with the words of each."""
    files = {}
    for name in _STAGES:
        values: dict[str, Any] = load_ds_config(f"{name}_fp32")
        if name == "zero3":  # or else parameters as small as these are not shared out
            values["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        path = runs.folder / f"{name}.json"
        path.write_text(json.dumps(values))
        files[name] = _ds(str(path))
    return files


def _differs(runs: _Runs, name: str, *, most: float) -> Finding | None:
    """Return at which step the losses of a run first differ from those of the run in one go.

    They agree if they differ by no more than `most`, relative.
    """
    found, expected = runs.losses(name), runs.losses("whole")
    for step in range(_STEPS - len(found) + 1, _STEPS + 1):
        loss, whole = found.get(step, math.nan), expected[step]
        if not abs(loss - whole) <= most * abs(whole):
            seen = f"the loss of step {step} is {loss!r}, and {whole!r} on one rank in one go"
            return Finding(_WORDS[name], seen)
    return None


def _recipe(experiment: ExperimentConfig) -> dict[str, Any]:
    """Return the recipe of short runs, without dropout: its draws depend on ranks."""
    lengths = {"tgt_len": _TGT_LEN, "mem_len": _MEM_LEN}
    changes: dict[str, dict[str, Any]] = {
        "model": {"dropout": 0.0, "attn_dropout": 0.0},
        "train": {"train_batch_size": _STREAMS, "max_steps": _STEPS, **lengths},
        "optim": {"lr": 1e-3, "warmup_steps": 0, "min_lr": 0.0, "warmup_init_lr": None},
        "valid": {"interval_steps": 0, "patience": None, "batch_size": 2, **lengths},
        "eval": {"batch_size": 2, **lengths},
        "sample": {"interval_steps": 0},
        "checkpoint": {"interval_steps": _SAVED, "keep_last": _STEPS},
        "tracking": {"log_interval_steps": 1, "wandb": "disabled"},
        "expect": {"ppl": None, "tokens_per_s": None},
    }
    values = experiment.model_dump(mode="json")
    of_train = {"train_micro_batch_size_per_gpu": None, "clamp_len": None, "same_length": False}
    values["train"] |= of_train
    for section, fields in changes.items():
        values[section] |= fields
    return values


def _write_corpus(folder: Path, vocabulary_size: int) -> None:
    """Write a corpus of random words, whose streams end with a segment that is not whole."""
    folder.mkdir()
    vocabulary = WordVocabulary(["<eos>", "<unk>", *(f"w{i}" for i in range(2, vocabulary_size))])
    save_vocabulary(vocabulary, folder / VOCABULARY_FILE)
    random = np.random.default_rng(0)
    n_tokens = _STREAMS * (_TGT_LEN * _STEPS - _TGT_LEN // 2) + 1
    for name in ("train", "valid"):
        writer = SplitWriter(folder, name, vocabulary)
        ids = random.integers(vocabulary_size, size=n_tokens).astype(np.uint32)
        writer.add(ids, n_words=n_tokens, n_characters=3 * n_tokens, ends_document=True)
        writer.finish(splits=["train", "valid"], made={"by": "txl check-model"})


def _whole(path: str) -> str:
    return str(Path(path or ".").absolute())
