#!/usr/bin/env bash
# Write OMol25-style shards, read them with transip and with fairchem's AseDBDataset, compare every number.
#
#   bash benchmarks/omol_format/run.sh [NAME.pack]
#
# Without a pack, synthetic structures are written. PYTHON is transip's interpreter (default .venv/bin/python),
# FAIRCHEM_VENV fairchem's environment (default: a new one in the scratch folder, about 1.5 GB).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-$here/../../.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fairchem=${FAIRCHEM_VENV:-$scratch/fairchem}

if [ ! -x "$fairchem/bin/python" ]; then
    "$python" -m venv "$fairchem"
    "$fairchem/bin/python" -m pip install --quiet -r "$here/requirements.txt"
    "$fairchem/bin/python" -m pip install --quiet --no-deps fairchem-core==2.24.0
fi

"$python" "$here/write_shards.py" "$scratch/shards" ${1:+--pack "$1"}
"$fairchem/bin/python" "$here/dump_fairchem.py" "$scratch/shards" "$scratch/fairchem.npz"
"$python" "$here/compare.py" "$scratch/shards" "$scratch/fairchem.npz" "$here/results/same_numbers.json"
