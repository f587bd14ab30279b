"""`txl import`: turning a checkpoint of another trainer into a run directory of ours.

Weights, configuration and vocabulary are imported; the optimizer's state is not. The run can be
evaluated, sampled, exported and finetuned (``--init-from``).
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint import pointers
from trainer.checkpoint.contents.index import INDEX, index_of_whole, weights_file, write_index
from trainer.checkpoint.contents.tensor_files import save_tensors
from trainer.checkpoint.folder import directory
from trainer.checkpoint.hashing import fingerprint
from trainer.checkpoint.sealing import draft_of, seal
from trainer.checkpoint.state import TrainState
from trainer.config.recipe import ExperimentConfig, experiment_from, load_recipe, recipe_names
from trainer.data.vocabulary.files import VOCABULARY_FILE, Vocabulary, save_vocabulary
from trainer.errors import InputError
from trainer.exchange.layouts import Foreign, read_foreign
from trainer.exchange.names import table_of, to_ours
from trainer.exchange.settings import ForeignConfig
from trainer.exchange.vocabularies import find_vocabulary
from trainer.files import new_folder, write_atomically
from trainer.shell import command, program, training
from trainer.track.console.progress import working

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import."""

    run_dir: Path
    foreign: Foreign
    recipe: str
    vocabulary: Vocabulary
    n_parameters: int

    def lines(self) -> list[str]:
        """Return the lines that the command prints."""
        model, run = self.foreign.config.model, self.run_dir
        recipe = run / "config.json"
        txl, train = program("txl"), training(recipe, "--init-from", run)
        return [
            f"{self.foreign.file}: {self.foreign.layout}, {model.n_layer} layers, d_model "
            f"{model.d_model}, {self.n_parameters:,} parameters",
            f"vocabulary: {self.vocabulary.size:,} {self.vocabulary.kind}",
            f"settings that it does not say are those of recipe {self.recipe}",
            *self._notes(),
            f"next: {command(txl, 'prepare', '--vocab', run)} --test TEXT --out CORPUS",
            f"      {command(txl, 'eval', run)} --data CORPUS",
            f"      {train} --data CORPUS",
        ]

    def _notes(self) -> list[str]:
        """Return notes on words that mean something else in the other trainer."""
        if self.foreign.layout != "nvidia":
            return []
        return [
            "with same_length NVIDIA's mask sees mem_len + 1 keys: mem_len is one more here, as in "
            "its recipes"
        ]


def import_checkpoint(
    path: Path, *, out: Path, vocab: Path | None = None, recipe: str | None = None
) -> Imported:
    """Read the checkpoint at `path` and write the run directory `out`, whole or not at all.

    Args:
        path: see `trainer.exchange.layouts.read_foreign`.
        out: must not exist, or be empty.
        vocab: see `trainer.exchange.vocabularies.find_vocabulary`.
        recipe: gives the settings that the checkpoint lacks; None takes `nearest_recipe`.

    Raises:
        InputError: a file cannot be used.
    """
    try:
        with new_folder(out) as draft:
            return _import(path, draft, out=out, vocab=vocab, recipe=recipe)
    except OSError as error:
        raise InputError(f"--out {out.resolve()} cannot be written: {error}") from None


def _import(
    path: Path, draft: Path, *, out: Path, vocab: Path | None, recipe: str | None
) -> Imported:
    """Write the run of a foreign checkpoint to `draft`, which becomes `out`."""
    with working(f"reading {path}"):
        foreign = read_foreign(path)
    config = foreign.config
    vocabulary = find_vocabulary(
        vocab,
        beside=foreign.file.parent,
        inside=foreign.vocabulary,
        size=config.vocabulary_size,
    )
    recipe = recipe or nearest_recipe(config)
    experiment = _experiment(config, recipe)
    table = table_of(config.model, config.vocabulary_size)
    weights = to_ours(foreign.tensors, table, where=str(foreign.file))
    with working(f"writing {out}"):
        _write(draft, experiment, vocabulary, weights, foreign)
    return Imported(
        run_dir=out,
        foreign=foreign,
        recipe=recipe,
        vocabulary=vocabulary,
        n_parameters=sum(weight.numel() for weight in weights.values()),
    )


def nearest_recipe(config: ForeignConfig) -> str:
    """Return the packaged recipe of the same sizes; of several, one with the same clusters.

    If no recipe has these sizes, the one nearest in width is returned.
    """
    sizes = ("n_layer", "d_model", "n_head", "d_inner")

    def distance(name: str) -> tuple[int, bool, int]:
        model = load_recipe(name).model
        differing = sum(getattr(model, size) != getattr(config.model, size) for size in sizes)
        other_clusters = model.cutoffs != config.model.cutoffs
        return differing, other_clusters, abs(model.d_model - config.model.d_model)

    ours = [name for name in recipe_names() if load_recipe(name).model.builder is None]
    return min(ours, key=distance)


def _experiment(config: ForeignConfig, recipe: str) -> ExperimentConfig:
    """Return the recipe's experiment, changed by all settings of the checkpoint."""
    base = load_recipe(recipe)
    values = base.model_dump(mode="json")
    values["model"] = config.model.model_dump(mode="json")
    lengths = {
        "mem_len": config.mem_len,
        "clamp_len": config.clamp_len,
        "same_length": config.same_length and config.mem_len > 0,
    }
    if config.tgt_len is not None:
        lengths["tgt_len"] = config.tgt_len
    for part in ("train", "valid"):
        values[part] |= lengths
    if base.model.n_layer != config.model.n_layer or base.model.d_model != config.model.d_model:
        values["eval"] |= lengths  # else the recipe's evaluation is kept
    return experiment_from(values, where=f"settings of the checkpoint over recipe {recipe}")


def _write(
    folder: Path,
    experiment: ExperimentConfig,
    vocabulary: Vocabulary,
    weights: dict[str, Tensor],
    foreign: Foreign,
) -> None:
    """Write a run that has settings, vocabulary and one checkpoint, at step 0."""
    checkpoints = directory(folder)
    draft = draft_of(checkpoints, 0)
    draft.mkdir(parents=True)
    write_atomically(folder / "config.json", experiment.model_dump_json(indent=2) + "\n")
    save_vocabulary(vocabulary, folder / VOCABULARY_FILE)
    file = weights_file(0)
    origin: dict[str, Any] = {
        "layout": foreign.layout,
        "path": str(foreign.file.resolve()),
        "file": foreign.file.name,
        **fingerprint(foreign.file),
    }
    write_atomically(folder / "imported.json", json.dumps(origin, indent=2) + "\n")
    save_tensors({name: tensor.flatten() for name, tensor in weights.items()}, draft / file)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    write_index(index_of_whole(shapes), draft)
    state = {
        "experiment": experiment.model_dump(mode="json"),
        "corpus": None,
        "vocabulary": vocabulary.hash,
        "precision": "fp32",
        "imported": origin,
        "train": TrainState(parent=origin["path"]).to_json(),
    }
    final = checkpoints / pointers.name_of(0)
    listed = {name: fingerprint(draft / name, sync=True) for name in (file, INDEX)}
    seal(draft, final, state=state, files=listed)
    pointers.point(checkpoints, "best", final.name)
