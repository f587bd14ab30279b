"""Records of the reference: metrics, events, the status and results of evaluations."""

from collections.abc import Mapping

from pydantic import BaseModel

from trainer.commands.reference.tables import Table, code
from trainer.track.record.meanings import EVENTS, EVERY_RECORD, METRICS, RESULT, TRACKED, Meaning
from trainer.track.run_files.results import EvalResult
from trainer.track.run_files.status import Status

_ABOUT_KIND = {
    "train": "A record every `--tracking.log-interval-steps` steps.",
    "valid": "A record per validation.",
    "sample": "A record per sample.",
}


def record_tables() -> list[Table]:
    """Return what `metrics.jsonl` and the other trackers hold."""
    tables = [_metrics("Every record", EVERY_RECORD, text="What each line has.")]
    for kind, metrics in METRICS.items():
        tables.append(_metrics(f"Records of kind {kind}", metrics, text=_ABOUT_KIND[kind]))
    rows = [
        (
            code(name),
            ", ".join(f"`{key}` {text}" for key, text in event.details.items()),
            event.when,
        )
        for name, event in EVENTS.items()
    ]
    about = "A record per event: its name is `event`, and its details stand beside it."
    tables.append(Table("Records of kind event", ("event", "details", "when"), rows, text=about))
    about = "wandb and TensorBoard have the same names, and these."
    tables.append(_metrics("wandb and TensorBoard", TRACKED, text=about))
    return tables


def file_tables() -> list[Table]:
    """Return what `status.json` and the files of `evals` hold."""
    return [
        _fields("status.json", Status, text="Replaced with every record."),
        _metrics("result in status.json", RESULT, text="The result so far."),
        _fields("evals/*.json", EvalResult, text="A file per result of `txl eval`."),
    ]


def _metrics(title: str, metrics: Mapping[str, Meaning], *, text: str) -> Table:
    rows = [(code(name), meaning.unit, meaning.text) for name, meaning in metrics.items()]
    return Table(title, ("name", "unit", "meaning"), rows, text=text)


def _fields(title: str, model: type[BaseModel], *, text: str) -> Table:
    rows = [(code(name), field.description or "") for name, field in model.model_fields.items()]
    return Table(title, ("name", "meaning"), rows, text=text)
