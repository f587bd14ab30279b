"""Processes that a test starts and that do not outlive it."""

import subprocess
from types import TracebackType
from typing import Any


class Child(subprocess.Popen[Any]):
    """A process that is killed where an exception leaves its `with`, instead of waited for.

    So a test that fails, or runs out of its time, ends.
    """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the block: wait for the process, which an exception kills."""
        if error is not None:
            self.kill()
        super().__exit__(kind, error, trace)
