#!/usr/bin/env bash
# From a fresh checkout to a trained model in minutes, on any machine: `bash launch/quickstart.sh`.
#
# Makes .venv, a corpus of the Python standard library's own sources in corpora/stdlib, and a run in
# runs/quickstart; then scores it with and without memory, and lets it write. Everything that is
# there already is used as it is: run it again to resume what was interrupted.
set -euo pipefail
CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.."
corpus=corpora/stdlib run=runs/quickstart

say() { printf '\n== %s\n' "$*"; }

prepare_corpus() {
  python launch/quickstart_texts.py |
    xargs -0 -n 100000 txl prepare --out "$corpus" --overwrite --split 98,1,1 \
      --tokenizer bpe --vocab-size 4096 --train
}

# A rank per core, as far as they divide the recipe's streams: faster than one rank's threads.
count_ranks() {
  local ranks=1 cores
  cores=$(env -u OMP_NUM_THREADS nproc)
  while ((2 * ranks <= cores && 2 * ranks <= 16)); do ranks=$((2 * ranks)); done
  echo "$ranks"
}

train() {
  local n_devices
  if nvidia-smi >/dev/null 2>&1; then
    n_devices=1
  else
    n_devices=$(count_ranks)
    export DS_ACCELERATOR=cpu
  fi
  deepspeed --quiet --num_gpus "$n_devices" --master_port "$(free_port)" \
    launch/train.py quickstart --data "$corpus" --run-dir "$run"
}

free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

bash launch/environment.sh
export PATH=$PWD/.venv/bin:$PATH OMP_NUM_THREADS=1 WANDB_MODE=${WANDB_MODE:-offline}

say "corpus: $corpus"
txl corpus show "$corpus" 2>/dev/null || prepare_corpus

say "training: $run"
train

say "test split, with memory and without"
txl eval "$run" --no-memory

say "what it writes"
txl generate "$run" --prompt 'def read(self, ' --n-tokens 120

say "result"
python launch/quickstart_result.py "$run"
cat <<EOF

$run        config.json, metrics.jsonl, status.json, logs, checkpoints, evals
$corpus     the corpus: .venv/bin/txl prepare --help makes one of your own text

next: .venv/bin/txl report $run
      .venv/bin/deepspeed launch/train.py quickstart --data $corpus --train.mem-len 0
EOF
