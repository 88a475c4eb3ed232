#!/usr/bin/env bash
# Build the wheel, install it where there is no source tree, and use it: help, import, a prediction of the committed
# model, the data and licences that belong inside.
#
#     benchmarks/robustness/wheel.sh [PYTHON [SITE_PACKAGES]]
#
# Dependencies are installed as constraints.txt pins them or, in seconds instead of minutes, taken from SITE_PACKAGES.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
python=${1:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" wheel --no-deps --wheel-dir "$work/wheel" "$repository"
if [ $# -lt 2 ]; then
    "${pip[@]}" install --constraint "$repository/constraints.txt" "$work"/wheel/transip_potentials-*.whl
else
    "${pip[@]}" install --no-deps "$work"/wheel/transip_potentials-*.whl
    realpath "$2" >"$("$work/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/dependencies.pth"
fi

cp -r "$repository/tests/golden/model-format-1" "$work/model"
cp "$repository/examples/fluorotoluene.extxyz" "$work"
cd "$work"  # the source tree is not on the path from here on
"$work/venv/bin/transip" --help >/dev/null
"$work/venv/bin/transip" info "$work/model" >/dev/null
"$work/venv/bin/transip" predict model fluorotoluene.extxyz -o out.extxyz --unseen ignore
"$work/venv/bin/python" - "$repository" <<'PYTHON'
import sys
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

import ase.io
import numpy as np

import transip
from transip import TransIPCalculator

assert not Path(transip.__file__).is_relative_to(sys.argv[1]), transip.__file__
atoms = ase.io.read("fluorotoluene.extxyz")
atoms.calc = TransIPCalculator("model", unseen="ignore")
forces = ase.io.read("out.extxyz").get_forces()
assert np.isfinite(forces).all() and np.abs(atoms.get_forces() - forces).max() < 1e-4
for name in ("data/omol25_references.json", "report/assets/viewer.js", "report/assets/report.html"):
    assert files("transip").joinpath(name).is_file(), name
shipped = [str(path) for path in distribution("transip-potentials").files]
for name in ("LICENSE", "LICENSE-OMol25.txt"):
    assert any(".dist-info/licenses" in path and path.endswith(name) for path in shipped), name
assert not [path for path in shipped if path.startswith(("tests", "benchmarks", "docs"))]
print(f"transip {transip.__version__}: {len(shipped)} files, all well")
PYTHON
