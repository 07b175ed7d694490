#!/usr/bin/env bash
# Write requirements.lock anew from pyproject.toml: one file for every system and Python that the project supports.
# Needs uv; only who changes the dependencies runs this.
set -euo pipefail
cd "$(dirname "$0")"
uv pip compile --universal --python-version 3.10 --extra cpu --extra gpu --extra dev \
  --generate-hashes --no-annotate --no-header "$@" -o requirements.lock pyproject.toml >/dev/null
