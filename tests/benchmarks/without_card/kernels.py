"""What each kernel takes of a card that is not there, by the compiler's own report: a table.

    .venv/bin/python tests/benchmarks/without_card/kernels.py [wt103-base wt103-large …]

Of a forward and a backward pass in bf16 at a recipe's sizes: registers of a thread and what did not
fit into them, shared memory, the share of warps that fit on a multiprocessor, instructions of the
kernel and of its longest loop. A block of attention's loop is `q` × `k` weights, see `default_cut`.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), *(str(ROOT / "tests/support" / room) for room in (".", "triton"))]

from triton_processes import compile_only  # noqa: E402

RECIPES = ("wt103-base", "wt103-large", "enwik8-large")


def main() -> None:
    """Print a table per recipe."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    compile_only()
    import torch
    from fake_model import step_of

    for recipe in options.recipes:
        step = step_of(recipe, "triton", dtype=torch.bfloat16)
        print(f"\n{recipe}\n")
        print("| kernel | card | registers | spilled | shared | warps | code, loop |")
        print("|---|---|---|---|---|---|---|")
        for kernel in sorted(step.kernels):
            print(
                f"| `{kernel.name}` | sm_{kernel.capability} | {kernel.registers} | "
                f"{kernel.stack} B | {kernel.shared >> 10} KiB | {kernel.occupancy:.0%} | "
                f"{kernel.n_instructions:,}, {kernel.loop:,} |"
            )


if __name__ == "__main__":
    main()
