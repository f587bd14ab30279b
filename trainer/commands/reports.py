"""The commands of ``txl`` that show what runs became, from the files of their directories alone.

Heavy imports wait until a command runs; none of these commands imports torch or deepspeed.
"""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from trainer.errors import InputError
from trainer.wording import counted

if TYPE_CHECKING:
    from trainer.report.summary import ReadRun

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """Show where runs stand, their curves and their evaluations.

    A directory that cannot be shown is named with the reason; the exit code is 0 where any is
    shown, 2 where none is.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """directories of runs, or folders with runs below them; by default runs"""
    json: bool = False
    """as JSON"""
    format: Literal["markdown", "latex", "csv"] | None = None
    """a table of results for papers: runs that differ in their seed alone are one row"""
    html: Path | None = None
    """write a page about the runs into this file, which needs nothing else"""
    plot: Path | None = None
    """draw the loss curves into this file; needs matplotlib"""
    plot_positions: Path | None = None
    """draw the loss by position, of `txl eval --by-position`, into this file; needs matplotlib"""

    def run(self) -> None:
        """Print the report; bad input where not one of the directories can be shown."""
        from trainer.report.folders import run_dirs
        from trainer.report.formats import table
        from trainer.report.groups import rows_of
        from trainer.report.plot import plot_losses, plot_positions
        from trainer.report.summary import read_run_or_reason
        from trainer.report.table import report, report_json

        if self.json and self.format is not None:
            raise InputError("--json and --format: give one of them")
        now = time.time()
        runs = [read_run_or_reason(run_dir, now=now) for run_dir in run_dirs(self.runs)]
        if self.plot is not None:
            plot_losses(runs, self.plot)
        if self.plot_positions is not None:
            plot_positions(runs, self.plot_positions)
        if self.html is not None:
            self._write_page(runs, self.html)
        said = report_json(runs) if self.json else report(runs)
        print(said.text if self.format is None else table(rows_of(runs), form=self.format))
        if not said.n_shown:
            raise InputError(f"nothing to show: {counted(len(runs), 'folder')}, no run")

    @staticmethod
    def _write_page(runs: "list[ReadRun]", file: Path) -> None:
        from trainer.report.page.document import write_page

        if not write_page(runs, file):
            log.warning("%s is without pictures: pip install matplotlib", file)


@dataclass(frozen=True)
class Compare:
    """Show in what runs differ: settings, versions, text, curves, and final losses.

    The first run is what the others are compared with. Only equal measures are compared; what does
    not compare is named.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """directories of two or more runs"""
    by: Literal["step", "tokens", "hours"] = "step"
    """what curves are aligned by"""
    json: bool = False
    """as JSON"""

    def run(self) -> None:
        """Print the comparison; bad input where fewer than two runs can be read."""
        from trainer.report.compare.text import comparison, to_json, told
        from trainer.report.summary import read_run_or_reason

        if len(self.runs) < 2:
            raise InputError("txl compare: give the directories of two or more runs")
        now = time.time()
        runs = [read_run_or_reason(run_dir, now=now) for run_dir in self.runs]
        for run in runs:
            if run.summary.error is not None:
                raise InputError(f"{run.path} cannot be compared: {run.summary.error}")
        found = comparison(runs, axis=self.by)
        if self.json:
            print(json.dumps(to_json(found), indent=2, allow_nan=False))
        else:
            print(told(found, runs))


@dataclass(frozen=True)
class Watch:
    """Show a run while it trains: curve, speed, ETA, events, sample, age of its heartbeat.

    It ends when the run has ended. Without a terminal it prints a line whenever something is new.
    """

    run_dir: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(name="run")]
    """directory of the run"""
    interval: float = 2.0
    """seconds between two looks"""
    json: bool = False
    """one snapshot as JSON, and no more"""

    def run(self) -> None:
        """Watch until the run has ended."""
        from rich.console import Console

        from trainer.report.watch.watching import take, watch

        if not 0.1 <= self.interval <= 3600:
            raise InputError(f"--interval {self.interval:g} is not between 0.1 and 3600 seconds")
        if self.json:
            shot = take(self.run_dir, now=time.time())
            print(json.dumps(shot.to_json(), indent=2, allow_nan=False))
            return
        watch(self.run_dir, interval_s=self.interval, console=Console())
