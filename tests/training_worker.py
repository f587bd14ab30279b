"""One rank of `training.run_cases`: reads training commands, one list of flags each, from stdin.

The commands come on rank 0's standard input; all trains in one process group, as users' runs do.
"""

import json
import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from deepspeed.accelerator import get_accelerator

from trainer import engine
from trainer.arguments import parse_train
from trainer.distributed import World, broadcast_object, complete_environ
from trainer.errors import Exit
from trainer.plan import make_plan
from trainer.session import train_connected


def main() -> None:
    # The CPU computes in fp16 well enough to test loss scaling; DeepSpeed only refuses to.
    type(get_accelerator()).is_fp16_supported = lambda self: True
    torch.set_num_threads(1)
    os.environ.update(complete_environ(os.environ))
    commands = json.load(sys.stdin) if os.environ["RANK"] == "0" else []
    world = World(
        rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]), device=torch.device("cpu"),
    )  # fmt: skip
    world = engine.connect(world, timeout_s=300)
    for argv in broadcast_object(commands, world):
        code = train_connected(make_plan(parse_train(argv), os.environ), world, os.environ)
        assert code is Exit.DONE, (argv, code)
    engine.disconnect()


if __name__ == "__main__":
    main()
