"""`txl eval`: score a split with a checkpoint, once per memory length, and file each result."""

import datetime
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from trainer import validation
from trainer.config import ScoringConfig
from trainer.data.corpus import Corpus, Split, open_corpus
from trainer.distributed import World
from trainer.errors import InputError
from trainer.evaluate import Score, score
from trainer.files import write_atomically
from trainer.inference import Precision, TrainedModel, corpus_of, open_trained

log = logging.getLogger(__name__)

COUNTING = "every token but the first of the split, each exactly once"


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What `txl eval` is asked for; None takes the recipe's evaluation settings."""

    run: Path
    checkpoint: str = "best"
    split: str = "test"
    data: Path | None = None
    tgt_len: int | None = None
    mem_lens: tuple[int, ...] | None = None
    clamp_len: int | None = None
    same_length: bool | None = None
    batch_size: int | None = None
    warm: str | None = None
    no_memory: bool = False
    precision: Precision | None = None


def evaluate_run(options: EvalOptions, world: World) -> list[dict[str, Any]]:
    """Score and file the results; rank 0 prints a table. Collective.

    Raises:
        InputError: the run, checkpoint, corpus, split or settings cannot be used.
    """
    trained = open_trained(
        options.run, which=options.checkpoint, precision=options.precision, device=world.device
    )
    corpus = open_corpus(options.data or corpus_of(options.run))
    split = _split(corpus, options.split, trained)
    settings = [_settings(options, trained, mem_len) for mem_len in _mem_lens(options, trained)]
    results = []
    for scoring in settings:
        result = score(
            trained, split, scoring=scoring, empty_memory=trained.empty_memory, world=world,
            n_layer=trained.experiment.model.n_layer, cutoffs=trained.experiment.model.cutoffs,
            cut_documents=trained.experiment.data.memory_reset == "document",
        )  # fmt: skip
        assert result is not None, "nothing asks this scoring to stop"
        results.append(_describe(result, scoring, split, corpus, trained, world))
        if world.is_main:
            _file(options.run, results[-1])
    if world.is_main:
        _print_table(results)
    return results


def _split(corpus: Corpus, name: str, trained: TrainedModel) -> Split:
    if corpus.vocabulary.hash != trained.vocabulary.hash:
        raise InputError(
            f"{corpus.path} has another vocabulary than {trained.path}: prepare it with --vocab of "
            f"the run's directory"
        )
    if name not in corpus.splits:
        raise InputError(f"{corpus.path} has no split {name!r}: it has {', '.join(corpus.splits)}")
    return corpus.splits[name]


def _mem_lens(options: EvalOptions, trained: TrainedModel) -> list[int]:
    mem_lens = list(options.mem_lens or (trained.experiment.eval.mem_len,))
    return [0, *mem_lens] if options.no_memory and 0 not in mem_lens else mem_lens


def _settings(options: EvalOptions, trained: TrainedModel, mem_len: int) -> ScoringConfig:
    given = {
        "tgt_len": options.tgt_len, "clamp_len": options.clamp_len, "warm": options.warm,
        "same_length": options.same_length, "batch_size": options.batch_size,
    }  # fmt: skip
    values = trained.experiment.eval.model_dump()
    values |= {key: value for key, value in given.items() if value is not None}
    values["mem_len"] = mem_len
    if mem_len == 0 and values["same_length"]:
        values["same_length"] = False  # every query would see no key at all
    try:
        return ScoringConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(validation.describe(error, ScoringConfig))
        raise InputError(f"evaluation settings: {problems}") from None


def _describe(
    result: Score, scoring: ScoringConfig, split: Split, corpus: Corpus, trained: TrainedModel,
    world: World,
) -> dict[str, Any]:  # fmt: skip
    return {
        **result.metrics(split),
        "n_tokens": result.n_tokens,
        "seconds": result.seconds,
        "tokens_per_s": result.n_tokens / result.seconds,
        "counting": COUNTING,
        "split": split.name,
        "settings": scoring.model_dump(mode="json"),
        "precision": trained.precision,
        "world_size": world.world_size,
        "checkpoint": trained.path.name,
        "checkpoint_hash": _hash_of(trained),
        "step": trained.saved["train"]["step"],
        "corpus": str(corpus.path),
        "corpus_hash": corpus.hash,
        "split_hash": split.hash,
        "vocabulary_hash": corpus.vocabulary.hash,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _hash_of(trained: TrainedModel) -> dict[str, str]:
    """Hashes of the checkpoint's weight files, from its manifest."""
    manifest = json.loads((trained.path / "manifest.json").read_text())
    files = manifest["files"].items()
    return {name: entry["xxh3_128"] for name, entry in files if name.startswith("weights")}


def _file(run_dir: Path, result: dict[str, Any]) -> None:
    settings = result["settings"]
    parts = [
        result["split"], result["checkpoint"], f"tgt{settings['tgt_len']}",
        f"mem{settings['mem_len']}", f"clamp{settings['clamp_len'] or 0}",
        "same" if settings["same_length"] else "full", settings["warm"], result["precision"],
        result["split_hash"][:8],
    ]  # fmt: skip
    folder = run_dir / "evals"
    folder.mkdir(exist_ok=True)
    path = folder / f"{'-'.join(parts)}.json"
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    log.info("%s", path)


def _print_table(results: list[dict[str, Any]]) -> None:
    columns = ("split", "checkpoint", "tgt_len", "mem_len", "clamp_len", "same_length")
    numbers = ("loss", "ppl", "ppl_word", "bpc", "n_tokens", "seconds")
    table = Table(*columns, *numbers, box=None, pad_edge=False)
    for result in results:
        values = result | result["settings"]
        cells = ["-" if values[name] is None else str(values[name]) for name in columns]
        cells += [f"{result['loss']:.6f}", f"{result['ppl']:.3f}", f"{result['ppl_word']:.3f}"]
        cells += [f"{result['bpc']:.4f}", f"{result['n_tokens']:,}", f"{result['seconds']:.1f}"]
        table.add_row(*cells)
    console = Console(width=200, highlight=False)
    console.print(table)
    without = [result for result in results if result["settings"]["mem_len"] == 0]
    for result in results:
        if without and result["settings"]["mem_len"]:
            gain = without[0]["loss"] - result["loss"]
            mem_len = result["settings"]["mem_len"]
            console.print(f"memory of {mem_len} gains {gain:.4f} nats per token")
