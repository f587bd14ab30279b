"""The record of a run's last rollback, `rollback.json` among its checkpoints.

A rollback distrusts the checkpoints that the run saved after the one it went back to, and reads on
after the text that failed. The record tells a later start both. Without it, a run that is killed
before its next checkpoint would go on from one that the rollback has distrusted.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.strict import checked
from trainer.errors import InputError
from trainer.files import write_atomically
from trainer.outside import read_json

ROLLBACK_FILE = "rollback.json"

log = logging.getLogger(__name__)

_Count = Annotated[int, Field(ge=0, le=2**53)]


class Rollback(BaseModel):
    """A rollback, as later starts need to know it."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: Literal[1] = 1
    step: _Count
    """The step of the checkpoint that the run went back to."""
    data_step: _Count
    """The position in the text at which the run went on."""
    attempt: _Count
    """The attempt that began with the rollback."""
    rolled_back: bool = True
    """True if the one rollback for losses that are not finite is spent."""
    spiked_back_to: Annotated[int, Field(ge=-1, le=2**53)] = -1
    """The step that the last rollback for a spike went back to; -1 before the first."""

    def is_after(self, train: Mapping[str, Any]) -> bool:
        """Return whether the checkpoint with this state was saved before the rollback."""
        return int(train.get("attempt", 1)) < self.attempt

    def distrusts(self, train: Mapping[str, Any]) -> bool:
        """Return whether the checkpoint with this state is one that the run went back from."""
        return self.is_after(train) and int(train["step"]) > self.step


def write_rollback(folder: Path, rollback: Rollback) -> None:
    """Make a rollback known to later starts, on the disk itself.

    Raises:
        OSError: the record could not be written; the one before is still there.
    """
    write_atomically(folder / ROLLBACK_FILE, json.dumps(rollback.model_dump(), indent=1) + "\n")


def read_rollback(folder: Path) -> Rollback | None:
    """Return the last rollback of a run; None if there was none, or its record is broken."""
    path = folder / ROLLBACK_FILE
    if not path.is_file():
        return None
    try:
        fix = "remove it to go on from the newest checkpoint"
        return checked(Rollback, read_json(path), where=str(path), fix=fix)
    except InputError as error:
        log.warning("going on without the record of a rollback: %s", error)
        return None
