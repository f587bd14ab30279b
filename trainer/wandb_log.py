"""One wandb run per run directory, whatever happens: no key, no network, a restart, a dead service.

The id is made once and kept in the run directory, so every attempt continues the same run on the
same axis, online or offline. Offline, each attempt leaves a folder of its own with that id, and
``wandb sync`` joins them in order. Nothing here may end a training run: what wandb misses is in
`metrics.jsonl`.
"""

import logging
import math
import netrc
import os
import secrets
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from trainer.config import TrackingConfig
from trainer.errors import Exit, InputError, did_you_mean
from trainer.files import write_atomically
from trainer.shell import command

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled"]

_log = logging.getLogger(__name__)

WANDB_DIR = "wandb"
ID_FILE = "run_id.txt"

_MODES: dict[str, Mode] = {"online": "online", "offline": "offline", "disabled": "disabled"}
_MODES |= {"run": "online", "dryrun": "offline"}  # wandb's older names

_SETTINGS = {
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "quiet": True,
    "init_timeout": 30.0,
    "finish_timeout": 60.0,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "x_transaction_log_flush_interval": 1.0,
}
"""Ours where the environment has no WANDB_… of its own. Seconds: a dead server must not cost a
job its time, and what lies unflushed is lost with the process."""


def wandb_mode(config: TrackingConfig, environ: Mapping[str, str]) -> Mode:
    """Where wandb's data go: WANDB_MODE, else the configuration, else by whether there is a key.

    Raises:
        InputError: the mode is unknown, or online without a key (wandb would stop and ask for it).
    """
    asked = environ.get("WANDB_MODE") or config.wandb
    if asked == "auto":
        return "online" if _has_key(environ) else "offline"
    if asked not in _MODES:
        near = did_you_mean(asked, _MODES)
        raise InputError(f"WANDB_MODE={asked}: not one of {', '.join(_MODES)}{near}")
    if _MODES[asked] == "online" and not _has_key(environ):
        raise InputError(
            "wandb is to be online but has no key: run `wandb login`, set WANDB_API_KEY, "
            "or set tracking.wandb (or WANDB_MODE) to offline"
        )
    return _MODES[asked]


def _has_key(environ: Mapping[str, str]) -> bool:
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    home = Path(environ.get("HOME", "/"))
    named = environ.get("NETRC")
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            return netrc.netrc(path).authenticators(host) is not None
        except FileNotFoundError:
            continue
        except (netrc.NetrcParseError, OSError, ValueError) as error:
            _log.warning("%s is unreadable, so it holds no wandb key: %s", path, error)
            return False
    return False


def stored_id(run_dir: Path) -> str | None:
    """The wandb id kept in `run_dir`, or None."""
    path = run_dir / WANDB_DIR / ID_FILE
    return (path.read_text().strip() or None) if path.is_file() else None


def choose_id(run_dir: Path, *, wandb_id: str | None, environ: Mapping[str, str]) -> str:
    """The run's id, kept in `run_dir` from now on.

    The environment's (a sweep's) comes first, then `run_dir`'s, then `wandb_id`, then a new one.
    """
    stored = stored_id(run_dir)
    chosen = environ.get("WANDB_RUN_ID") or stored or wandb_id or secrets.token_hex(4)
    if chosen != stored:
        path = run_dir / WANDB_DIR / ID_FILE
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, chosen + "\n")
    return chosen


class WandbLog:
    """An open wandb run that is reopened once it breaks, and given up when that breaks too."""

    def __init__(
        self,
        config: TrackingConfig,
        *,
        mode: Mode,
        run_dir: Path,
        run_id: str,
        run_config: Mapping[str, Any],
        environ: MutableMapping[str, str],
    ) -> None:
        """Open or continue run `run_id`; without a server, offline.

        `environ` is the process's own environment: wandb reads it, and with a home that cannot be
        written its caches are pointed into `run_dir` there.
        """
        self._folder = run_dir / WANDB_DIR
        self._offline = mode == "offline"
        self._run_id = run_id
        _keep_out_of_home(self._folder, environ)
        self._init = _init_arguments(
            config, run_dir=run_dir, run_id=run_id, run_config=run_config, environ=environ
        )
        self._environ = environ
        self._reopened = False
        self._run: wandb.Run | None = self._open()

    def log(self, values: Mapping[str, float | int | str | None]) -> None:
        """Log one row, which names its ``train/step``; what is not finite is left out.

        wandb's own ``step=`` is never used: it drops the steps that a resumed run does again.
        """
        row = {name: value for name, value in values.items() if _is_loggable(value)}
        while self._run is not None:
            try:
                self._run.log(row)
                return
            except Exception as error:
                self._run = self._reopen(error)

    def close(self, exit_code: int) -> None:
        """Finish the run; one that is to be requeued is marked preempted."""
        if self._run is None:
            return
        try:
            if exit_code == Exit.REQUEUE:
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)
        except Exception as error:
            _log.warning("wandb could not be closed: %s", _first_line(error))
            _stop_service()
        self._run = None

    def _open(self) -> "wandb.Run | None":
        if not self._offline:
            try:
                return self._start("online")
            except Exception as error:
                _log.warning("wandb is out of reach, going on offline: %s", _first_line(error))
                self._offline = True
                _stop_service()  # which still holds the id
        try:
            return self._start("offline")
        except Exception as error:
            _log.warning("going on without wandb: %s", _first_line(error))
            return None

    def _start(self, mode: Mode) -> "wandb.Run":
        import wandb

        known = wandb.Settings.model_fields
        settings = {
            name: value
            for name, value in (_SETTINGS | {"silent": mode == "offline"}).items()
            if name in known and _variable(name) not in self._environ
        }
        run = wandb.init(mode=mode, settings=settings, **self._init)
        run.define_metric("*", step_metric="train/step")
        if mode == "online":
            _log.info("wandb: %s", run.url)
        else:
            sync = command("wandb", "sync", self._folder)
            _log.info("wandb is offline; later: %s/offline-run-*-%s", sync, self._run_id)
        return run

    def _reopen(self, error: Exception) -> "wandb.Run | None":
        _stop_service()
        if self._reopened:
            _log.warning("going on without wandb: %s", _first_line(error))
            return None
        # A cluster's signal to the whole job ends wandb's service before it ends us.
        self._reopened = True
        _log.warning("wandb broke, opening it again: %s", _first_line(error))
        return self._open()


def _init_arguments(
    config: TrackingConfig,
    *,
    run_dir: Path,
    run_id: str,
    run_config: Mapping[str, Any],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    """What `wandb.init` is told; what the environment or a sweep says is left to them."""
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


def _stop_service() -> None:
    import wandb

    try:
        wandb.teardown()
    except Exception as error:
        _log.debug("wandb's service was gone already: %s", error)


def _variable(setting: str) -> str:
    return f"WANDB_{setting.upper()}" if setting[:2] != "x_" else f"WANDB_{setting[1:].upper()}"


def _is_loggable(value: float | int | str | None) -> bool:
    # One NaN would make every minimum that wandb keeps of the metric NaN.
    return value is not None and (not isinstance(value, float) or math.isfinite(value))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
