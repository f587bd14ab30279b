"""Facts about runs side by side: settings, versions, text. Only what differs is kept."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainer.data.vocabulary.schema import MAX_BYTES
from trainer.errors import InputError
from trainer.outside import printable, read_json
from trainer.report.settings import count_ranks, read_environment, read_settings
from trainer.report.summary import ReadRun
from trainer.track.measure import corpus_label


class Row(NamedTuple):
    """A fact that differs, with its value in each run; ``-`` is unknown."""

    name: str
    values: tuple[str, ...]


class Differing(NamedTuple):
    """The facts in which runs differ, by kind."""

    settings: list[Row]
    versions: list[Row]
    text: list[Row]
    notes: list[str]
    """Files that could not be read, and why."""


def differing(runs: Sequence[ReadRun]) -> Differing:
    """Return in what runs differ."""
    notes: list[str] = []
    settings = [_read(notes, lambda run=run: read_settings(run.path)) for run in runs]
    environments = [_read(notes, lambda run=run: read_environment(run.path)) for run in runs]
    versions = [_versions(environment) for environment in environments]
    return Differing(
        _rows(settings), _rows(versions), _rows([text_facts(run) for run in runs]), notes
    )


def text_facts(run: ReadRun) -> dict[str, str]:
    """Return what a run read, and the size of what it trained."""
    begun: Mapping[str, Any] = next(
        (e for e in run.history.events if e["event"] in ("start", "resume")), {}
    )
    summary = run.summary
    facts = {
        "corpus": summary.corpus and corpus_label(summary.corpus, summary.corpus_hash),
        "vocabulary": vocabulary_hash(run),
        "precision": begun.get("precision"),
        "parameters": begun.get("parameters"),
        "validation": summary.best_of and str(summary.best_of),
    }
    return {name: printable(value, most=300) for name, value in facts.items() if value}


def vocabulary_hash(run: ReadRun) -> str | None:
    """Return the hash of a run's vocabulary, as its file says; None if it does not."""
    with contextlib.suppress(InputError):
        values = read_json(run.path / "vocabulary.json", most_bytes=MAX_BYTES)
        if isinstance(values, dict) and isinstance(values.get("hash"), str):
            return str(values["hash"])
    return None


def _versions(environment: Mapping[str, Any]) -> dict[str, str]:
    packages = environment.get("packages")
    known = {
        "commit": environment.get("commit"),
        "python": environment.get("python"),
        "platform": environment.get("platform"),
        "ranks": count_ranks(environment),
        **(packages if isinstance(packages, dict) else {}),
    }
    return {printable(n, most=80): printable(v, most=200) for n, v in known.items() if v}


def _read(notes: list[str], read: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read()
    except InputError as error:
        notes.append(str(error))
        return {}
    return found


def _rows(facts: Sequence[Mapping[str, str]]) -> list[Row]:
    names = dict.fromkeys(name for part in facts for name in part)
    rows = [Row(name, tuple(part.get(name, "-") for part in facts)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]
