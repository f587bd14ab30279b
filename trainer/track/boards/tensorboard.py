"""The curves of a run as TensorBoard shows them, under `logs/tensorboard`."""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config.recipe import TrackingConfig
from trainer.errors import InputError
from trainer.track.measure import Measure

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

TENSORBOARD_DIR = "logs/tensorboard"

_log = logging.getLogger(__name__)


def check_tensorboard(config: TrackingConfig) -> None:
    """Raise `InputError` if TensorBoard is asked for and not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "tracking.tensorboard is true but TensorBoard is not installed: "
            "pip install tensorboard, or set it to false"
        )


class Board:
    """A writer of TensorBoard's events, which is given up the first time that it breaks."""

    def __init__(self, run_dir: Path, *, after: int | None) -> None:
        """Begin a file of events; those of earlier files after step `after` are hidden."""
        self._folder = run_dir / TENSORBOARD_DIR
        self._of: Measure | None = None
        self._writer: SummaryWriter | None = self._open(after)

    def log(
        self, kind: str, *, step: int, values: Mapping[str, Any], of: Measure | None = None
    ) -> None:
        """Add the metrics of a record, and as a text what it measures, when that is another."""
        said = {f"{kind}/of": str(of)} if of is not None and of != self._of else {}
        self._of = of or self._of
        self._try(lambda writer: _add(writer, step, {**values, **said}))

    def go_back(self, step: int) -> None:
        """Hide what came after `step`, since those steps are done again."""

        def reopen(writer: "SummaryWriter") -> None:
            writer.close()
            self._writer = self._open(after=step)

        self._try(reopen)

    def flush(self) -> None:
        """Write what waits in memory."""
        self._try(lambda writer: writer.flush())

    def close(self) -> None:
        """Write what is left and close."""
        self._try(lambda writer: writer.close())

    def _open(self, after: int | None) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if after is None else after + 1
        return SummaryWriter(str(self._folder), purge_step=purge_step)

    def _try(self, action: "Callable[[SummaryWriter], None]") -> None:
        if self._writer is None:
            return
        try:
            action(self._writer)
        except Exception as error:
            _log.warning("going on without TensorBoard: %s", error)
            self._writer = None


def _add(writer: "SummaryWriter", step: int, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, str):
            writer.add_text(name, value, step)
        elif value is not None:
            writer.add_scalar(name, value, step)
