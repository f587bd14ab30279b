#!/usr/bin/env bash
# Make the peers that the tests marked `peer` compare with. .peer: Hugging Face's TransfoXL in its
# last release line, and omegaconf, whose objects fairseq's checkpoints hold. .lm-eval: EleutherAI's
# harness of evaluations. .trackio: trackio, which asks for an older pillow than the tests' own
# environment has. That environment must be there already; nothing is put into it.
set -euo pipefail
CDPATH="" cd "$(dirname "${BASH_SOURCE[0]}")/.."

# install FOLDER PACKAGE...: make the folder hold these packages, unless it does.
install() {
  local folder=$1
  shift
  if [ "$(cat "$folder/.made" 2>/dev/null)" != "$*" ]; then
    echo "installing $1 into $folder: once"
    rm -rf "$folder"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
      --target "$folder" "$@"
    echo "$*" >"$folder/.made"
  fi
}

install .peer transformers==4.35.2 tokenizers==0.15.2 huggingface_hub==0.25.2 regex==2026.11.15 \
  omegaconf==2.4.0 antlr4-python3-runtime==4.9.3
install .lm-eval lm_eval==0.4.13 datasets==5.2.0 evaluate==0.4.6 accelerate==1.15.0 \
  pandas==3.1.1 sacrebleu==2.6.0 lxml==6.1.3 portalocker==4.4.2 colorama==0.4.6 tabulate==0.10.0 \
  dill==0.4.1 multiprocess==0.70.19 more_itertools==11.2.1 sqlitedict==2.1.0 word2number==1.1 \
  pytablewriter==1.2.1 DataProperty==1.1.1 mbstrdecoder==1.1.5 pathvalidate==3.3.1 \
  tabledata==1.3.5 tcolorpy==0.1.7 typepy==1.3.5 chardet==6.0.0.post1 \
  pytz==2026.6
install .trackio trackio==0.43.0 gradio_client==2.7.2 brotli==1.2.1 orjson==3.13.0 \
  starlette==1.10.0 uvicorn==0.54.0 watchfiles==1.3.0
