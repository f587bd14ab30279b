"""Real processes that talk over gloo, for tests of what ranks do."""

import atexit
import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.distributed import World, this_process
from trainer.launchers import RENDEZVOUS, complete_environ
from trainer.meeting import join

Work = Callable[[World, Path], Any]


def told_by_ranks(
    work: Work, folder: Path, *, n_ranks: int = 2, timeout_s: float = 1000
) -> list[Any]:
    """Run `work`, a function of a module, on each rank; return what each gave, as JSON keeps it."""
    context = multiprocessing.get_context("spawn")
    port = complete_environ({})["MASTER_PORT"]
    ranks = [
        context.Process(target=_run, args=(rank, n_ranks, port, work, folder), daemon=True)
        for rank in range(n_ranks)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout_s)
    assert [process.exitcode for process in ranks] == [0] * n_ranks
    return [json.loads((folder / f"rank {rank}.json").read_text()) for rank in range(n_ranks)]


def _run(rank: int, n_ranks: int, port: str, work: Work, folder: Path) -> None:
    launched = (*2 * (str(rank), str(n_ranks)), "127.0.0.1", port)
    os.environ.update(zip(RENDEZVOUS, launched, strict=True))
    os.environ.update(complete_environ(os.environ))
    n_threads: list[int] = []
    atexit.register(_fail_if_threads_remain, n_threads)  # runs after what `join` registers
    world = join(this_process(os.environ, device="cpu"), timeout_s=300)
    (folder / f"rank {rank}.json").write_text(json.dumps(work(world, folder)))
    n_threads.append(len(gloo_threads()))


def gloo_threads() -> list[str]:
    """Return names of threads in which gloo does its work, and which may ask for Python."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it ends meanwhile
            names.append((task / "comm").read_text().strip())
    return [name for name in names if name.startswith("pt_gloo")]


def _fail_if_threads_remain(n_threads: list[int]) -> None:
    """End with another code if the threads of the control plane are there still."""
    if n_threads and n_threads[0] and len(gloo_threads()) == n_threads[0]:
        print("the process ends before its threads", flush=True)
        os._exit(1)
