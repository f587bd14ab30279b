"""A window of steps under torch's profiler, written as a trace that chrome://tracing shows."""

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.distributed import World


class Profiler:
    """Profiles the steps from `first` to before `last` on rank 0; without them nothing."""

    def __init__(self, window: tuple[int, int] | None, *, run_dir: Path, world: World) -> None:
        self._window = window if world.is_main else None
        self._path = run_dir / "logs" / "profile.json"
        self._activities = [ProfilerActivity.CPU]
        if world.device.type == "cuda":
            self._activities.append(ProfilerActivity.CUDA)
        self._profile: Any = None

    @property
    def missed(self) -> tuple[int, int] | None:
        """The window that no step has come to, if that is so."""
        return self._window if self._profile is None else None

    def before_step(self, step: int) -> None:
        """Called with the number of steps done so far."""
        if self._window is not None and self._profile is None and step == self._window[0]:
            self._profile = profile(activities=self._activities, profile_memory=True)
            self._profile.start()

    def after_step(self, step: int) -> Path | None:
        """Called with the number of steps done; the trace's path when the window has ended."""
        if self._profile is None or self._window is None or step < self._window[1]:
            return None
        return self.close()

    def close(self) -> Path | None:
        """Write what was profiled so far, if anything."""
        if self._profile is None:
            return None
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._profile.stop()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._profile.export_chrome_trace(str(self._path))
        self._profile, self._window = None, None
        return self._path
