"""Reads wandb's offline runs back from disk, with wandb's own inspector."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple


class OfflineRuns(NamedTuple):
    """Content of the offline folders of one run directory, in the order they were written."""

    ids: list[str]
    """One per attempt."""
    config: dict[str, Any]
    """The last attempt's word on every key."""
    rows: list[dict[str, Any]]
    """Logged rows of all attempts, wandb's own keys (``_step`` …) left out."""


def read_offline(run_dir: Path) -> OfflineRuns:
    """Return all offline attempts below `run_dir`/wandb but those killed before they wrote."""
    attempts = []
    for log in run_dir.glob("wandb/offline-run-*/run-*.wandb"):
        records = read_records(log)
        attempts += [(r["run"]["start_time"], r["run"], records) for r in records if "run" in r]
    runs = OfflineRuns([], {}, [])
    for _, run, records in sorted(attempts, key=lambda attempt: attempt[0]):
        runs.ids.append(run["run_id"])
        runs.config.update(run["config"]["update"])
        for row in [record["history"]["item"] for record in records if "history" in record]:
            runs.rows.append({key: row[key] for key in row if not key.startswith("_")})
    runs.config.pop("_wandb", None)
    return runs


def read_records(log: Path) -> list[dict[str, Any]]:
    """Return all records of one .wandb file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in shown.stdout.splitlines()]
