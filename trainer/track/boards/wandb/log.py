"""One wandb run per run directory, even without a key or network, after restarts and failures.

The id is made once and kept in the run directory, so every attempt continues the same wandb run,
online or offline. Offline, each attempt leaves a folder of its own with that id, and ``wandb sync``
joins them in order. Nothing here may end a training run: `metrics.jsonl` has what wandb misses.
"""

import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.config.recipe import TrackingConfig
from trainer.data.vocabulary.protocol import canonical_hash
from trainer.errors import Exit
from trainer.files import write_atomically
from trainer.outside import printable
from trainer.shell import command, program
from trainer.track.boards.wandb.service import WandbService
from trainer.track.boards.wandb.settings import Mode, id_problem
from trainer.track.run_files.results import read_results

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)

WANDB_DIR = "wandb"
ID_FILE = "run_id.txt"
#: The file that lists, a line each, the files of `evals` that the wandb run has.
EVALUATIONS_FILE = "evaluations.txt"
SAMPLE_COLUMNS: list[str | int] = ["step", "tokens", "text"]

_SETTINGS = {
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "quiet": True,
    "init_timeout": 30.0,
    "finish_timeout": 60.0,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,
}
"""Our settings where the environment has no WANDB_… variable. Times are in seconds: short, because
a dead server must not cost a job time, and a killed process loses what it has not flushed."""


def stored_id(run_dir: Path) -> str | None:
    """Return the wandb id kept in `run_dir`; None if there is none that wandb accepts."""
    path = run_dir / WANDB_DIR / ID_FILE
    try:
        run_id = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        run_id = ""
    if problem := id_problem(run_id):
        shown = printable(run_id, most=80)
        _log.warning("%s: the wandb id %r %s: a new one is made", path, shown, problem)
        return None
    return run_id


def choose_id(run_dir: Path, *, wandb_id: str | None, environ: Mapping[str, str]) -> str:
    """Choose the run's id, and keep it in `run_dir` from now on.

    The environment's id (a sweep's) comes first, then `run_dir`'s, then `wandb_id`, then a new one.
    A bad id in the environment was refused before: `trainer.track.boards.wandb.settings`.
    """
    if wandb_id is not None and id_problem(wandb_id):
        wandb_id = None  # a checkpoint's, from before ids were checked
    stored = stored_id(run_dir)
    chosen = environ.get("WANDB_RUN_ID") or stored or wandb_id or secrets.token_hex(4)
    if chosen != stored:
        path = run_dir / WANDB_DIR / ID_FILE
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, chosen + "\n")
    return chosen


class Sample(NamedTuple):
    """A row of wandb's table of samples."""

    step: int
    n_tokens: int
    text: str


