#!/usr/bin/env bash
# Run the fast tests with the lowest declared and with the newest versions of all dependencies, each
# in a fresh virtual environment (several GB) below FOLDER.
#
#   bash scripts/test_dependencies.sh [lowest|newest|both] [FOLDER] [pytest arguments]
#
# LOWEST_PYTHON and NEWEST_PYTHON name other interpreters than 3.10 and 3.13. Needs uv (pip install uv),
# which can resolve to the lowest versions. The lowest ones are those that pyproject.toml declares; what
# these need in turn is taken as new as it may be.
set -euo pipefail
which="${1:-both}"
folder="$(mkdir -p "${2:-/tmp/amae_dependencies}" && cd "${2:-/tmp/amae_dependencies}" && pwd)"
shift $(($# < 2 ? $# : 2))
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

check() { # check lowest-direct 3.10
    local environment="$folder/$1"
    uv venv --quiet --clear --python "$2" "$environment"
    uv pip install --quiet --compile-bytecode --python "$environment/bin/python" --resolution "$1" '.[test]'
    uv pip freeze --python "$environment/bin/python" > "$folder/$1.txt"
    echo "$1, Python $2: $(grep -cE '==' "$folder/$1.txt") packages, listed in $folder/$1.txt"
    "$environment/bin/pytest" -q "${@:3}" # the script sees what is installed, not this folder
}

[ "$which" = newest ] || check lowest-direct "${LOWEST_PYTHON:-3.10}" "$@"
[ "$which" = lowest ] || check highest "${NEWEST_PYTHON:-3.13}" "$@"
