"""One rank of the trainings of `trainer.conformance.trainings`, one after the other."""

import json
import os
import sys
from pathlib import Path

from trainer.config.command_line.arguments import parse_train
from trainer.distributed import this_process
from trainer.errors import InputError
from trainer.launchers import complete_environ
from trainer.training.ending.stopping import StopRequests


def main() -> None:
    """Read commands of training, and write what each was refused for; None if it was not.

    The command line names the file of the commands, and the file to write.
    """
    os.environ.update(complete_environ(os.environ))
    os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it at import
    from trainer.engine import deepspeed
    from trainer.training.opening.plan import make_plan
    from trainer.training.session import prepare_products, train_connected

    commands, outcomes = map(Path, sys.argv[1:])
    prepare_products(this_process(os.environ, device="cpu").device, tf32=False)
    world = deepspeed.connect(this_process(os.environ, device="cpu"), timeout_s=120)
    told: list[str | None] = []
    for argv in json.loads(commands.read_text()):
        try:
            plan = make_plan(parse_train(argv), os.environ)
            code = train_connected(plan, world, os.environ, StopRequests(), owns_process=False).code
            told.append(None if code == 0 else code.describe())
        except InputError as error:
            told.append(str(error))
    if world.is_main:
        outcomes.write_text(json.dumps(told))
    deepspeed.disconnect()


if __name__ == "__main__":
    main()
