"""Writing, reading and finding the results of `txl eval` in a run's `evals`.

A result is found by its whole identity only: its measure and its weights.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from trainer.config.precision import Precision
from trainer.config.recipe import ScoringConfig
from trainer.config.strict import describe
from trainer.data.corpus import Corpus, Split
from trainer.data.vocabulary.protocol import canonical_hash
from trainer.errors import InputError
from trainer.files import write_atomically
from trainer.outside import MAX_JSON_BYTES, printable, read_bytes
from trainer.track.measure import Count, Lengths, Measure, Rule, Text
from trainer.track.method import Method
from trainer.track.run_files.by_position import ByPosition

FOLDER = "evals"
#: The most characters of a corpus's or checkpoint's name inside the name of a file.
_NAME_CHARACTERS = 40
_VERSION = 3
#: The version of files of plain reading, which older programs read as well.
_PLAIN_VERSION = 2


def _finite(value: Any) -> Any:
    """Return None for a number too large to compare, such as a perplexity; else the value."""
    too_large = isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 62
    return None if too_large or (isinstance(value, float) and not math.isfinite(value)) else value


Number = Annotated[float | None, BeforeValidator(_finite)]


class EvalResult(Measure):
    """An evaluation: its measure, its checkpoint and its numbers; None is unknown."""

    version: Count = Field(1, description="version of this file's format")
    checkpoint: Text | None = Field(None, description="name of its folder")
    checkpoint_hash: dict[Text, Text] | None = Field(None, description="of each file of weights")
    step: Count | None = Field(None, description="steps that the checkpoint had taken")
    loss: Number = Field(description="nats per token")
    ppl: Number = Field(None, description="per token")
    ppl_word: Number = Field(None, description="per word and line end of the text")
    bpc: Number = Field(None, description="bits per character")
    loss_base2: Number = Field(None, description="bits per token, as fairseq prints it")
    absent: dict[Text, Text] = Field({}, description="why a metric has no value")
    n_tokens: Count | None = Field(None, description="tokens counted")
    seconds: Number = Field(None, ge=0, description="of scoring")
    tokens_per_s: Number = Field(None, ge=0, description="see `trainer.track.throughput`")
    counting: Text | None = Field(None, description="the rule in words")
    world_size: Count | None = Field(None, description="ranks; changes no result")
    by_position: ByPosition | None = Field(
        None, description="loss by the number of tokens read since memory was empty"
    )
    vocabulary_hash: Text | None = Field(None, description="of the vocabulary")
    corpus_path: Text | None = Field(None, description="where the corpus was")
    date: Text | None = Field(None, description="when, in UTC")

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, values: Any) -> Any:
        """Return values with a `rule`, which files of version 1 only say in words."""
        if not isinstance(values, dict):
            return values
        version = values.get("version")
        if type(version) is int and version > _VERSION:
            raise ValueError(
                f"version {printable(version, most=40)}, newer than the {_VERSION} known here: "
                "update txl-trainer"
            )
        if "rule" in values:
            return values
        if "loss_base2" in values:
            return values | {"rule": "as fairseq"}
        return values | ({"rule": "every token"} if "counting" in values else {})

    @property
    def identity(self) -> tuple[object, ...]:
        """Return measure and weights; two results of the same identity are one result."""
        hashes = tuple(sorted((self.checkpoint_hash or {}).items()))
        return *self.key, self.checkpoint, self.step, hashes

    @property
    def series(self) -> str:
        """Return a name that the results of one measure share at all steps."""
        text = f"{self.split}-{_in_file_names(self.corpus)}-{(self.corpus_hash or '')[:8]}"
        return f"{text}/{self.manner}"

    @property
    def manner(self) -> str:
        """Return how the text was read and counted, in one word for names of files and curves."""
        lengths, rule = self.settings, "-fairseq" if self.rule == "as fairseq" else ""
        method = "" if self.method is None else f"-{self.method.manner}"
        return (
            f"tgt{lengths.tgt_len}-mem{lengths.mem_len}-clamp{lengths.clamp_len or 0}-"
            f"{'same' if lengths.same_length else 'full'}-{lengths.warm}-{self.precision}{rule}"
            f"{method}"
        )

    def tracked(self) -> dict[str, float | str | None]:
        """Return the numbers and the measure under the names that curves of them have."""
        key = f"eval/{self.series}"
        metrics = ("loss", "ppl", "ppl_word", "bpc")
        values = {f"{key}/{metric}": getattr(self, metric) for metric in metrics}
        return values | {f"{key}/of": str(self)}

    def is_of(self, checkpoint: str, weights: Mapping[str, str]) -> bool:
        """Return whether the result is of a checkpoint with these hashes of weights."""
        return self.checkpoint == checkpoint and self.checkpoint_hash in (None, dict(weights))


class Filed(NamedTuple):
    """Results that a folder holds."""

    results: list[EvalResult]
    broken: list[str]
    """For each file that is no result, the reason."""


def measure_of(
    corpus: Corpus,
    split: Split,
    scoring: ScoringConfig,
    *,
    precision: Precision,
    rule: Rule = "every token",
    method: Method | None = None,
) -> Measure:
    """Return the measure of a split's loss, scored by `scoring` and `rule` in `precision`."""
    return Measure(
        corpus=corpus.name,
        corpus_hash=corpus.hash,
        split=split.name,
        split_hash=split.hash,
        precision=precision,
        rule=rule,
        method=method,
        settings=Lengths(**scoring.model_dump(include=set(Lengths.model_fields))),
    )


