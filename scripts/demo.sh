#!/usr/bin/env bash
# Set up a virtual environment in .venv and run the demo: the whole path on synthetic studies.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet .
.venv/bin/amae-nnunet-demo "$@"
