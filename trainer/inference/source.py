"""Reading all that a trained model is made from: a run's checkpoint or an exported folder."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from trainer.checkpoint.contents.tensor_files import load_tensors
from trainer.checkpoint.contents.tensors import read_second_moments, read_weights
from trainer.checkpoint.folder import MANIFEST, verify
from trainer.checkpoint.hashing import (
    Fingerprints,
    Found,
    fingerprint,
    fingerprints,
    led_with_hashes,
)
from trainer.checkpoint.living import MOST_DELETED, MOVING, reading
from trainer.checkpoint.saved_state import read_exported, read_manifest
from trainer.config.recipe import ExperimentConfig, experiment_from
from trainer.config.strict import unique_keys
from trainer.data.vocabulary.files import Vocabulary, load_vocabulary
from trainer.distributed import World, gather_objects, on_main
from trainer.errors import InputError
from trainer.outside import read_json

#: Format and version in the `config.json` that `txl export` writes, and its file of weights.
EXPORT_FORMAT, EXPORT_VERSION = "txl-model", 1
EXPORT_WEIGHTS = "model.safetensors"


class Source(NamedTuple):
    """All that a trained model is made from."""

    path: Path
    saved: dict[str, Any]
    experiment: ExperimentConfig
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    weights_hash: dict[str, str]
    """The hash of each file of weights, by name."""
    second_moments: dict[str, Tensor] | None = None
    """The optimizer's second moments by parameter, if they were asked for and there are any."""


def read_source(
    path: Path,
    which: str,
    *,
    hashed: Fingerprints = fingerprints,
    second_moments: bool = False,
) -> Source:
    """Read and verify all that a model is made from; none of its code runs.

    Everything is read at once, because a run in training may delete the checkpoint later.

    Args:
        path: directory of a run, or a folder that `txl export` made.
        which: names one of a run's checkpoints: see `trainer.checkpoint.folder.resolve`.
        hashed: returns size and hash of a checkpoint's files.
        second_moments: whether to read the optimizer's second moments too.

    Raises:
        InputError: there is no such run or checkpoint, or it is not whole.
    """
    config = path / "config.json"
    if not config.is_file():
        raise InputError(f"{path} is no run directory (config.json is missing)")
    values = read_json(config, unique_keys=unique_keys)
    if isinstance(values, dict) and values.get("format") == EXPORT_FORMAT:
        if which != "best":
            raise InputError(f"{path} is an exported model, which is one: leave --checkpoint out")
        source = _exported(path.resolve(), values)
    else:
        configured = experiment_from(values, where=str(config))

        def checkpoint(chosen: Path) -> Source:
            """Return the source of a checkpoint of this run."""
            return _checkpoint(path, chosen, configured, hashed, second_moments)

        source = reading(path, which, checkpoint)
    if source.vocabulary.hash != source.saved["vocabulary"]:
        raise InputError(f"{path}/vocabulary.json is not the one of {source.path}")
    return source


def read_together(path: Path, which: str, world: World, *, second_moments: bool = False) -> Source:
    """Read the same checkpoint on every rank, even if the run is in training. Collective.

    Each rank hashes some of the checkpoint's files, and all believe what is found.

    Raises:
        InputError: on every rank; see `read_source`.
    """
    own: list[Source] = []

    def choose(hashed: Fingerprints) -> tuple[str, dict[str, Found]]:
        """Read the source on this rank; return its checkpoint and the hashes that led there."""
        found: dict[str, Found] = {}

        def noted(folder: Path, names: Sequence[str]) -> dict[str, Found]:
            found.clear()
            found.update(hashed(folder, names))
            return found

        own.append(read_source(path, which, hashed=noted, second_moments=second_moments))
        return str(own[-1].path.absolute()), found

    for _ in range(MOST_DELETED):
        chosen, found = led_with_hashes(choose, world)
        problem = None
        if not world.is_main:
            try:
                is_run = chosen != str(path.resolve())
                asked = chosen if is_run else which
                how: dict[str, Any] = {"second_moments": second_moments}
                own.append(read_source(path, asked, hashed=partial(_told, found), **how))
            except InputError as error:
                problem = error
        problems = [error for error in gather_objects(problem, world) if error is not None]
        if not problems:
            return own[-1]
        if which not in MOVING or on_main(Path(chosen).is_dir, world):
            raise problems[0]
    raise problems[0]


def _told(found: dict[str, Found], folder: Path, names: Sequence[str]) -> dict[str, Found]:
    """Return what was found of each file, which may be gone or new here."""
    return {name: found.get(name, "another rank did not find it") for name in names}


def _checkpoint(
    run_dir: Path,
    path: Path,
    configured: ExperimentConfig,
    hashed: Fingerprints,
    second_moments: bool,
) -> Source:
    saved = verify(path, hashed=hashed)
    experiment = experiment_from(saved["experiment"], where=f"{path}/state.json")
    if experiment.model.factory != configured.model.factory:  # only one file may name code to run
        raise InputError(
            f"{path} is of model.factory {experiment.model.factory}, but {run_dir / 'config.json'} "
            f"says {configured.model.factory}"
        )
    vocabulary = load_vocabulary(run_dir / "vocabulary.json")
    listed = read_manifest(path / MANIFEST).items()
    hashes = {name: entry["xxh3_128"] for name, entry in listed if name.startswith("weights")}
    moments = None
    if second_moments and saved["engine"]["optimizer_step"]:
        moments = read_second_moments(path)
    return Source(path, saved, experiment, vocabulary, read_weights(path), hashes, moments)


def _exported(folder: Path, values: dict[str, Any]) -> Source:
    config, file = folder / "config.json", folder / EXPORT_WEIGHTS
    saved = read_exported(values, where=str(config))
    experiment = experiment_from(saved["experiment"], where=str(config))
    if experiment.model.factory is not None:  # only a run may name code
        raise InputError(f"{config} names a model.factory, which an exported model may not")
    try:
        if fingerprint(file) != saved["weights"]:
            raise InputError(f"{file} is corrupt (size or hash differ): export it again")
        weights = load_tensors(file)
    except OSError as error:
        raise InputError(f"{folder} is no whole exported model: {error}") from None
    vocabulary = load_vocabulary(folder / "vocabulary.json")
    hashes = {EXPORT_WEIGHTS: saved["weights"]["xxh3_128"]}
    return Source(folder, saved, experiment, vocabulary, weights, hashes)
