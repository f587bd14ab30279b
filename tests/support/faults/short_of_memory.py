"""Runs a command of ours that may take few MiB more than its libraries have taken already.

    short_of_memory.py MIB RANK COMMAND …

The limit is that of `ulimit -v`, set when everything is imported, on one rank alone.
"""

import os
import resource
import sys


def main() -> None:
    mib, rank, *argv = sys.argv[1:]
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401
    import torch

    from trainer.commands import cli
    from trainer.training import session  # noqa: F401

    torch.set_num_threads(1)
    if os.environ.get("RANK", "0") == rank:
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        most = taken + (int(mib) << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.argv = ["txl", *argv]
    cli.main()


if __name__ == "__main__":
    main()
