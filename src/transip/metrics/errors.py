"""Errors of what is predicted as exact sums: independent of how structures fall into batches or processes."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn import functional

from transip.batch import PER_ATOM, Batch, Prediction, segment_sum
from transip.errors import InputError
from transip.quantities import CHARGE_MAE, DIPOLE_MAE, SPIN_POPULATION_MAE, STRESS_MAE

Metrics = dict[str, int | float]

# Both within: "energy and forces within threshold", as fairchem's evaluator has it.
ENERGY_THRESHOLD, FORCE_THRESHOLD = 0.02, 0.03  # eV, eV/Å

OPTIONAL_METRICS = {  # of labels that not all structures have
    "stress": STRESS_MAE.key,
    "charges": CHARGE_MAE.key,
    "spin_populations": SPIN_POPULATION_MAE.key,
    "dipole": DIPOLE_MAE.key,
}
TERMS = (
    "structures",
    "atoms",
    "energy",
    "energy_per_atom",
    "energy_per_atom_squared",
    "force",
    "force_squared",
    "cosine",
    "magnitude",
    "within",
    *(term for name in OPTIONAL_METRICS for term in (name, f"{name}_labels")),
)
METRICS = (
    "energy_mae",
    "energy_mae_per_atom",
    "energy_rmse_per_atom",
    "force_mae",
    "force_rmse",
    "force_cosine",
    "force_magnitude_error",
    "efwt",
    "structures",
    "atoms",
)


def per_structure_errors(batch: Batch, prediction: Prediction) -> Float64[Tensor, "structures terms"]:
    """What each structure adds to the sums `TERMS`, of which every metric is a quotient.

    Raises:
        InputError: the batch has no energies or no forces to compare with.
    """
    if batch.energy is None or batch.forces is None:
        raise InputError("has no energies and forces to compare with", remedy="evaluate on labelled structures")
    predicted, true = prediction.forces.detach().double(), batch.forces.double()
    energy = (prediction.energy.detach() - batch.energy).abs()
    per_atom = energy / batch.atom_counts
    error = (predicted - true).abs()
    atoms = torch.stack(
        [
            error.sum(-1),
            error.square().sum(-1),
            functional.cosine_similarity(predicted, true, dim=-1),
            (predicted.norm(dim=-1) - true.norm(dim=-1)).abs(),
            (error >= FORCE_THRESHOLD).any(-1).double(),
        ],
        -1,
    )
    force, force_squared, cosine, magnitude, outside = segment_sum(atoms, batch).unbind(-1)
    within = ((energy < ENERGY_THRESHOLD) & (outside == 0)).double()
    columns = (torch.ones_like(energy), batch.atom_counts.double(), energy, per_atom, per_atom.square())
    optional = [column for name in OPTIONAL_METRICS for column in _optional_errors(name, batch, prediction)]
    return torch.stack([*columns, force, force_squared, cosine, magnitude, within, *optional], -1)


def _optional_errors(name: str, batch: Batch, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Sum of errors and number of labels `name` in each structure, (structures,); zeros where there are none."""
    predicted, true = getattr(prediction, name), getattr(batch, name)
    if predicted is None or true is None:
        none = torch.zeros_like(batch.atom_counts, dtype=torch.float64)
        return none, none
    difference = predicted.detach().double() - true.double()
    if name == "dipole":  # the length of a vector, which does not depend on how the molecule lies
        error = difference.norm(dim=-1)
    else:
        error = difference.abs().flatten(1).mean(1) if name == "stress" else difference.abs()
    counted = torch.stack([error.nan_to_num(nan=0.0), (~error.isnan()).double()], -1)
    errors, labels = (segment_sum(counted, batch) if name in PER_ATOM else counted).unbind(-1)
    return errors, labels


def reduce_metrics(sums: Float64[Tensor, "terms"]) -> Metrics:
    """Metrics from sums of `per_structure_errors` over structures; energies in eV, forces in eV/Å.

    Returns:
        ``energy_mae`` (of totals), ``energy_mae_per_atom`` and ``energy_rmse_per_atom`` (mean over structures of
        ΔE/N), ``force_mae`` and ``force_rmse`` (over the 3N components of all atoms), ``force_cosine`` and
        ``force_magnitude_error`` (mean over atoms), ``efwt`` (share of structures with |ΔE| < 0.02 eV and every
        force component within 0.03 eV/Å), ``structures``, ``atoms``; of what both labels and predictions have also
        ``stress_mae`` (eV/Å³, over the nine components), ``charge_mae`` (e) and ``spin_population_mae`` (over atoms),
        ``dipole_mae`` (e·Å, mean length of the error vector). Not a number where nothing was counted.
    """
    total = dict(zip(TERMS, sums.tolist(), strict=True))
    nothing = float("nan")
    structures, atoms = total["structures"] or nothing, total["atoms"] or nothing
    optional = {key: (total[name], total[f"{name}_labels"]) for name, key in OPTIONAL_METRICS.items()}
    return {
        "energy_mae": total["energy"] / structures,
        "energy_mae_per_atom": total["energy_per_atom"] / structures,
        "energy_rmse_per_atom": (total["energy_per_atom_squared"] / structures) ** 0.5,
        "force_mae": total["force"] / (3 * atoms),
        "force_rmse": (total["force_squared"] / (3 * atoms)) ** 0.5,
        "force_cosine": total["cosine"] / atoms,
        "force_magnitude_error": total["magnitude"] / atoms,
        "efwt": total["within"] / structures,
        "structures": int(total["structures"]),
        "atoms": int(total["atoms"]),
        **{key: value / labels for key, (value, labels) in optional.items() if labels},
    }
