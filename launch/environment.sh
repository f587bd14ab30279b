#!/usr/bin/env bash
# Make .venv with the project in it, at the versions of constraints.txt:
#
#   bash launch/environment.sh [EXTRA]     EXTRA as in pyproject.toml, such as test
#
# What is there already is left alone: nothing is installed, and no network asked, until
# pyproject.toml or constraints.txt change. PYTHON names the interpreter to begin with; DEVICE, cpu or
# cuda, says for which device PyTorch is, where the machine itself does not tell.
set -euo pipefail
CDPATH="" cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
extra=${1:-}
venv=.venv python=.venv/bin/python
unfinished=$venv/.unfinished made=$venv/.made${extra:+-$extra}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "error: no Python 3.11 or newer found: install one, or name it as PYTHON=/path/python3" >&2
  exit 2
}

make_venv() {
  local base
  base=$(find_python)
  echo "making $venv with $("$base" --version)"
  if ! "$base" -m venv --clear "$venv"; then
    echo "error: $base cannot make $venv: on Debian, apt install python3-venv" >&2
    exit 2
  fi
}

wants_cpu() {
  case ${DEVICE:-} in
    cpu) true ;;
    cuda) false ;;
    "") ! nvidia-smi >/dev/null 2>&1 ;;
    *)
      echo "error: DEVICE is $DEVICE: say cpu or cuda, or leave it out" >&2
      exit 2
      ;;
  esac
}

# PyTorch's own index has the CPU build, ten times smaller; where it cannot be reached pip takes
# the build it finds elsewhere.
install_cpu_torch() {
  "$python" -m pip install --quiet --retries 1 --timeout 15 --no-deps \
    --constraint constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch
}

# A script's first line names its interpreter, and no system starts one with a blank in its path.
# pip sees to that in scripts that it makes, and not in those that packages bring, as DeepSpeed does.
mend_scripts() {
  case $PWD in *[[:space:]]*) ;; *) return ;; esac
  "$python" - "$venv"/bin/* <<'EOF'
import sys
from pathlib import Path

own = f"#!{sys.executable}".encode()
for path in map(Path, sys.argv[1:]):
    first, _, rest = path.read_bytes().partition(b"\n")
    if first.strip() == own:  # a line that a shell obeys, and Python takes for a text
        shell = b"""#!/bin/sh\n'''exec' "$(dirname "$0")/python" "$0" "$@"\n' '''\n"""
        path.write_bytes(shell + rest)
EOF
}

install_project() {
  touch "$unfinished"
  echo "installing the project into $venv: takes minutes, once"
  if wants_cpu; then install_cpu_torch; fi
  "$python" -m pip install --quiet --constraint constraints.txt --editable ".${extra:+[$extra]}"
  mend_scripts
  rm "$unfinished"
}

# Whether the environment works, and here: the scripts in a copied or moved one start the old one.
is_whole() {
  [ ! -e "$unfinished" ] && "$venv/bin/pip" --version 2>/dev/null | grep -qF "from $PWD/$venv/"
}

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
wanted=$(cat pyproject.toml constraints.txt | cksum)
is_whole || make_venv
if [ "$(cat "$made" 2>/dev/null)" != "$wanted" ]; then
  install_project
  echo "$wanted" >"$made"
fi
