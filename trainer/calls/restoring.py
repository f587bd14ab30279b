"""Leaving a process as it was: what training changes in it belongs to whoever called."""

import contextlib
import gc
import logging
import random
import signal
import threading
import warnings
from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
import torch
from torch.backends import cudnn


@contextlib.contextmanager
def restoring(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Put back, when the block ends, whatever of the process it changed.

    That is the environment, the handlers of signals, the filters of warnings, the loggers of the
    trainer and of DeepSpeed, the generators of random numbers, and PyTorch's settings. Memory that
    tensors held on a GPU goes back to it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.callback(_put_back, environ, dict(environ))
        for name in ("trainer", "DeepSpeed"):
            logger = logging.getLogger(name)
            stack.callback(_put_back_logger, logger, logger.level, list(logger.handlers))
        if threading.current_thread() is threading.main_thread():
            for number in signal.valid_signals():
                stack.callback(_put_back_handler, number, signal.getsignal(number))
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        stack.callback(setattr, cudnn, "allow_tf32", cudnn.allow_tf32)
        stack.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # others' draws
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        if torch.cuda.is_available():
            stack.callback(torch.cuda.empty_cache)
            stack.callback(torch.cuda.set_device, torch.cuda.current_device())
            stack.callback(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all())
        stack.callback(gc.collect)  # engines hold tensors, groups and their ports in circles
        yield


def _put_back(environ: MutableMapping[str, str], before: dict[str, str]) -> None:
    for name in [name for name in environ if name not in before]:
        del environ[name]
    environ.update(before)


def _put_back_logger(logger: logging.Logger, level: int, handlers: list[logging.Handler]) -> None:
    logger.setLevel(level)
    logger.handlers[:] = handlers


def _put_back_handler(number: int, handler: Any) -> None:
    if signal.getsignal(number) is not handler and handler is not None:
        signal.signal(number, handler)
