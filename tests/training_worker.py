"""One rank of `training.run_cases`: reads training commands, one list of flags each, from stdin.

The commands come on rank 0's standard input; all trains in one process group, as users' runs do.
How each ended is written to the file that the input names: an exit code, and what was refused.
"""

import json
import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from deepspeed.accelerator import get_accelerator

from trainer import engine
from trainer.arguments import parse_train
from trainer.distributed import World, broadcast_object, complete_environ
from trainer.errors import Exit, InputError
from trainer.plan import make_plan
from trainer.session import train_connected
from trainer.stopping import StopRequests


def main() -> None:
    # The CPU computes in fp16 well enough to test loss scaling; DeepSpeed only refuses to.
    type(get_accelerator()).is_fp16_supported = lambda self: True
    torch.set_num_threads(1)
    os.environ.update(complete_environ(os.environ))
    spec = json.load(sys.stdin) if os.environ["RANK"] == "0" else {}
    world = World(
        rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]), device=torch.device("cpu"),
    )  # fmt: skip
    world = engine.connect(world, timeout_s=300)
    ended = []
    for argv in broadcast_object(spec.get("commands", []), world):
        try:
            plan = make_plan(parse_train(argv), os.environ)
            stops = StopRequests()
            stops.install()
            ended.append((train_connected(plan, world, os.environ, stops), ""))
            stops.close()
        except InputError as error:
            ended.append((Exit.BAD_INPUT, str(error)))
    if world.is_main:
        Path(spec["outcomes"]).write_text(json.dumps(ended))
    engine.disconnect()


if __name__ == "__main__":
    main()
