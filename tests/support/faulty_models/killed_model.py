"""For the tests of kills: a process that builds this model is killed while its thread writes.

That is, in the environment variable KILLED_IN, the step whose checkpoint it does not finish.
"""

import os
import signal
import sys
import threading
from typing import Any

from torch import nn

from trainer.checkpoint.pointers import name_of
from trainer.checkpoint.sealing import DRAFT
from trainer.config.recipe import ModelConfig
from trainer.model.transformer_xl import TransformerXL


def build(config: ModelConfig, vocabulary_size: int) -> nn.Module:
    """Build the model of `--model.factory killed_model:build`."""
    if step := os.environ.get("KILLED_IN"):
        name = f"{DRAFT}{name_of(int(step))}"
        sys.addaudithook(lambda event, args: _kill_at(event, args, name))
    return TransformerXL(config, vocabulary_size)


def _kill_at(event: str, args: tuple[Any, ...], draft: str) -> None:
    """Kill a thread that opens the optimizer's file in the draft, to sync and hash it."""
    in_thread = threading.current_thread() is not threading.main_thread()
    if event == "open" and in_thread and f"{draft}/optimizer" in str(args[0]):
        os.kill(os.getpid(), signal.SIGKILL)
