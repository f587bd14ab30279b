"""Two ranks of a command started by hand, so that one can be disturbed, or be different."""

import subprocess
import sys
from pathlib import Path

from training import ROOT, environment

from trainer.launchers import RENDEZVOUS, complete_environ

#: The training command, and the command `txl`.
TRAIN, TXL = ROOT / "launch" / "train.py", ROOT / "txl_trainer.py"


class Pair:
    """Two processes that meet at a port of their own; of each, what it printed."""

    def __init__(
        self,
        *argvs: list[str],
        script: Path = TRAIN,
        of_second: dict[str, str] | None = None,
    ) -> None:
        """Start both, with the same words or each with its own, and the second with variables."""
        port = complete_environ({})["MASTER_PORT"]
        self.ranks = []
        for rank in range(2):
            values = (*2 * (str(rank), "2"), "127.0.0.1", port)
            launched = dict(zip(RENDEZVOUS, values, strict=True))
            self.ranks.append(
                subprocess.Popen(
                    [sys.executable, str(script), *argvs[min(rank, len(argvs) - 1)]],
                    env=environment(**launched | (of_second or {} if rank else {})),
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            )
        self.said = ["", ""]

    def wait_for(self, words: str, *, rank: int = 0) -> None:
        """Wait until a rank prints `words`."""
        stdout = self.ranks[rank].stdout
        assert stdout is not None
        for line in stdout:
            self.said[rank] += line
            if words in line:
                return
        raise AssertionError(f"the rank ended before it said {words!r}: {self.said[rank]}")

    def ended(self, *ranks: int) -> list[int]:
        """Wait for the end of some ranks, by default of both; return their exit codes."""
        codes = []
        for rank in ranks or (0, 1):
            self.said[rank] += self.ranks[rank].communicate()[0]
            codes.append(self.ranks[rank].returncode)
        return codes

    def errors(self) -> list[str]:
        """Return all lines of errors that a user is shown."""
        lines = "".join(self.said).splitlines()
        return [line for line in lines if line.startswith("error: ")]

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.ranks:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
