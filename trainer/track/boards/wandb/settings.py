"""Checking wandb's settings before wandb is loaded: the place of its data, and names.

wandb's rules are repeated here, so that a bad setting ends in a one-line error before a run starts.
A test compares them with wandb's own.
"""

import configparser
import logging
import netrc
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from trainer.config.recipe import TrackingConfig
from trainer.errors import InputError, did_you_mean
from trainer.outside import printable

Mode = Literal["online", "offline", "disabled"]

_log = logging.getLogger(__name__)

_MODES: dict[str, Mode] = {"online": "online", "offline": "offline", "disabled": "disabled"}
_MODES |= {"run": "online", "dryrun": "offline"}  # wandb's older names

#: Characters that wandb forbids in names of projects, and in ids of runs.
_NOT_IN_PROJECTS = r"/\#?%:"
_NOT_IN_IDS = ":;,#?/'"
_MAX_PROJECT, _MAX_TAG = 128, 64


def check_wandb(config: TrackingConfig, *, environ: Mapping[str, str]) -> Mode:
    """Check all that wandb would refuse later, and return where its data go.

    Raises:
        InputError: a name or the mode is not allowed; the message says where it is set.
    """
    mode = wandb_mode(config, environ)
    if mode == "disabled":
        return mode
    project = environ.get("WANDB_PROJECT", config.project)
    entity = environ.get("WANDB_ENTITY", config.entity)
    named = environ.get("WANDB_TAGS")
    tags = named.split(",") if named is not None else config.tags
    problems = [
        *_problems("project", project, _NOT_IN_PROJECTS, most=_MAX_PROJECT),
        *_problems("entity", entity, _NOT_IN_PROJECTS + " ", most=_MAX_PROJECT),
    ]
    for tag in tags:
        problems += _problems("tag", tag.strip() if named else tag, "", most=_MAX_TAG)
    run_id = environ.get("WANDB_RUN_ID")
    if run_id and (problem := id_problem(run_id)):
        problems.append(f"WANDB_RUN_ID {printable(run_id, most=80)!r} {problem}")
    if problems:
        raise InputError(f"wandb would refuse it: {'; '.join(problems)}")
    return mode


def _problems(what: str, name: str | None, forbidden: str, *, most: int) -> list[str]:
    if name is None:
        return []
    shown = f"{what} {printable(name, most=80)!r}"
    where = f"(tracking.{what if what != 'tag' else 'tags'}, or WANDB_{what.upper()}"
    where += "S)" if what == "tag" else ")"
    if wrong := sorted(set(name) & set(forbidden)):
        return [f"{shown} has {' '.join(map(repr, wrong))} in it {where}"]
    if not 1 <= len(name) <= most:
        return [f"{shown} is not of 1 to {most} characters {where}"]
    return []


def id_problem(run_id: str) -> str | None:
    """Return why wandb would refuse the id of a run; None if it would not."""
    if not run_id or run_id != run_id.strip():
        return "is empty, or begins or ends with white space"
    if found := sorted(set(run_id) & set(_NOT_IN_IDS)):
        return f"has {' '.join(map(repr, found))} in it"
    return None


def wandb_mode(config: TrackingConfig, environ: Mapping[str, str]) -> Mode:
    """Return where wandb's data go.

    The first of these decides: WANDB_MODE, the configuration, wandb's own settings as left by
    `wandb offline`, whether there is a key.

    Raises:
        InputError: the mode is unknown, or online without a key (wandb would stop and ask for it).
    """
    asked = environ.get("WANDB_MODE") or config.wandb
    if asked == "auto":
        asked = _setting("mode", environ) or ("online" if _has_key(environ) else "offline")
        if asked == "online" and not _has_key(environ):
            asked = "offline"  # nothing asks this run to be online
    if asked not in _MODES:
        near = did_you_mean(asked, _MODES)
        shown = printable(asked, most=80)
        raise InputError(f"WANDB_MODE={shown}: not one of {', '.join(_MODES)}{near}")
    if _MODES[asked] == "online" and not _has_key(environ):
        raise InputError(
            "wandb is to be online but has no key: run `wandb login`, set WANDB_API_KEY, "
            "or set tracking.wandb (or WANDB_MODE) to offline"
        )
    return _MODES[asked]


def _setting(name: str, environ: Mapping[str, str]) -> str | None:
    """Return a setting as `wandb offline` and the like wrote it, for this folder or the user."""
    home = Path(environ.get("HOME", "/"))
    folder = Path(environ.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb")
    for path in (Path("wandb") / "settings", folder / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            if path.is_file():
                parser.read_string(path.read_text(encoding="utf-8"))
            value = parser.get("default", name, fallback=None)
        except (configparser.Error, OSError, ValueError) as error:
            reason = printable(error, most=80)
            _log.warning(
                "%s is unreadable, so wandb's settings there are not known: %s", path, reason
            )
            continue
        if value:
            return value.strip()
    return None


def _has_key(environ: Mapping[str, str]) -> bool:
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(
        environ.get("WANDB_BASE_URL") or _setting("base_url", environ) or "https://api.wandb.ai"
    ).netloc
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
