"""The run directory: checking it, describing the run in it, finding its checkpoint. Rank 0 only."""

import json
import logging
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import nn

from trainer.checkpoint.contents.foreign import foreign_weights, is_foreign
from trainer.checkpoint.contents.tensor_files import refuse_misfit
from trainer.checkpoint.contents.tensors import read_shapes
from trainer.checkpoint.folder import MANIFEST, directory, newest_whole, resolve, verify
from trainer.checkpoint.hashing import Fingerprints
from trainer.checkpoint.rollback import Rollback
from trainer.config.changes import Change, admit, split_changes
from trainer.config.recipe import ExperimentConfig
from trainer.data.corpus import Corpus
from trainer.data.vocabulary.files import save_vocabulary
from trainer.errors import InputError, first_few
from trainer.files import write_atomically
from trainer.outside import printable, read_json
from trainer.track.record.records import METRICS_FILE
from trainer.training.opening.claim import CLAIM, DRAFT
from trainer.training.peers.board import NOTES

T = TypeVar("T")

ENVIRONMENT_FILE = "environment.json"
log = logging.getLogger(__name__)

#: Folders and files that a directory may hold before a run starts in it: logs of a shell or a
#: batch system, the ranks' notes, and the remains of a start that was killed.
_FREE_FOLDERS = ("logs", CLAIM, f"{DRAFT}*", NOTES, "lost+found")
_FREE_FILES = ("*.log", "*.out", "*.err", ".config.json.*", ".nfs*")
#: Packages whose version can change a result.
PACKAGES = ("torch", "deepspeed", "numpy", "pydantic", "wandb", "tokenizers", "safetensors")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The checkpoint from which a run goes on."""

    path: Path
    saved: dict[str, Any]
    changes: list[Change]
    is_own: bool
    """True if the checkpoint is this run's, not a parent's."""
    skipped: list[str]
    """Newer checkpoints that are not whole or not trusted, each with the reason."""
    rollback: Rollback | None = None
    """The rollback that came after the checkpoint was saved, if one did."""


def default_run_dirs(recipe: str, *, now: float) -> Iterator[Path]:
    """Yield ``runs/RECIPE-TIME``, in local time, then names for more runs of the same second."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    first = Path("runs") / f"{Path(recipe).stem}-{stamp}"
    yield first
    yield from (first.with_name(f"{first.name}-{number}") for number in range(2, 1000))


def check(run_dir: Path, experiment: ExperimentConfig, *, allowed: tuple[str, ...]) -> None:
    """Make sure that the directory, which exists, is this run's or free; change nothing.

    If a power cut lost or cut a run's `config.json`, its checkpoints count: they hold the same
    settings, which are compared when a checkpoint is found.

    Raises:
        InputError: the directory holds something else, or a run of another experiment.
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
    """Refuse a directory that is no run's and holds other things than `_FREE_FILES` and folders."""
    for path in sorted(run_dir.iterdir()):
        patterns = _FREE_FOLDERS if path.is_dir() else _FREE_FILES
        if path.is_symlink() or not any(fnmatch(path.name, pattern) for pattern in patterns):
            raise InputError(
                f"--run-dir {run_dir} holds something that is no run, "
                f"{printable(path.name, most=200)}: give another"
            )


def make(run_dir: Path) -> None:
    """Make the directory if it does not exist, and check that a run can write in it.

    Raises:
        InputError: the directory cannot be made, or not written in.
    """

    def try_to_write() -> None:
        """Write something in every folder and file that a run writes in."""
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
    """Return `work`, which writes in a run directory, with its `OSError` made an `InputError`."""

    def refusing() -> T:
        """Do `work`."""
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
    hashed: Fingerprints,
) -> Origin | None:
    """Return this run's newest whole checkpoint, else the one to fork from, else None.

    Raises:
        InputError: a checkpoint must exist and none does, or none must and one does; or none is
            whole; or it has another experiment, corpus or vocabulary: the message says where.
    """
    folder = directory(run_dir)
    own = newest_whole(folder, hashed)
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
        saved = verify(path, hashed=hashed)
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
        rollback=own.rollback,
    )


def _corpus_changes(saved: Mapping[str, Any], corpus: Corpus, path: Path) -> list[Change]:
    """Return the changed splits of the corpus; the train split must not have changed.

    Raises:
        InputError: the vocabulary or the train split differs from the checkpoint's at `path`.
    """
    if saved["corpus"] == corpus.hash:
        return []
    before, now = saved.get("splits") or {}, corpus.split_hashes
    if not before or before.get("train") != now["train"]:  # its hash covers the vocabulary
        raise InputError(
            f"{path} was trained on corpus {saved['corpus']}, but --data {corpus.path} is "
            f"{corpus.hash}, with another train split or vocabulary: give the corpus it began "
            "with, or begin a new run with --init-from"
        )
    return split_changes(before, now)


def find_weights(source: Path, corpus: Corpus, *, model: nn.Module, hashed: Fingerprints) -> Path:
    """Return the verified checkpoint that ``--init-from`` names, or a file of others' weights.

    Raises:
        InputError: there is no checkpoint, or its vocabulary or weights do not fit the model.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if is_foreign(source):
        foreign_weights(source, model, shapes=shapes)
        log.warning(
            "%s does not say of which words its weights are: they must be those of %s",
            source,
            corpus.path / "vocabulary.json",
        )
        return source.resolve()
    path = _checkpoint_at(source)
    saved = verify(path, hashed=hashed)
    if saved["vocabulary"] != corpus.vocabulary.hash:
        raise InputError(
            f"--init-from {path} has vocabulary {saved['vocabulary']}, but {corpus.path} has "
            f"{corpus.vocabulary.hash}: prepare the corpus with --vocab of the run's directory"
        )
    refuse_misfit(read_shapes(path), shapes, where=path)
    return path.resolve()


def _checkpoint_at(path: Path) -> Path:
    """Return the path itself if it is a checkpoint, else the newest checkpoint of the run there."""
    is_run = (path / "config.json").is_file()
    return resolve(path, "last") if is_run else path


def describe(
    run_dir: Path,
    experiment: ExperimentConfig,
    ds_config: dict[str, Any],
    corpus: Corpus,
    *,
    hosts: list[str],
    command: str,
) -> None:
    """Write the files that a reader needs to understand or repeat the run."""
    write_atomically(run_dir / "config.json", experiment.model_dump_json(indent=2) + "\n")
    write_atomically(run_dir / "ds_config.json", json.dumps(ds_config, indent=2) + "\n")
    data = {"path": str(corpus.path.resolve()), "hash": corpus.hash}
    write_atomically(run_dir / "corpus.json", json.dumps(data, indent=2) + "\n")
    save_vocabulary(corpus.vocabulary, run_dir / "vocabulary.json")
    with (run_dir / "command.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{command}\n")
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hosts": hosts,
        "commit": _commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    write_atomically(run_dir / ENVIRONMENT_FILE, json.dumps(environment, indent=2) + "\n")


def run_facts(run_dir: Path, n_parameters: int) -> dict[str, Any]:
    """Return what wandb shows besides a run's settings: size, versions, commit and hosts."""
    try:
        environment = read_json(run_dir / ENVIRONMENT_FILE)
    except InputError:  # only rank 0 writes it, and only rank 0 tracks
        environment = {}
    return {"parameters": n_parameters, "environment": environment}


def _version(package: str) -> str | None:
    """Return a package's installed version; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Return the commit of the trainer's checkout; None without a checkout or without git."""
    here = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return shown.stdout.strip() or None