class WandbLog:
    """An open wandb run, which is reopened the first time it breaks, and given up the second."""

    lost: str | None = None
    """Why the run goes on without wandb; None while wandb tracks it."""

    def __init__(
        self,
        config: TrackingConfig,
        *,
        mode: Mode,
        run_dir: Path,
        run_id: str,
        run_config: Mapping[str, Any],
        environ: MutableMapping[str, str],
        samples: Sequence[Sample] = (),
    ) -> None:
        """Open or continue run `run_id`; without a server, offline.

        `samples` are the samples of earlier attempts, with which the table of samples begins.
        `environ` is the environment of the process, which wandb reads. If the user's home cannot be
        written, variables in `environ` point wandb's caches into `run_dir`.
        """
        self._folder = run_dir / WANDB_DIR
        self._offline = mode == "offline"
        self._run_id = run_id
        _keep_out_of_home(self._folder, environ)
        self._settings = _SETTINGS | {"x_disable_stats": not config.system_metrics}
        self._samples = list(samples)
        self._run_dir = run_dir
        self._init = _init_arguments(
            config, run_dir=run_dir, run_id=run_id, run_config=run_config, environ=environ
        )
        self._environ = environ
        self._service = WandbService(environ)
        self._reopened = False
        self._run: wandb.Run | None = self._open()

    def log(self, values: Mapping[str, float | int | str | None]) -> None:
        """Log one row, which has its ``train/step``; leave out values that are not finite.

        wandb's own ``step=`` is never used, because it drops steps that a resumed run does again.
        """
        row = {name: value for name, value in values.items() if _is_loggable(value)}
        self._try(lambda run: run.log(row))

    def log_sample(self, text: str, *, step: int, n_tokens: int) -> None:
        """Add a sample to the run's table of samples, after those of earlier attempts."""
        self._samples.append(Sample(step, n_tokens, text))

        def log(run: "wandb.Run") -> None:
            import wandb

            rows = [list(sample) for sample in self._samples]
            table = wandb.Table(columns=SAMPLE_COLUMNS, data=rows)
            run.log({"sample/texts": table, "train/step": step, "train/tokens": n_tokens})

        self._try(log)

    def log_evaluations(self) -> None:
        """Log the results of `txl eval` that the wandb run lacks, each at its step."""
        for result in read_results(self._run_dir).results:
            name = canonical_hash([list(map(str, result.identity)), result.date])
            if name in self._noted():
                continue
            self.log(result.tracked() | {"train/step": result.step or 0})
            if self._run is None:
                return  # it may not have arrived: the next attempt logs it
            self._note(name)

    def _noted(self) -> set[str]:
        """Return the names of evaluations that wandb has; none if that cannot be read."""
        try:
            return set((self._folder / EVALUATIONS_FILE).read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            return set()  # they are logged again, at the same steps

    def _note(self, name: str) -> None:
        try:
            with (self._folder / EVALUATIONS_FILE).open("a", encoding="utf-8") as file:
                file.write(f"{name}\n")
        except OSError as error:
            _log.warning("the evaluations that wandb has cannot be noted: %s", error)

    def _try(self, act: Callable[["wandb.Run"], None]) -> None:
        while self._run is not None:
            try:
                act(self._run)
                return
            except Exception as error:
                self._run = self._reopen(error)

    def close(self, exit_code: int) -> None:
        """Finish the wandb run; mark it preempted if the run is to be requeued."""
        if self._run is None:
            return
        try:
            if exit_code == Exit.REQUEUE:
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)
        except Exception as error:
            _log.warning("wandb could not be closed: %s", _first_line(error))
        self._disconnect()
        self._run = None

    def _open(self) -> "wandb.Run | None":
        if not self._offline:
            try:
                return self._start("online")
            except Exception as error:
                _log.warning("wandb is out of reach, going on offline: %s", _first_line(error))
                self._offline = True
                self._disconnect()  # from the process that still holds the id
        try:
            return self._start("offline")
        except Exception as error:
            return self._reopen(error)

    def _start(self, mode: Mode) -> "wandb.Run":
        import wandb

        self._service.start()
        known = wandb.Settings.model_fields
        known_settings = {
            name: value
            for name, value in (self._settings | {"silent": mode == "offline"}).items()
            if name in known and _variable(name) not in self._environ
        }
        run = wandb.init(mode=mode, settings=known_settings, **self._init)
        run.define_metric("*", step_metric="train/step")
        if mode == "online":
            _log.info("wandb: %s", run.url)
        else:
            sync = command(program("wandb"), "sync", self._folder)
            _log.info("wandb is offline; later: %s/offline-run-*-%s*", sync, self._run_id)
        return run

    def _reopen(self, error: Exception) -> "wandb.Run | None":
        self._disconnect()
        if self._reopened:
            self.lost = _first_line(error)
            _log.warning("going on without wandb: %s", self.lost)
            return None
        # A cluster's signal to the whole job ends wandb's service before this process.
        self._reopened = True
        _log.warning("wandb broke, opening it again: %s", _first_line(error))
        return self._open()

    def _disconnect(self) -> None:
        import wandb

        try:
            wandb.teardown()
        except Exception as error:
            _log.debug("wandb's service was gone already: %s", error)
        self._service.forget()


def _init_arguments(
    config: TrackingConfig,
    *,
    run_dir: Path,
    run_id: str,
    run_config: Mapping[str, Any],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    """Return the arguments of `wandb.init`; the environment and sweeps take precedence."""
    named = {
        "project": (config.project, "WANDB_PROJECT"),
        "entity": (config.entity, "WANDB_ENTITY"),
        "name": (config.name or run_dir.name, "WANDB_NAME"),
        "group": (config.group, "WANDB_RUN_GROUP"),
        "tags": (config.tags or None, "WANDB_TAGS"),
    }
    ours = {key: value for key, (value, variable) in named.items() if variable not in environ}
    if "WANDB_SWEEP_ID" in environ:
        ours = {key: value for key, value in ours.items() if key not in ("project", "entity")}
    return ours | {
        "id": run_id,
        "resume": "allow",
        "reinit": "create_new",
        "dir": str(run_dir),
        "config": dict(run_config),
        "allow_val_change": True,  # a resumed run may have more steps to go
    }


def _keep_out_of_home(folder: Path, environ: MutableMapping[str, str]) -> None:
    if os.access(environ.get("HOME", "/nonexistent"), os.W_OK):
        return
    for kind in ("cache", "config", "data"):
        environ.setdefault(f"WANDB_{kind.upper()}_DIR", str(folder / kind))


def _variable(setting: str) -> str:
    return f"WANDB_{setting.upper()}" if setting[:2] != "x_" else f"WANDB_{setting[1:].upper()}"


def _is_loggable(value: float | int | str | None) -> bool:
    # After one NaN, the minimum that wandb keeps of a metric would stay NaN.
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