def valid_measure(
    corpus: Corpus, scoring: ScoringConfig, *, precision: Precision
) -> Measure | None:
    """Return the measure of validation losses; None without a valid split."""
    split = corpus.splits.get("valid")
    return None if split is None else measure_of(corpus, split, scoring, precision=precision)


def result_path(run_dir: Path, result: EvalResult) -> Path:
    """Return the file of a result, whose name tells its identity."""
    names = [_in_file_names(name) for name in (result.split, result.corpus, result.checkpoint)]
    digest = canonical_hash(result.identity)[:8]
    return run_dir / FOLDER / f"{'-'.join([*names, result.manner, digest])}.json"


def file_result(run_dir: Path, result: EvalResult) -> Path:
    """Write a result to a file of its own, replacing an earlier one of the same identity.

    Its loss by position is kept, if the new result has none.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path = result_path(run_dir, result)
    path.parent.mkdir(exist_ok=True)
    if result.by_position is None:
        result = result.model_copy(update={"by_position": _position_curve(path)})
    version = _PLAIN_VERSION if result.method is None else _VERSION
    values = result.model_copy(update={"version": version}).model_dump(mode="json")
    write_atomically(path, json.dumps(values, indent=2, allow_nan=False) + "\n")
    return path


def _position_curve(path: Path) -> ByPosition | None:
    """Return the loss by position that an earlier file of a result has; None without one."""
    try:
        return parse_result(
            read_bytes(path, most_bytes=MAX_JSON_BYTES), where=str(path)
        ).by_position
    except InputError:
        return None


def read_results(run_dir: Path) -> Filed:
    """Return all results of a run, and the reasons why other files of the folder are none."""
    filed = Filed([], [])
    for path in sorted((run_dir / FOLDER).glob("*.json")):
        try:
            filed.results.append(
                parse_result(read_bytes(path, most_bytes=MAX_JSON_BYTES), where=str(path))
            )
        except InputError as error:
            filed.broken.append(str(error))
    return filed


def parse_result(text: bytes, *, where: str) -> EvalResult:
    """Return the result in the content of a file.

    Raises:
        InputError: the content is no result, or of a newer version.
    """
    try:
        return EvalResult.model_validate_json(text)
    except ValidationError as error:
        problem = printable(describe(error, EvalResult)[0], most=200)
        raise InputError(f"{where} is no result of txl eval: {problem}") from None


def newest(
    results: Iterable[EvalResult], of: Measure, *, checkpoint: str, weights: Mapping[str, str]
) -> EvalResult | None:
    """Return the newest of the results of one identity; None if there is none.

    Args:
        results: the results to search.
        of: the measure; everything in it counts but the corpus's name.
        checkpoint: name of the checkpoint.
        weights: hash of each file of weights, since another checkpoint may have the same name.
    """
    matching = [
        result
        for result in results
        if result.key == of.key
        and result.checkpoint_hash == dict(weights)
        and result.checkpoint == checkpoint
    ]
    return max(matching, key=lambda result: result.date or "", default=None)


def by_text(results: Iterable[EvalResult]) -> dict[str, list[EvalResult]]:
    """Return results by their text, such as ``test of wt103 (1f2e3d4c5b6a)``, in a fixed order."""
    groups: dict[str, list[EvalResult]] = {}
    for result in sorted(results, key=_order):
        groups.setdefault(result.source, []).append(result)
    return groups


def _order(result: EvalResult) -> tuple[object, ...]:
    told = (result.corpus, result.corpus_hash, result.split, result.rule, result.precision)
    lengths = result.settings
    numbers = (result.step, lengths.mem_len, lengths.tgt_len, lengths.clamp_len)
    method = "" if result.method is None else result.method.manner
    return *(part or "" for part in told), *(number or 0 for number in numbers), method


def table_rows(results: Sequence[EvalResult]) -> tuple[list[list[str]], list[str]]:
    """Return results of one text as the rows of a table, and notes on missing values.

    The first row holds the heads. A value missing for a known reason shows the number of a note.
    """
    notes: list[str] = []
    rows = [_cells(result, notes) for result in results]
    if any(result.method is not None for result in results):
        for row, result in zip(rows, results, strict=True):
            row["method"] = "plain" if result.method is None else str(result.method)
    heads = [list(row) for row in rows[:1]]
    return heads + [list(row.values()) for row in rows], notes


def _cells(result: EvalResult, notes: list[str]) -> dict[str, str]:
    """Return the cells of a result by column; why a number is absent goes to `notes`."""

    def number(name: str, spec: str) -> str:
        """Format a number; where it is absent, note the reason and return a mark."""
        value = getattr(result, name)
        if value is not None:
            return format(value, spec)
        if (reason := result.absent.get(name)) is None:
            return "?"
        note = f"{name}: {reason}"
        if note not in notes:
            notes.append(note)
        return f"- [{notes.index(note) + 1}]"

    return {
        "checkpoint": result.checkpoint or "?",
        "step": number("step", ",d"),
        "precision": result.precision or "?",
        **result.settings.cells(),
        "counted": result.rule or "?",
        "loss": number("loss", ".6f"),
        "ppl": number("ppl", ".3f"),
        "ppl_word": number("ppl_word", ".3f"),
        "bpc": number("bpc", ".4f"),
        "tokens": number("n_tokens", ",d"),
        "tokens/s": number("tokens_per_s", ",.0f"),
    }


def _in_file_names(name: str | None) -> str:
    return re.sub(r"[^\w.+-]", "_", name or "", flags=re.ASCII)[:_NAME_CHARACTERS]
