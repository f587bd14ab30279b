"""Train: ``deepspeed launch/train.py RECIPE --data CORPUS``; also under torchrun, srun or python.

The environment is read here and nowhere else.
"""

import os
import sys
from pathlib import Path


def main() -> int:
    """Train with this checkout's own code, whatever the path has under its names."""
    folder = Path(__file__).resolve().parent
    # Python has put this folder first, where it would hide a reader's own `train.py`.
    sys.path[:] = [path for path in sys.path if path != str(folder)]
    sys.path.insert(0, str(folder.parent))
    from txl_trainer import own_trainer

    del sys.path[0]
    own_trainer()
    from trainer.commands.cli import train_main

    return train_main(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main())
