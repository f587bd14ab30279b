"""Calls of `trainer.train` one after another in one process; prints as JSON what came of them.

Arguments: a corpus, a folder for runs, and the overrides as JSON.
"""

import json
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trainer
from trainer.calls import training
from trainer.errors import InputError
from trainer.training.ending.stopping import StopRequests, Wish

CORPUS, RUNS, OVERRIDES = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])

#: Names of the threads that run while a call trains.
THREADS: set[str] = set()


def train(name: str, **changes: Any) -> training.TrainResult:
    """Train as the tests' command does."""
    how = {
        "deepspeed_config": "zero0_fp32",
        "device": "cpu",
        "data": CORPUS,
        "overrides": OVERRIDES,
    }
    return trainer.train("quickstart", run_dir=RUNS / name, **{**how, **changes})


def told(call: Callable[[], Any]) -> str:
    """Return what a call raises."""
    try:
        call()
    except (InputError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@contextmanager
def signalled(*numbers: int, look: int) -> Iterator[None]:
    """Let a run's nth look for requests meet these signals, until the block ends."""

    class Asked(StopRequests):
        n_looks = 0

        def poll(self) -> Wish:
            self.n_looks += 1
            THREADS.update(thread.name for thread in threading.enumerate())
            for number in numbers if self.n_looks == look else ():
                signal.raise_signal(number)
            return super().poll()

    training.StopRequests = Asked  # type: ignore[misc]
    try:
        yield
    finally:
        training.StopRequests = StopRequests  # type: ignore[misc]


def process_state() -> dict[str, str]:
    """Return what a call must leave as it was."""
    loggers = [logging.getLogger(name) for name in ("trainer", "DeepSpeed", "")]
    return {
        "environment": repr(sorted(os.environ.items())),
        "signals": repr([signal.getsignal(number) for number in signal.valid_signals()]),
        "loggers": repr([(logger.level, logger.handlers) for logger in loggers]),
        "warnings": repr(warnings.filters),
        "generators": repr((random.getstate(), np.random.get_state(), torch.get_rng_state().sum())),
        "torch": repr(
            (
                torch.get_float32_matmul_precision(),
                torch.get_default_dtype(),
                torch.is_grad_enabled(),
                torch.get_num_threads(),
                torch.distributed.is_initialized(),
            )
        ),
    }


def in_a_thread() -> str:
    states: list[str] = []
    thread = threading.Thread(target=lambda: states.append(train("thread").state))
    thread.start()
    thread.join()
    return states[0]


def with_own_group() -> str:
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    said = told(lambda: train("group"))
    torch.distributed.destroy_process_group()
    return said


def main() -> None:
    import deepspeed  # noqa: F401  # its logger and filters are its own

    found: dict[str, Any] = {}
    before = process_state()
    first = train("first")
    found["changed"] = [k for k, v in process_state().items() if v != before[k]]
    found["first"] = [first.state, first.step, first.exit_code, list(first.best or ())]
    found["records"] = [first.train and first.train["step"], first.valid and first.valid["step"]]
    wrong = {
        "unknown field": lambda: train("new", overrides={"train.max_step": 3}),
        "wrong value": lambda: train("new", overrides={"train.max_steps": "many"}),
        "no value": lambda: train("new", overrides={"optim.lr": np.float32(1)}),
        "no corpus": lambda: train("new", data=RUNS / "nowhere"),
        "no recipe": lambda: trainer.train("quickstrat", data=CORPUS),
        "a contradiction": lambda: train("new", resume_from="a", init_from="b"),
        "batch": lambda: train("new", overrides=OVERRIDES | {"train.train_batch_size": 9999}),
        "another run": lambda: train("first", overrides=OVERRIDES | {"model.n_layer": 1}),
    }
    found["refused"] = {name: told(call) for name, call in wrong.items()}
    found["own group"] = with_own_group()
    with signalled(signal.SIGINT, look=3):
        found["ctrl-c"] = told(lambda: train("stopped"))
    found["goes on"] = [train("stopped").state, len(trainer.read_metrics(RUNS / "stopped"))]
    with signalled(signal.SIGINT, signal.SIGINT, look=3):
        found["ctrl-c twice"] = told(lambda: train("left"))
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    with signalled(signal.SIGTERM, look=3):
        result = train("requeued")
    found["term"] = [result.state, result.reason, result.exit_code, result.step < 6, heard]
    found["threads"] = sorted(THREADS)
    found["thread"] = in_a_thread()
    found["again"] = train("first").state
    found["changed at the end"] = [
        k for k, v in process_state().items() if v != before[k] and k != "signals"
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
