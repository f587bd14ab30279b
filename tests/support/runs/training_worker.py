"""One rank of `training.run_cases`: reads training commands, one list of flags each, from stdin.

The commands come on rank 0's standard input; all trains in one process group, as users' runs do.
How each ended is written to the file that the input names: an exit code, what was refused, and what
the run directory then says and holds.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from deepspeed.accelerator import get_accelerator

from trainer.checkpoint.folder import directory, newest_whole
from trainer.config.command_line.arguments import parse_train
from trainer.distributed import World, broadcast_object
from trainer.engine import deepspeed
from trainer.errors import Exit, InputError
from trainer.launchers import complete_environ
from trainer.track.run_files.status import STATUS_FILE, read_status
from trainer.training.ending.stopping import STOP_FILE, StopRequests, Wish
from trainer.training.opening.plan import make_plan
from trainer.training.session import prepare_products, train_connected


class AskedToStop(StopRequests):
    """Requests of a process that asks itself, with real signals, when it looks for the nth time."""

    def __init__(self, asked: dict[str, Any] | None, run_dir: Path, *, rank: int) -> None:
        super().__init__()
        self._n_looks = 0
        self._asked = asked if asked and asked["rank"] == rank else None
        self._stop_file = run_dir / STOP_FILE

    def poll(self) -> Wish:
        self._n_looks += 1
        if self._asked and self._asked["look"] == self._n_looks:
            if self._asked["by"] == STOP_FILE:
                self._stop_file.touch()
            else:
                os.kill(os.getpid(), signal.Signals[self._asked["by"]])
        return super().poll()


def left_in(run_dir: Path) -> dict[str, Any]:
    """Return what there is for a wrapper, and the next attempt."""
    status = read_status(run_dir) if (run_dir / STATUS_FILE).is_file() else None
    folder = directory(run_dir)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    whole = newest_whole(folder).path if names else None
    return {
        "status": None if status is None else status.model_dump(mode="json"),
        "checkpoints": names,
        "newest whole": None if whole is None else whole.name,
    }


def main() -> None:
    # The CPU computes in fp16 well enough to test loss scaling; DeepSpeed only refuses to.
    type(get_accelerator()).is_fp16_supported = lambda self: True
    torch.set_num_threads(1)
    prepare_products(torch.device("cpu"), tf32=False)  # as `run_training` does, which is not called
    os.environ.update(complete_environ(os.environ))
    spec = json.load(sys.stdin) if os.environ["RANK"] == "0" else {}
    world = World(
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        device=torch.device("cpu"),
    )
    world = deepspeed.connect(world, timeout_s=300)
    ended = []
    for argv, asked in broadcast_object(spec.get("commands", []), world):
        try:
            plan = make_plan(parse_train(argv), os.environ)
            stops = AskedToStop(asked, plan.arguments.run_dir, rank=world.rank)
            stops.install()
            code, told = train_connected(plan, world, os.environ, stops).code, ""
            stops.close()
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # or else the next stays ignored, too
        except InputError as error:
            code, told = Exit.BAD_INPUT, str(error)
        ended.append((code, told, left_in(Path(argv[argv.index("--run-dir") + 1]))))
    if world.is_main:
        Path(spec["outcomes"]).write_text(json.dumps(ended))
    deepspeed.disconnect()


if __name__ == "__main__":
    main()
