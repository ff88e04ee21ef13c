#!/usr/bin/env bash
# Set up a virtual environment in .venv and run every check: style, types, fast tests and
# their coverage, slow tests.
#
#   bash scripts/test.sh          everything (about three quarters of an hour on two cores)
#   bash scripts/test.sh fast     without the end-to-end tests (minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install --quiet --editable '.[dev]'
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# A file's tests run one after the other, files side by side, each process with its own data set.
pytest=(.venv/bin/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile)
"${pytest[@]}" --cov --durations=5
[ "${1:-all}" = fast ] || "${pytest[@]}" -m slow --durations=10
