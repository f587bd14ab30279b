"""The command `txl doctor`. Heavy imports wait until it runs."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import InputError, LoneRefusalError
from trainer.launchers import is_first_task

if TYPE_CHECKING:
    from trainer.config.command_line.arguments import DoctorArguments
    from trainer.distributed import World
    from trainer.doctor.checks import Check


@dataclass(frozen=True)
class Doctor:
    """Try what a run here would need, on all ranks: devices, collectives, folders, clocks."""

    argv: tuple[str, ...]
    """--json, --run-dir, --device; or all of a training command, whose ranks are then compared"""

    def run(self) -> None:
        """Try everything, and print a table or JSON.

        Raises:
            InputError: something is wrong; names what, and what to do.
        """
        from trainer.config.command_line.arguments import parse_doctor

        arguments = parse_doctor(self.argv)
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what fails is told in a line
        import torch

        if arguments.device == "cpu" or not torch.cuda.is_available():
            os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it at import
        from trainer.doctor.checks import as_json, as_text
        from trainer.doctor.examination import connect

        try:
            world = connect(arguments, os.environ)
        except InputError as error:
            if is_first_task(os.environ):
                raise
            raise LoneRefusalError(str(error)) from None  # rank 0 may be elsewhere, or well
        checks = _examined(arguments, world)
        if world.is_main:
            print(as_json(checks) if arguments.as_json else as_text(checks), flush=True)
        wrong = [check.name for check in checks if not check.is_well]
        if wrong:
            raise InputError(
                f"{len(wrong)} of {len(checks)} are wrong: {', '.join(dict.fromkeys(wrong))}; "
                "what to do about each is said above"
            )


def _examined(arguments: "DoctorArguments", world: "World") -> list["Check"]:
    """Return all checks; what ranks find travels over gloo, which may be what is wrong."""
    from trainer.doctor.examination import examine
    from trainer.training.peers.company import is_of_connection

    try:
        return examine(arguments, world, os.environ)
    except RuntimeError as error:
        if not is_of_connection(error):
            raise
        why = str(error).partition("\n")[0]
        raise LoneRefusalError(
            f"rank {world.rank} cannot exchange anything with the others: {why}; see that hosts "
            "reach one another, and that GLOO_SOCKET_IFNAME, if set, names an interface"
        ) from None
