#!/usr/bin/env bash
# The seven tasks and an S2EF split on small inputs labelled with GFN2-xTB, scored with OMol25's official evaluator:
# GFN2-xTB against itself, which must leave no error, and a model.
#
#   bash benchmarks/omol_evals/run.sh MODEL
#
# PYTHON is transip's interpreter (default .venv/bin/python), EVALUATOR_VENV an environment with requirements.txt
# (default: a new one in the scratch folder).
set -euo pipefail

cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
evaluator=${EVALUATOR_VENV:-$scratch/evaluator}

if [ ! -x "$evaluator/bin/python" ]; then
    "$python" -m venv "$evaluator"
    "$evaluator/bin/python" -m pip install --quiet -r benchmarks/omol_evals/requirements.txt
fi

"$python" -m benchmarks.omol_evals.make_inputs "$scratch/inputs"
for run in reference:gfn2 gfn2:gfn2 "model:$1"; do
    "$python" -m benchmarks.omol_evals.run all "${run#*:}" "$scratch/inputs" -o "$scratch/${run%%:*}"
done
for run in gfn2 model; do
    [ $run = gfn2 ] && what="GFN2-xTB" || what=$1
    "$evaluator/bin/python" -m benchmarks.omol_evals.score "$scratch/reference" "$scratch/$run" --name "$run" \
        --what "$what against GFN2-xTB on small inputs: bash benchmarks/omol_evals/run.sh $1"
done
