#!/usr/bin/env bash
# Make .peer, with the peers that the tests marked `peer` compare with: Hugging Face's TransfoXL in
# its last release line, and omegaconf, whose objects fairseq's checkpoints hold. The project's own
# environment must be there already; nothing is put into it.
set -euo pipefail
CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.."
wanted=(
  transformers==4.35.2 tokenizers==0.15.2 huggingface_hub==0.25.2 regex==2026.11.15
  omegaconf==2.4.0 antlr4-python3-runtime==4.9.3
)
if [ "$(cat .peer/.made 2>/dev/null)" != "${wanted[*]}" ]; then
  echo "installing ${wanted[0]} into .peer: once"
  rm -rf .peer
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .peer \
    "${wanted[@]}"
  echo "${wanted[*]}" >.peer/.made
fi
