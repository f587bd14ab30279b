"""One trackio run per run directory, on this machine; a resumed run has every step once.

trackio cannot take back single steps. So each attempt makes its run anew up to the step where it
begins, from `metrics.jsonl`, which is the record. Nothing here may end a training run.
"""

import contextlib
import importlib.util
import io
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config.recipe import TrackingConfig
from trainer.errors import InputError
from trainer.files import write_atomically
from trainer.shell import command, program
from trainer.track.record.meanings import EVERY_RECORD
from trainer.track.record.metrics import read_metrics
from trainer.track.record.records import METRICS_FILE, Record, RecordKind
from trainer.track.record.sentences import event_sentence
from trainer.track.run_files.results import read_results

if TYPE_CHECKING:
    import trackio

TRACKIO_DIR = "trackio"
ID_FILE = "run_id.txt"
#: Variables that make trackio send a run elsewhere, where nothing can be taken back.
_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
#: What is in a record beside its values.
_NO_VALUES = {*EVERY_RECORD, "of"}
#: The most characters of an event's sentence.
_SENTENCE = 2000

_log = logging.getLogger(__name__)


def check_trackio(config: TrackingConfig, *, environ: Mapping[str, str]) -> None:
    """Raise `InputError` if trackio is asked for and cannot track a run here."""
    if not config.trackio:
        return
    if importlib.util.find_spec("trackio") is None:
        raise InputError(
            "tracking.trackio is true but trackio is not installed: "
            "pip install 'trackio>=0.43,<0.44', or set it to false"
        )
    for variable in _ELSEWHERE:
        if environ.get(variable):
            raise InputError(
                f"{variable} is set, but a run is kept by trackio on this machine, where the steps "
                "that a resumed run does again can be taken back: unset it, and send the project "
                f"later: {command(program('trackio'), 'sync', '--project', config.project)}"
            )


def is_tracked(run_dir: Path) -> bool:
    """Return whether `run_dir` has a trackio run, and trackio is installed."""
    return _stored_id(run_dir) is not None and importlib.util.find_spec("trackio") is not None


class TrackioLog:
    """An open trackio run, which is given up the first time that it breaks."""

    def __init__(
        self,
        config: TrackingConfig,
        *,
        run_dir: Path,
        run_config: Mapping[str, Any],
        up_to: float = math.inf,
    ) -> None:
        """Make the run anew, with the records of `run_dir` up to step `up_to`.

        An empty `run_config` stands for the configuration that the run has already.
        """
        self._config = config
        self._run_dir = run_dir
        self._run_config = dict(run_config)
        self._evaluated: set[tuple[object, ...]] = set()
        self._run: trackio.Run | None = None
        self._open(up_to)

    def log(
        self,
        kind: RecordKind,
        *,
        step: int,
        update: int,
        n_tokens: int,
        values: Mapping[str, Any],
    ) -> None:
        """Log the metrics of a record as a row, a sample as a table with its text."""
        row = {**values, "train/update": update, "train/tokens": n_tokens}
        if kind == "sample":
            row["sample/text"] = _table(step, n_tokens, str(values.get("sample/text", "")))
        self._add(row, step=step)

    def event(self, name: str, said: str, *, step: int) -> None:
        """Log what happened at a step, in a sentence."""
        self._add({f"event/{name}": said}, step=step)

    def log_evaluations(self) -> None:
        """Log the results of `txl eval` that the run lacks, each at its step."""
        for result in read_results(self._run_dir).results:
            if result.identity not in self._evaluated:
                self._evaluated.add(result.identity)
                self._add(result.tracked(), step=result.step or 0)

    def go_back(self, step: int) -> None:
        """Take back what came after `step`, since those steps are done again."""
        if self._run is not None:
            self.close()
            self._open(up_to=step)

    def close(self) -> None:
        """Write what is left and finish the run."""
        self.log_evaluations()
        self._try(_finish)
        self._run = None

    def _open(self, up_to: float) -> None:
        try:
            with _quiet():
                self._run = self._make_anew()
            if (self._run_dir / METRICS_FILE).is_file():
                for record in read_metrics(self._run_dir):
                    if record["step"] <= up_to:
                        self._log_record(record)
        except Exception as error:
            self._give_up(error)
        self._evaluated = set()
        self.log_evaluations()

    def _make_anew(self) -> "trackio.Run":
        """Begin a new run in place of the one that `run_dir` had."""
        import trackio

        before = _delete(self._config.project, _stored_id(self._run_dir))
        run = trackio.init(
            self._config.project,
            name=self._config.name or self._run_dir.name,
            group=self._config.group,
            config=self._run_config or before,
            resume="never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        path = self._run_dir / TRACKIO_DIR / ID_FILE
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, run.id + "\n")
        show = command(program("trackio"), "show", "--project", self._config.project)
        _log.info("trackio: %s", show)
        return run

    def _log_record(self, record: Record) -> None:
        step = record["step"]
        if record["kind"] == "event":
            self.event(record["event"], event_sentence(record, most=_SENTENCE), step=step)
            return
        values = {name: value for name, value in record.items() if name not in _NO_VALUES}
        counters = {"update": record["update"], "n_tokens": record["tokens"]}
        self.log(record["kind"], values=values, step=step, **counters)

    def _add(self, row: Mapping[str, Any], *, step: int) -> None:
        """Add a row, without its values that are not finite."""
        finite = {name: value for name, value in row.items() if _is_loggable(value)}
        self._try(lambda run: run.log(finite, step=step))

    def _try(self, act: "Callable[[trackio.Run], object]") -> None:
        if self._run is None:
            return
        try:
            act(self._run)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        _log.warning("going on without trackio: %s", error)
        self._run = None


def _stored_id(run_dir: Path) -> str | None:
    try:
        return (run_dir / TRACKIO_DIR / ID_FILE).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _delete(project: str, run_id: str | None) -> dict[str, Any]:
    """Delete a run by its id and return the configuration that it had; no id, no run."""
    import trackio
    from trackio import fragments

    if run_id is None:
        return {}
    fragments.import_inbox_dir()  # rows that wait in files, as they do on a network file system
    try:
        runs = trackio.Api().runs(project)
    except ValueError:  # no project of this name yet
        return {}
    for run in runs:
        if run.id == run_id:
            config = {k: v for k, v in (run.config or {}).items() if not k.startswith("_")}
            run.delete()
            return config
    return {}


def _finish(run: "trackio.Run") -> None:
    import trackio

    with _quiet():
        trackio.finish()


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Return a context without what trackio prints, which would break the console's lines."""
    return contextlib.redirect_stdout(io.StringIO())


def _table(step: int, n_tokens: int, text: str) -> "trackio.Table":
    import trackio

    return trackio.Table(columns=["step", "tokens", "text"], data=[[step, n_tokens, text]])


def _is_loggable(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
