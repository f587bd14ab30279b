"""Train: ``deepspeed launch/train.py RECIPE --data CORPUS``; also under torchrun, srun or python.

The environment is read here and nowhere else.
"""

import os
import sys

from trainer.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main(sys.argv[1:], os.environ))
