#!/usr/bin/env bash
# Every check of the project: `bash tests/run.sh [pytest's arguments]`, in an environment it makes.
set -euo pipefail
CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash launch/environment.sh test
bash tests/peer.sh || echo "warning: the peers could not be installed: their tests are skipped" >&2
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1
bash -n launch/*.sh launch/slurm/*.sbatch tests/*.sh .ci/run
ruff check .
ruff format --check .
mypy
# Two at a time, and one that waits for Slurm; the tests of a file together, for they share what
# their fixtures trained. What takes the longest begins: see tests/conftest.py.
pytest --numprocesses=3 --dist=loadscope --no-loadscope-reorder "$@"
