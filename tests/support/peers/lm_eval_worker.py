"""Runs `txl lm-eval` several times in a process of its own: see `peer.ask_lm_eval`.

Reads the words of each from the JSON file named on the command line.
"""

import json
import sys
from functools import partial
from pathlib import Path

import lm_eval.tasks
import torch

from trainer.exchange.for_lm_eval.command import run_lm_eval

if __name__ == "__main__":
    torch.set_num_threads(1)
    # The thousands of tasks that lm-eval brings take seconds to list.
    lm_eval.tasks.TaskManager = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    for words in json.loads(Path(sys.argv[1]).read_text()):
        run_lm_eval(words)
