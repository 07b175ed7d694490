#!/usr/bin/env bash
# Make .venv with the exact versions of requirements.lock and check that the result works.
# Needs bash, python3 (3.10 to 3.13) and pip. Safe to run again: seconds when nothing changed.
# ./setup.sh --requirements [gpu|cpu|plain] only prints what pip is to install to run the program, for this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

fail() { echo "error: $*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "python3: none from 3.10 to 3.13 found; expected one on the PATH. Install one, or name it: PYTHON=/path/to/python3 ./setup.sh"
}

# One of the two flavours of TensorFlow: they hold the same files.
flavour() {
  if [ "$(uname -s)" = Linux ] && command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo gpu
  elif [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; then
    echo cpu
  else
    echo plain # macOS and Linux on arm64: the CPU build is called tensorflow
  fi
}

# The lock file without the packages that this machine, or whoever only runs the program, does not want.
readonly only_developers='hypothesis|jsonschema|mkdocs|mypy|onnxruntime|pandas-stubs|playwright|pre-commit|pytest|pytest-cov|pytest-xdist|rio-cogeo|ruff'
requirements() {
  local drop
  case "$1" in
    gpu) drop='^tensorflow-cpu==' ;;
    cpu) drop='^(tensorflow==|nvidia-)' ;;
    plain) drop='^(tensorflow-cpu==|nvidia-)' ;;
    *) fail "setup.sh: $1; expected gpu, cpu or plain. Name one of these" ;;
  esac
  [ "${2:-}" = everything ] || drop="$drop|^($only_developers)=="
  awk -v drop="$drop" '/^[^ ]/ { keep = $0 !~ drop } keep' requirements.lock
}

if [ "${1:-}" = --requirements ]; then # for the Dockerfile, and for a machine without network
  requirements "${2:-$(flavour)}"
  exit
fi

python=$(find_python)
flavour=$(flavour)
stamp="$flavour $("$python" -c 'import sys; print(sys.version_info[:3])') $(cat requirements.lock pyproject.toml setup.sh | cksum)"

if [ "$(cat .venv/stamp 2>/dev/null)" != "$stamp" ]; then
  echo "Installing into .venv ($("$python" --version), TensorFlow flavour: $flavour). This takes minutes the first time."
  if ! "$python" -m venv --clear .venv >/dev/null 2>&1; then
    # Debian's python3 without python3-venv: no pip of its own in the environment, so lend it this one.
    "$python" -m venv --clear --without-pip .venv
    "$python" -m pip --version >/dev/null 2>&1 || fail "pip: not found for $python; expected pip 22.3 or newer. Install pip, then run ./setup.sh again"
    "$python" -m pip --python .venv install --quiet pip
  fi
  requirements "$flavour" everything >.venv/requirements.txt
  pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
  pip install --quiet --no-deps --require-hashes -r .venv/requirements.txt
  pip install --quiet --no-deps --no-build-isolation --editable .
  echo "$stamp" >.venv/stamp
fi

.venv/bin/python -m roofkit.check_setup
