"""Structures for the report's interactive viewer: a handful, the worst among them, with true and predicted forces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from ase.formula import Formula

from transip.evaluation.result import Evaluation
from transip.report.plots import REFERENCE, colour_of, force_error_sums
from transip.report.runs import Run, with_evaluation
from transip.structure import ELEMENTS

WORST_FORCES, WORST_ENERGIES = 4, 2
BOND_LENGTH = 1.2  # atoms nearer than this many sums of their covalent radii are drawn as bonded


def viewer_data(runs: Sequence[Run]) -> dict[str, Any] | None:
    """What the page's script shows; None if no run has predictions.

    Structures are chosen by the errors of the first run that was evaluated; other runs add their forces where
    they have predicted the same structure.
    """
    shown = with_evaluation(runs)
    if not shown:
        return None
    chooser, first = shown[0]
    rows = {k: {str(name): i for i, name in enumerate(evaluation.predictions["ids"])} for k, evaluation in shown}
    structures = [
        _structure(first, i)
        | {"reason": reason, "predicted": {str(k): _prediction(other, rows[k], first, i) for k, other in shown}}
        for i, reason in _chosen(first)
    ]
    return {
        "reference": REFERENCE,
        "chosenBy": runs[chooser].name,
        "runs": {str(k): {"name": runs[k].name, "colour": colour_of(k)} for k, _ in shown},
        "elements": {symbol: _element(symbol) for structure in structures for symbol in structure["symbols"]},
        "structures": structures,
    }


def safe_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it closes the element or opens another."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def bonds(numbers: np.ndarray, positions: np.ndarray) -> list[list[int]]:
    """Pairs of atoms to be drawn as bonded, by their distance in Å and their covalent radii."""
    radii = covalent_radii[numbers]
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    bonded = np.triu(distance < BOND_LENGTH * (radii[:, None] + radii[None]), 1)
    return np.argwhere(bonded).tolist()


def _chosen(evaluation: Evaluation) -> list[tuple[int, str]]:
    arrays = evaluation.predictions
    by_force = np.argsort(-force_error_sums(evaluation) / arrays["natoms"], kind="stable")
    by_energy = np.argsort(-np.abs(arrays["energy"] - arrays["reference_energy"]) / arrays["natoms"], kind="stable")
    wanted = [(i, "large force error") for i in by_force[:WORST_FORCES]]
    wanted += [(i, "large energy error") for i in by_energy[:WORST_ENERGIES]]
    wanted += [(by_force[len(by_force) // 2], "typical force error"), (by_force[-1], "smallest force error")]
    chosen: dict[int, str] = {}
    for i, reason in wanted:
        chosen.setdefault(int(i), reason)
    return list(chosen.items())


def _element(symbol: str) -> dict[str, Any]:
    """Radius (Å) and colour of its balls; hydrogen is not as small beside the others as it really is."""
    number = ELEMENTS.index(symbol)
    colour = (255 * jmol_colors[number]).round().astype(int).tolist()
    return {"radius": round(0.15 + 0.3 * float(covalent_radii[number]), 3), "colour": colour}


def _structure(evaluation: Evaluation, i: int) -> dict[str, Any]:
    arrays, atoms = evaluation.predictions, _atoms(evaluation, i)
    symbols = [ELEMENTS[z] for z in arrays["numbers"][atoms]]
    return {
        "id": str(arrays["ids"][i]),
        "domain": str(arrays["domain"][i]),
        "formula": Formula.from_list(symbols).format("hill"),
        "symbols": symbols,
        "positions": _rounded(arrays["positions"][atoms]),
        "bonds": bonds(arrays["numbers"][atoms], arrays["positions"][atoms]),
        "forces": _rounded(arrays["reference_forces"][atoms]),
    }


def _prediction(evaluation: Evaluation, rows: dict[str, int], chosen_from: Evaluation, i: int) -> dict[str, Any] | None:
    """Forces and errors of the run for structure `i` of `chosen_from`; None if it has not predicted it."""
    j = i if evaluation is chosen_from else rows.get(str(chosen_from.predictions["ids"][i]))
    if j is None:
        return None
    arrays, atoms = evaluation.predictions, _atoms(evaluation, j)
    positions, expected = arrays["positions"][atoms], chosen_from.predictions["positions"][_atoms(chosen_from, i)]
    if positions.shape != expected.shape or not np.allclose(positions, expected, atol=1e-4):
        return None
    error = np.abs(arrays["forces"][atoms] - arrays["reference_forces"][atoms]).mean()
    energy = (arrays["energy"][j] - arrays["reference_energy"][j]) / arrays["natoms"][j]
    return {
        "forces": _rounded(arrays["forces"][atoms]),
        "forceError": f"{1e3 * error:.1f}",
        "energyError": f"{1e3 * energy:+.2f}",
    }


def _atoms(evaluation: Evaluation, i: int) -> slice:
    counts = evaluation.predictions["natoms"]
    begin = int(counts[:i].sum())
    return slice(begin, begin + int(counts[i]))


def _rounded(values: np.ndarray) -> list[list[float]]:
    return values.astype(float).round(4).tolist()
