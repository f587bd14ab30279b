"""The commands of ``txl`` that show what runs became, from the files of their directories alone.

Heavy imports wait until a command runs; none of these commands imports torch or deepspeed.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    html: Path | None = None
    """write a page about the runs into this file, which needs nothing else"""
    plot: Path | None = None
    """draw the loss curves into this file; needs matplotlib"""

    def run(self) -> None:
        """Print the report; bad input where not one of the directories can be shown."""
        from trainer.report.folders import run_dirs
        from trainer.report.plot import plot_losses
        from trainer.report.summary import read_run_or_reason
        from trainer.report.table import report, report_json

        now = time.time()
        runs = [read_run_or_reason(run_dir, now=now) for run_dir in run_dirs(self.runs)]
        if self.plot is not None:
            plot_losses(runs, self.plot)
        if self.html is not None:
            self._write_page(runs, self.html)
        said = report_json(runs) if self.json else report(runs)
        print(said.text)
        if not said.n_shown:
            raise InputError(f"nothing to show: {counted(len(runs), 'folder')}, no run")

    @staticmethod
    def _write_page(runs: "list[ReadRun]", file: Path) -> None:
        from trainer.report.page.document import write_page

        if not write_page(runs, file):
            log.warning("%s is without pictures: pip install matplotlib", file)
