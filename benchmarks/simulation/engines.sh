#!/usr/bin/env bash
# Each engine's example in a fresh environment that holds transip with that engine's extra and nothing else. Every
# example prints how far its energies are from those of the ASE calculator.
#
#     benchmarks/simulation/engines.sh [ENGINE ...]              torchsim, openmm, lammps, ipi; all if none is named
#     PYTHON=python3.12 MODEL=runs/mine benchmarks/simulation/engines.sh openmm
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- torchsim openmm lammps ipi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for engine in "$@"; do
    echo "== $engine"
    "${PYTHON:-python3}" -m venv "$work/$engine"
    "$work/$engine/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[$engine]"
    PATH="$work/$engine/bin:$PATH" python "$(echo examples/"$engine"_*.py)" "${MODEL:-transip-xs-gfn2}"
    rm -rf "${work:?}/$engine"
done
