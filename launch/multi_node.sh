#!/usr/bin/env bash
# Train on several machines without Slurm: start the same command on each of them, no ssh needed.
#
#   bash launch/multi_node.sh HOSTFILE wt103-base --data corpora/wt103 --run-dir runs/wt103
#
# HOSTFILE has a line `NAME slots=GPUS` per machine, as DeepSpeed reads it: NAME as `hostname` says it
# there, short or in full, or an address of the machine. The first one is where the ranks meet, at
# port MASTER_PORT. The project, the corpus and the run's folder lie at the same place on all of them,
# best on a shared disk. NODE_RANK tells a machine its line, counted from 0, where its name does not;
# MASTER_ADDR is where to meet, where the name is no address.
#
# `touch RUN_DIR/STOP` stops the training everywhere, after a checkpoint; the same command resumes it.
# Where ssh and pdsh reach all machines, one command on one of them does the same:
#   deepspeed --hostfile HOSTFILE launch/train.py …
set -euo pipefail
CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -lt 2 ]; then
  echo "error: usage: bash launch/multi_node.sh HOSTFILE RECIPE --data CORPUS --run-dir DIR …" >&2
  exit 2
fi
hostfile=$1
shift
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
place=$(python launch/hostfile.py "$hostfile")
read -r rank first <<<"$place"
exec python -m deepspeed.launcher.runner --hostfile "$hostfile" --no_ssh --node_rank "$rank" \
  --master_addr "${MASTER_ADDR:-$first}" --master_port "${MASTER_PORT:-29500}" \
  launch/train.py "$@"
