#!/usr/bin/env bash
# Write OMol25-style shards, read them with transip and with fairchem's AseDBDataset, compare every number.
#
#   bash benchmarks/omol_format/run.sh [NAME.pack]
#
# Without a pack, synthetic structures are written. PYTHON is transip's interpreter (default .venv/bin/python),
# FAIRCHEM_VENV fairchem's environment (default: a new one in the scratch folder, about 1.5 GB).
set -euo pipefail

cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fairchem=${FAIRCHEM_VENV:-$scratch/fairchem}

if [ ! -x "$fairchem/bin/python" ]; then
    "$python" -m venv "$fairchem"
    "$fairchem/bin/python" -m pip install --quiet -r benchmarks/omol_format/requirements.txt
    "$fairchem/bin/python" -m pip install --quiet --no-deps fairchem-core==2.24.0
fi

"$python" -m benchmarks.omol_format.write_shards "$scratch/shards" ${1:+--pack "$1"}
"$fairchem/bin/python" -m benchmarks.omol_format.dump_fairchem "$scratch/shards" "$scratch/fairchem.npz"
"$python" -m benchmarks.omol_format.compare "$scratch/shards" "$scratch/fairchem.npz"
