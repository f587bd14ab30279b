"""A window of steps under torch's profiler, written as a trace that chrome://tracing shows."""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.distributed import World


class Profiler:
    """A profiler of a window of steps, [first, end), on rank 0; of none if the window is None."""

    def __init__(self, window: tuple[int, int] | None, *, run_dir: Path, world: World) -> None:
        self._window = window if world.is_main else None
        self._path = run_dir / "logs" / "profile.json"
        self._activities = [ProfilerActivity.CPU]
        if world.device.type == "cuda":
            self._activities.append(ProfilerActivity.CUDA)
        self._profile: Any = None

    @property
    def missed(self) -> tuple[int, int] | None:
        """Return the window if no step has reached it, otherwise None."""
        return self._window if self._profile is None else None

    def before_step(self, step: int) -> None:
        """Start to profile if the window begins; `step` is the number of steps done so far."""
        if self._window is not None and self._profile is None and step == self._window[0]:
            self._profile = profile(activities=self._activities, profile_memory=True)
            self._profile.start()

    def after_step(self, step: int) -> Path | None:
        """Write the trace if the window has ended, and return its path; `step` steps are done."""
        if self._profile is None or self._window is None or step < self._window[1]:
            return None
        return self.close()

    def close(self) -> Path | None:
        """Write the trace of the steps profiled so far, if any, and return its path."""
        if self._profile is None:
            return None
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._profile.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(self._path))
        self._profile, self._window = None, None
        return self._path
