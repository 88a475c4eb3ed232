from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch, Prediction
from transip.errors import InputError
from transip.metrics.errors import METRICS, TERMS, per_structure_errors, reduce_metrics
from transip.quantities import DIPOLE_MAE
from transip.structure import Structure

sizes = st.lists(st.integers(1, 7), min_size=1, max_size=9)


def structures(counts: list[int], generator: np.random.Generator) -> list[Structure]:
    return [
        Structure(
            numbers=np.ones(n, dtype=np.int64),
            positions=generator.normal(size=(n, 3)),
            charge=0,
            spin=1,
            energy=float(generator.normal() * 1e5),
            forces=generator.normal(size=(n, 3)),
        )
        for n in counts
    ]


def predicted(batch: Batch, noise: float, generator: np.random.Generator) -> Prediction:
    assert batch.energy is not None and batch.forces is not None
    energy = batch.energy + noise * torch.from_numpy(generator.normal(size=len(batch)))
    forces = batch.forces + noise * torch.from_numpy(generator.normal(size=(batch.num_atoms, 3)))
    return Prediction(energy, torch.zeros(batch.num_atoms, dtype=torch.float64), forces)


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(0, 1000), st.sampled_from([0.01, 1.0]))
def test_metrics_equal_their_definitions_on_uneven_structures(counts: list[int], seed: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    batch = Batch.collate(structures(counts, generator), dtype=torch.float64)
    prediction = predicted(batch, noise, generator)
    assert batch.energy is not None and batch.forces is not None

    energy_error = (prediction.energy - batch.energy).numpy()
    found, true, n = prediction.forces.numpy(), batch.forces.numpy(), np.array(counts)
    norms = np.linalg.norm(found, axis=1), np.linalg.norm(true, axis=1)
    largest = [np.abs(part).max() for part in np.split(found - true, np.cumsum(n)[:-1])]
    expected = {
        "energy_mae": np.abs(energy_error).mean(),
        "energy_mae_per_atom": np.abs(energy_error / n).mean(),
        "energy_rmse_per_atom": np.sqrt(((energy_error / n) ** 2).mean()),
        "force_mae": np.abs(found - true).mean(),
        "force_rmse": np.sqrt(((found - true) ** 2).mean()),
        "force_cosine": ((found * true).sum(1) / (norms[0] * norms[1])).mean(),
        "force_magnitude_error": np.abs(norms[0] - norms[1]).mean(),
        "efwt": np.mean((np.abs(energy_error) < 0.02) & (np.array(largest) < 0.03)),
        "structures": len(n),
        "atoms": n.sum(),
    }
    assert reduce_metrics(per_structure_errors(batch, prediction).sum(0)) == pytest.approx(expected, rel=1e-9)
    assert tuple(expected) == METRICS


@settings(deadline=None, max_examples=30)
@given(sizes, st.data())
def test_parts_add_up_to_the_whole(counts: list[int], data: st.DataObject) -> None:
    generator = np.random.default_rng(len(counts))
    whole = structures(counts, generator)
    cut = data.draw(st.integers(0, len(counts)))
    batch = Batch.collate(whole)
    prediction = predicted(batch, 0.1, generator)
    sums, atoms = torch.zeros(len(TERMS), dtype=torch.float64), sum(counts[:cut])
    for own, each in ((slice(cut), slice(atoms)), (slice(cut, None), slice(atoms, None))):
        if whole[own]:
            share = Prediction(prediction.energy[own], prediction.atom_energies[each], prediction.forces[each])
            sums += per_structure_errors(Batch.collate(whole[own]), share).sum(0)
    expected = reduce_metrics(per_structure_errors(batch, prediction).sum(0))
    assert reduce_metrics(sums) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(sizes, st.integers(0, 1000))
def test_charges_and_dipoles_are_compared_where_there_are_labels(counts: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    labelled = [
        replace(structure, charges=generator.normal(size=len(structure)), dipole=generator.normal(size=3))
        if i % 2 == 0
        else structure
        for i, structure in enumerate(structures(counts, generator))
    ]
    batch = Batch.collate(labelled, dtype=torch.float64)
    charges, populations = torch.from_numpy(generator.normal(size=(2, batch.num_atoms)))
    dipole = torch.from_numpy(generator.normal(size=(len(batch), 3)))
    both = {"charges": charges, "spin_populations": populations, "dipole": dipole}
    prediction = replace(predicted(batch, 0.1, generator), **both)
    metrics = reduce_metrics(per_structure_errors(batch, prediction).sum(0))
    parts = [part.numpy() for part in charges.split(counts)]
    errors = [part - one.charges for part, one in zip(parts, labelled, strict=True) if one.charges is not None]
    lengths = [
        np.linalg.norm(dipole[i].numpy() - one.dipole) for i, one in enumerate(labelled) if one.dipole is not None
    ]
    assert metrics["charge_mae"] == pytest.approx(np.abs(np.concatenate(errors)).mean())
    assert metrics["dipole_mae"] == pytest.approx(np.mean(lengths))
    assert "spin_population_mae" not in metrics and "stress_mae" not in metrics
    assert DIPOLE_MAE.value({"dipole_mae": 1.0}) == pytest.approx(4.803, abs=1e-3)
    bare = reduce_metrics(per_structure_errors(batch, predicted(batch, 0.1, generator)).sum(0))
    assert tuple(bare) == METRICS


def test_a_perfect_prediction_has_no_error_and_cosine_one() -> None:
    generator = np.random.default_rng(0)
    batch = Batch.collate(structures([3, 1, 5], generator))
    found = reduce_metrics(per_structure_errors(batch, predicted(batch, 0.0, generator)).sum(0))
    assert found["energy_mae"] == found["force_mae"] == found["force_magnitude_error"] == 0
    assert found["efwt"] == 1
    assert found["force_cosine"] == pytest.approx(1)


def test_nothing_counted_is_not_a_number() -> None:
    found = reduce_metrics(torch.zeros(len(TERMS), dtype=torch.float64))
    assert found["structures"] == 0
    assert np.isnan(found["force_mae"])


def test_labels_are_required() -> None:
    structure = Structure(np.array([1], dtype=np.int64), np.zeros((1, 3)), charge=0, spin=2)
    batch = Batch.collate([structure])
    zero = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(InputError, match="no energies and forces"):
        per_structure_errors(batch, Prediction(zero, zero, torch.zeros(1, 3)))
