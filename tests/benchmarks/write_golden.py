"""Writes down the losses that `tests/whole/numbers/test_golden.py` holds this project to.

    .venv/bin/python tests/benchmarks/write_golden.py            # what has drifted since then
    .venv/bin/python tests/benchmarks/write_golden.py --write    # and write them down anew

To be written anew after a change that is meant to change what is trained, with the reason in the
commit. `tests/support/runs/golden_losses.py` says how near losses must come.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(ROOT), *(str(SUPPORT / room) for room in (".", "runs", "texts"))]

from golden_losses import GOLDEN, drifts, trained  # noqa: E402


def main() -> int:
    """Train, tell what has drifted, and write if told to; 1 if anything has drifted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="write the losses down")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = trained(Path(folder))
    then = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    lines = drifts(found, then)
    print("\n".join(lines) or "nothing has drifted")
    if told.write:
        rows = (f'"{name}": {json.dumps(values)}' for name, values in found.items())
        GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
