#!/usr/bin/env bash
# The tests on the oldest and the newest supported PyTorch and Python: whichever of these Pythons are here.
#
#     benchmarks/robustness/matrix.sh                     all of tests/, oldest and newest
#     benchmarks/robustness/matrix.sh tests/model -x      what pytest is to run instead
#     PYTHONS=python3.12 TORCHES="2.11 2.12" benchmarks/robustness/matrix.sh
#
# Each combination has an environment of its own below MATRIX (default: a temporary folder, removed at the end).
# Wheels of PyTorch are taken from where pip takes them; set PIP_EXTRA_INDEX_URL for builds without CUDA.
set -uo pipefail
cd "$(dirname "$0")/../.."
pythons=${PYTHONS:-python3.11 python3.13}
oldest=$(sed -n 's/^  "torch>=\(.*\)",/\1/p' pyproject.toml)
newest=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' constraints.txt)
work=${MATRIX:-$(mktemp -d)}
[ -n "${MATRIX:-}" ] || trap 'rm -rf "$work"' EXIT
failed=0

check() { # PYTHON TORCH [pytest arguments]
    local python=$1 torch=$2 name; shift 2
    name="$python-torch-$torch"
    if ! command -v "$python" >/dev/null; then echo "$name: no $python here"; return; fi
    grep -v '^torch==' constraints.txt >"$work/$name.txt"
    [ -x "$work/$name/bin/python" ] || "$python" -m venv "$work/$name"
    "$work/$name/bin/python" -m pip install --quiet --constraint "$work/$name.txt" "torch==$torch.*" --editable '.[dev]' \
        || { echo "$name: cannot be installed"; failed=1; return; }
    OMP_NUM_THREADS=1 "$work/$name/bin/python" -m pytest -q -p no:cacheprovider "${@:-tests}" | tail -15
    if [ "${PIPESTATUS[0]}" -eq 0 ]; then echo "$name: passed"; else echo "$name: FAILED"; failed=1; fi
}

for python in $pythons; do
    for torch in ${TORCHES:-$oldest ${newest%.*}}; do check "$python" "$torch" "$@"; done
done
exit "$failed"
