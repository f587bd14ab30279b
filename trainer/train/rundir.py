"""The run directory: whose it is, what it says of its run, and where to go on from. Rank 0 only."""

import json
import logging
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from trainer.checkpoint.folder import MANIFEST, directory, newest_whole, resolve, verify
from trainer.checkpoint.tensors import read_shapes, refuse_misfit
from trainer.config.changes import Change, admit, split_changes
from trainer.config.recipe import ExperimentConfig
from trainer.data.corpus import Corpus
from trainer.data.vocabulary.files import save_vocabulary
from trainer.errors import InputError, first_few
from trainer.files import write_atomically
from trainer.outside import printable, read_json
from trainer.track.records import METRICS_FILE
from trainer.train.claim import CLAIM, DRAFT

T = TypeVar("T")

ENVIRONMENT_FILE = "environment.json"
log = logging.getLogger(__name__)

#: What a directory may hold that is to become a run's: logs of a shell or a batch system, and what
#: a start leaves that was killed. Folders, and files.
_FREE_FOLDERS = ("logs", CLAIM, f"{DRAFT}*", "lost+found")
_FREE_FILES = ("*.log", "*.out", "*.err", ".config.json.*", ".nfs*")
#: Packages whose version can change a result.
PACKAGES = ("torch", "deepspeed", "numpy", "pydantic", "wandb", "tokenizers", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Checkpoint from which a run goes on."""

    path: Path
    saved: dict[str, Any]
    changes: list[Change]
    is_own: bool
    """The checkpoint is this run's, not a parent's."""
    skipped: list[str]
    """Newer checkpoints that are not whole: which, and why."""


def default_run_dirs(recipe: str, *, now: float) -> Iterator[Path]:
    """``runs/RECIPE-TIME``, in local time, and names for further runs of that second."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    first = Path("runs") / f"{Path(recipe).stem}-{stamp}"
    yield first
    yield from (first.with_name(f"{first.name}-{number}") for number in range(2, 1000))


def check(run_dir: Path, experiment: ExperimentConfig, *, allowed: tuple[str, ...]) -> None:
    """Make sure that the directory, which exists, is this run's or free; changes nothing.

    A run whose `config.json` was lost or cut, as by a power cut, goes by its checkpoints, which say
    the same and are compared when one is found.

    Raises:
        InputError: it holds something else, or a run of another experiment.
    """
    config = run_dir / "config.json"
    folder = directory(run_dir)
    has_checkpoints = next(folder.glob(f"step-*/{MANIFEST}"), None) is not None
    if not config.is_file():
        if not has_checkpoints:
            _refuse_others(run_dir)
        return
    try:
        old = read_json(config)
        if not isinstance(old, dict):
            raise InputError(f"{config}: not an experiment")
    except InputError as error:
        if not has_checkpoints and not (run_dir / METRICS_FILE).is_file():
            raise InputError(f"{error}: give another --run-dir") from None
        log.warning("going by what else the run left: %s", error)
        return
    admit(old, experiment, allowed=allowed, where=str(run_dir))


def _refuse_others(run_dir: Path) -> None:
    """Refuse a directory that is no run's and holds more than logs and what a start leaves."""
    for path in sorted(run_dir.iterdir()):
        patterns = _FREE_FOLDERS if path.is_dir() else _FREE_FILES
        if path.is_symlink() or not any(fnmatch(path.name, pattern) for pattern in patterns):
            raise InputError(
                f"--run-dir {run_dir} holds something that is no run, "
                f"{printable(path.name, most=200)}: give another"
            )


def make(run_dir: Path) -> None:
    """Make the directory where it is not there, and see that a run can write in it.

    Raises:
        InputError: it cannot be made, or written in.
    """

    def try_to_write() -> None:
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        for folder in (run_dir, run_dir / "logs", directory(run_dir)):
            if folder.exists():
                with tempfile.TemporaryFile(dir=folder):
                    pass
        if (run_dir / METRICS_FILE).exists():
            with (run_dir / METRICS_FILE).open("ab"):
                pass

    writing(try_to_write)()


def writing(work: Callable[[], T]) -> Callable[[], T]:
    """`work`, which writes in a run directory and raises `InputError` where it cannot."""

    def refusing() -> T:
        try:
            return work()
        except OSError as error:
            where = error.filename2 or error.filename or "the run directory"
            why = error.strerror or error
            raise InputError(
                f"{where} cannot be written: {why}; mend that, or give another --run-dir"
            ) from None

    return refusing


def find_origin(
    run_dir: Path,
    experiment: ExperimentConfig,
    corpus: Corpus,
    *,
    resume: Literal["auto", "must", "never"],
    resume_from: Path | None,
    allowed: tuple[str, ...],
) -> Origin | None:
    """The newest whole checkpoint of this run, else the one to fork from, else None.

    Raises:
        InputError: there is none but there must be, or one but there must not; none is whole; or
            it is of another experiment, corpus or vocabulary, and the message says in what.
    """
    folder = directory(run_dir)
    own = newest_whole(folder)
    if resume == "never" and (own.path or own.skipped):
        raise InputError(f"{folder} has checkpoints: --resume never needs another --run-dir")
    if own.path is None and own.skipped:
        raise InputError(f"{folder} has no whole checkpoint: {first_few(own.skipped, most=3)}")
    if own.path is None and resume_from is None:
        if resume == "must":
            raise InputError(f"{folder} has no checkpoint, but --resume must asks for one")
        return None
    path, saved = own.path, own.state
    if path is None:
        assert resume_from is not None
        path = _checkpoint_at(resume_from)
        saved = verify(path)
    if "imported" in saved:
        raise InputError(f"{path} was imported, weights alone: begin a new run with --init-from it")
    changed = admit(saved["experiment"], experiment, allowed=allowed, where=str(path))
    changed += _corpus_changes(saved, corpus, path)
    return Origin(
        path=path.resolve(),
        saved=saved,
        changes=changed,
        is_own=own.path is not None,
        skipped=own.skipped,
    )


def _corpus_changes(saved: Mapping[str, Any], corpus: Corpus, path: Path) -> list[Change]:
    """Splits that are not what they were, train excepted: it makes a run what it is.

    Raises:
        InputError: the vocabulary or train is another than that of the checkpoint at `path`.
    """
    if saved["corpus"] == corpus.hash:
        return []
    before, now = saved.get("splits") or {}, corpus.split_hashes
    if not before or before.get("train") != now["train"]:  # which the vocabulary is part of
        raise InputError(
            f"{path} was trained on corpus {saved['corpus']}, but --data {corpus.path} is "
            f"{corpus.hash}, with another train split or vocabulary: give the corpus it began "
            "with, or begin a new run with --init-from"
        )
    return split_changes(before, now)


def find_weights(source: Path, corpus: Corpus, *, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """The verified checkpoint that ``--init-from`` names, whose weights have these `shapes`.

    Raises:
        InputError: there is none, or it has another vocabulary or other weights.
    """
    path = _checkpoint_at(source)
    saved = verify(path)
    if saved["vocabulary"] != corpus.vocabulary.hash:
        raise InputError(
            f"--init-from {path} has vocabulary {saved['vocabulary']}, but {corpus.path} has "
            f"{corpus.vocabulary.hash}: prepare the corpus with --vocab of the run's directory"
        )
    refuse_misfit(read_shapes(path), shapes, where=path)
    return path.resolve()


def _checkpoint_at(path: Path) -> Path:
    """A checkpoint's own path, or the newest of a run's directory."""
    is_run = (path / "config.json").is_file()
    return resolve(path, "last") if is_run else path


def describe(
    run_dir: Path,
    experiment: ExperimentConfig,
    ds_config: dict[str, Any],
    corpus: Corpus,
    hosts: list[str],
) -> None:
    """Write what a reader needs to understand the run, or to do it again."""
    write_atomically(run_dir / "config.json", experiment.model_dump_json(indent=2) + "\n")
    write_atomically(run_dir / "ds_config.json", json.dumps(ds_config, indent=2) + "\n")
    data = {"path": str(corpus.path.resolve()), "hash": corpus.hash}
    write_atomically(run_dir / "corpus.json", json.dumps(data, indent=2) + "\n")
    save_vocabulary(corpus.vocabulary, run_dir / "vocabulary.json")
    with (run_dir / "command.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(shlex.join(sys.argv) + "\n")
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hosts": hosts,
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    write_atomically(run_dir / ENVIRONMENT_FILE, json.dumps(environment, indent=2) + "\n")


def run_facts(run_dir: Path, n_parameters: int) -> dict[str, Any]:
    """Return facts of a run for wandb beside its settings: size, versions, commit and hosts."""
    try:
        environment = read_json(run_dir / ENVIRONMENT_FILE)
    except InputError:  # only rank 0 has written it, and only it tracks
        environment = {}
    return {"parameters": n_parameters, "environment": environment}


def _version(package: str) -> str | None:
    """Return a package's installed version; None where it is missing, as wandb may be."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, where the trainer runs from one and git is there."""
    here = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return shown.stdout.strip() or None
