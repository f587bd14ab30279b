"""Processes of a training that start in a moment: forked from one that has loaded PyTorch.

A start of two ranks takes ten seconds of imports on two cores, and its training between two
disturbances takes one. A rank that is forked from a process with everything loaded, before any
thread, runs the same command in a process of its own.
"""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn


class WarmStarter:
    """A process that forks ranks on demand, and knows how they ended."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Start it; it has loaded everything before it answers the first request."""
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(environ) | {"DS_ACCELERATOR": "cpu", "TORCH_CPP_LOG_LEVEL": "ERROR"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, argv: list[str], environ: Mapping[str, str], said: Path) -> int:
        """Fork a process that trains with `argv`, and writes what it says to `said`."""
        request = {"argv": argv, "environ": dict(environ), "said": str(said)}
        return int(self._ask(request))

    def exit_code(self, pid: int) -> int | None:
        """Return how that process ended, negative for a signal, or None while it runs."""
        answer = self._ask({"ended": pid})
        return None if answer is None else int(answer)

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    """Answer requests until there are no more."""
    import deepspeed
    import deepspeed.runtime.zero.muon.muon_optimizer  # imported at a stage's first start

    import trainer.training.session  # noqa: F401

    # It computes in fp16 on any CPU, and declines where no instruction does.
    type(deepspeed.accelerator.get_accelerator()).is_fp16_supported = lambda self: True
    gc.freeze()  # what is loaded is not looked through again in every process
    codes: dict[int, int] = {}
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # libraries print
        for line in sys.stdin:
            request = json.loads(line)
            answer: int | None
            if "argv" in request:
                answer = os.fork()
                if answer == 0:
                    answers.close()
                    _train(**request)
            else:
                answer = _code(request["ended"], codes)
            print(json.dumps(answer), file=answers, flush=True)


def _code(pid: int, codes: dict[int, int]) -> int | None:
    if pid not in codes:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            codes[pid] = os.waitstatus_to_exitcode(status)
    return codes.get(pid)


def _train(argv: list[str], environ: dict[str, str], said: str) -> NoReturn:
    from trainer.commands.cli import train_main

    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 1)
    os.dup2(1, 2)
    os.environ.update(environ)
    sys.exit(train_main(argv, os.environ))


if __name__ == "__main__":
    _serve()
