"""Sending a run's metrics to its `metrics.jsonl`, then to the console, wandb and the like.

Only `metrics.jsonl` is the record. If another destination breaks, the run goes on with a warning.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from trainer.outside import printable
from trainer.track.boards.tensorboard import Board
from trainer.track.boards.trackio_log import TrackioLog
from trainer.track.boards.wandb.log import WandbLog
from trainer.track.console.printer import Console
from trainer.track.failures import Failures
from trainer.track.measure import Measure
from trainer.track.record.metrics import MetricsWriter
from trainer.track.record.records import METRICS_FILE, RecordKind
from trainer.track.record.sentences import sentence, told
from trainer.track.run_files.status import Status

_log = logging.getLogger(__name__)


class Tracker:
    """A receiver of a run's metrics and events; all ranks call it. See `trainer.track.opening`."""

    def __init__(
        self,
        *,
        metrics: MetricsWriter | None = None,
        console: Console | None = None,
        wandb_log: WandbLog | None = None,
        wandb_id: str | None = None,
        board: Board | None = None,
        trackio_log: TrackioLog | None = None,
    ) -> None:
        """Track to the given destinations."""
        self.wandb_id = wandb_id
        """The id of the wandb run, which checkpoints keep; None on ranks other than 0."""
        self._metrics = metrics
        self._console = console
        self._wandb = wandb_log
        self._board = board
        self._trackio = trackio_log
        self._failures = Failures()
        self._is_lost_noted = False

    @property
    def eta_s(self) -> float | None:
        """Return the seconds until the run ends; None while unknown."""
        return self._console.eta_s if self._console else None

    def log(
        self,
        kind: RecordKind,
        *,
        step: int,
        update: int,
        n_tokens: int,
        values: Mapping[str, float | int | str | None],
        of: Measure | None = None,
    ) -> None:
        """Track the metrics of one step, validation or sample; `of`: what a validation measures.

        wandb shows `of` in its configuration, TensorBoard as a text at the first validation.
        """
        if self._metrics is None:
            return
        recorded = {**values, "of": of.model_dump(mode="json")} if of else values
        self._record(kind, step=step, update=update, n_tokens=n_tokens, values=recorded)
        if self._console and kind in ("train", "valid"):
            self._console.log(values, step=step, update=update, part=kind)
        elif self._console and kind == "sample":
            self._console.sample(str(values["sample/text"]), step=step)
        if self._wandb:
            if kind == "sample":
                self._wandb.log_sample(str(values["sample/text"]), step=step, n_tokens=n_tokens)
            else:
                self._wandb.log({**values, **_axis(step, update, n_tokens)})
            self._note_lost(step=step, update=update, n_tokens=n_tokens)
        if self._board:
            self._board.log(kind, step=step, values=values, of=of)
        if self._trackio:
            self._trackio.log(kind, step=step, update=update, n_tokens=n_tokens, values=values)

    def event(
        self,
        name: str,
        *,
        step: int,
        update: int,
        n_tokens: int,
        says: bool = True,
        **details: Any,
    ) -> None:
        """Record an event: ``start``, ``resume``, ``checkpoint`` and so on.

        Unless it `says` so, the log does not tell of the event. The step of a ``resume`` is the one
        resumed from: for readers, all later steps of earlier attempts are done again.
        """
        if self._metrics is None:
            return
        values = {"event": name, **details}
        self._record("event", step=step, update=update, n_tokens=n_tokens, values=values)
        if self._wandb:
            shown_values = {f"event/{name}": printable(told(details)).strip() or name}
            self._wandb.log({**shown_values, **_axis(step, update, n_tokens)})
        said = sentence(name, details, step=step)
        if self._trackio:
            self._trackio.event(name, printable(said), step=step)
        if says:
            _log.info("%s", said)

    def _note_lost(self, *, step: int, update: int, n_tokens: int) -> None:
        """Record once that wandb no longer tracks the run, since a warning scrolls away."""
        if self._wandb and self._wandb.lost is not None and not self._is_lost_noted:
            self._is_lost_noted = True
            reason = self._wandb.lost
            self.event("untracked", step=step, update=update, n_tokens=n_tokens, reason=reason)

    def begin_attempt(self, attempt: int, *, step: int) -> None:
        """Record under a new attempt from now on: the steps after `step` are done again."""
        if self._metrics:
            self._metrics.attempt = attempt
        if self._board:
            self._board.go_back(step)
        if self._trackio:
            self._trackio.go_back(step)

    @contextmanager
    def pause(self, name: str, *, step: int, update: int) -> Iterator[Callable[[float], None]]:
        """Show that the run validates, samples or saves, and count its time for the ETA.

        Yields:
            A function to call with each share that is done; it does nothing on other ranks.
        """
        if self._console is None:
            yield lambda share: None
            return
        with self._console.pause(name, step=step, update=update) as on_share:
            yield on_share

    def end(self, status: Status, *, run: str, splits: tuple[str, ...]) -> None:
        """Tell how an attempt ended, see `trainer.track.console.ending`; nothing is recorded."""
        if self._console:
            self._console.end(status, run=run, splits=splits)

    def sync(self) -> None:
        """Wait until the records are on the disk itself; any thread may call this."""
        if self._metrics:
            try:
                self._metrics.sync()
            except OSError as error:
                self._failures.tell(METRICS_FILE, f"{METRICS_FILE}: {error.strerror}")
        if self._board:
            self._board.flush()

    def close(self, exit_code: int) -> None:
        """End tracking with the trainer's own exit code; nothing is tracked afterwards."""
        if self._metrics:
            try:
                self._metrics.close()
            except OSError as error:
                _log.error("the last records are lost: %s: %s", METRICS_FILE, error.strerror)
        if self._console:
            self._console.close()
        if self._wandb:
            self._wandb.log_evaluations()
            self._wandb.close(exit_code)
        if self._board:
            self._board.close()
        if self._trackio:
            self._trackio.close()
        self._metrics = self._console = self._wandb = self._board = self._trackio = None

    def _record(self, kind: RecordKind, **record: Any) -> None:
        if self._metrics:
            self._try_disk(partial(self._metrics.write, kind, **record))

    def _try_disk(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            told = f"{METRICS_FILE}: {error.strerror}; records wait in memory"
            self._failures.tell(METRICS_FILE, told)


def _axis(step: int, update: int, n_tokens: int) -> dict[str, int]:
    return {"train/step": step, "train/update": update, "train/tokens": n_tokens}
