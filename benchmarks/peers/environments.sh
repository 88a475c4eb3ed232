#!/usr/bin/env bash
# Make the environments of the peers named, each with its own pinned packages, in benchmarks/peers/.venvs/NAME.
#
#   bash benchmarks/peers/environments.sh painn esen allscaip mace nequip pet
#
# torch 2.13.0 comes first: packages that ask for a range then take what is there. About 1.5 GB each; needs Python 3.11.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}

# Packages whose own requirements cannot be met beside torch 2.13 on a CPU; requirements/NAME.txt says why.
declare -A without_dependencies=([painn]=schnetpack==2.1.1 [esen]=fairchem-core==2.24.0)

for name in "$@"; do
    venv=$here/.venvs/$name
    if [ "$name" = allscaip ]; then # the same package as esen
        bash "$0" esen
        ln -sfn esen "$venv"
        continue
    fi
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet torch==2.13.0
    "$venv/bin/python" -m pip install --quiet -r "$here/requirements/$name.txt"
    if [ -n "${without_dependencies[$name]:-}" ]; then
        "$venv/bin/python" -m pip install --quiet --no-deps "${without_dependencies[$name]}"
    fi
done
