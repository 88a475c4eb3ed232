"""What the tests of model and calculators leave open: odd molecules, extreme charges, all elements, great energies.

Where a tolerance stands here, docs/explanation/promises.md states it.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from transip.batch import Batch
from transip.data.dataset import Dataset
from transip.data.references import AtomicReferences, statistics
from transip.data.store import write_pack
from transip.inference.ase import TransIPCalculator
from transip.inference.predict import predict_batch
from transip.model.files import load_model
from transip.structure import MAX_ATOMIC_NUMBER, Structure

KINDS = [(preset, forces) for preset in ("default", "paper") for forces in ("direct", "conservative")]
GOLDEN = Path(__file__).parents[1] / "golden/model-format-1"
F32, F64 = torch.float32, torch.float64
MILLION = 1e6  # eV

SHAPES = {
    "atom": [[0, 0, 0]],
    "diatomic": [[0, 0, 0], [0, 0, 1.1]],
    "diatomic, nearly broken": [[0, 0, 0], [0, 0, 30.0]],
    "diatomic, as close as may be": [[0, 0, 0], [0, 0, 0.41]],
    "linear": [[0, 0, 1.2 * k] for k in range(-3, 4)],
    "planar": [[1.4 * np.cos(a), 1.4 * np.sin(a), 0] for a in np.arange(6) * np.pi / 3],
}


def molecule(positions: object, numbers: object = 6, charge: int = 0) -> Structure:
    """Elements `numbers` at `positions`, of the lowest multiplicity."""
    positions = np.array(positions, dtype=float)
    numbers = np.broadcast_to(numbers, len(positions)).astype(np.int64)
    return Structure(numbers, positions, charge, 1 + int(numbers.sum() - charge) % 2).check()


@torch.no_grad()
def predicted(model, *structures: Structure, dtype: torch.dtype = F64) -> tuple[torch.Tensor, torch.Tensor]:
    prediction = model(Batch.collate(structures, dtype))
    return prediction.energy, prediction.forces.double()


def turned(structure: Structure) -> Structure:
    """In no special direction: axes and planes of symmetry then are nobody's coordinate axes."""
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    return replace(structure, positions=structure.positions @ q.T + 3.0)


def float32_errors(make_model, kind, *structures: Structure) -> tuple[float, float]:
    """Largest error of float32 in energy (eV per atom) and in forces (relative to the largest force, or eV/Å)."""
    energy, forces = predicted(make_model(*kind), *structures)
    single_energy, single_forces = predicted(make_model(*kind, dtype=F32), *structures, dtype=F32)
    counts = torch.tensor([len(s) for s in structures])
    scale = max(1.0, float(forces.abs().max()))
    assert torch.isfinite(energy).all() and torch.isfinite(forces).all()
    return float(((single_energy - energy).abs() / counts).max()), float((single_forces - forces).abs().max()) / scale


@pytest.mark.parametrize("kind", KINDS)
def test_odd_molecules_in_float32(make_model, kind):
    structures = [place(molecule(x)) for x in SHAPES.values() for place in (lambda s: s, turned)]
    energy, forces = float32_errors(make_model, kind, *structures)
    assert energy < 1e-4 and forces < 1e-4


@pytest.mark.parametrize("shape", [name for name, x in SHAPES.items() if len(x) > 1])
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_gradient_forces_of_odd_molecules_are_the_finite_difference(make_model, preset, shape):
    model, structure = make_model(preset, "conservative"), turned(molecule(SHAPES[shape]))
    direction = np.random.default_rng(1).normal(size=structure.positions.shape)
    moved = [replace(structure, positions=structure.positions + k * 1e-4 * direction) for k in (-2, -1, 1, 2)]
    (energy, _), (_, forces) = predicted(model, *moved), predicted(model, structure)
    slope = float(energy[0] - 8 * energy[1] + 8 * energy[2] - energy[3]) / 12e-4
    expected = -float((forces * torch.from_numpy(direction)).sum())
    assert slope == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_elements(make_model, kind):
    """Each has an embedding of its own, and none is worse in float32."""
    hydrides = [molecule([[0, 0, 0], [0, 0, 1.6]], [z, 1]) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    energy, forces = float32_errors(make_model, kind, *hydrides)
    assert energy < 1e-4 and forces < 1e-4
    energies, _ = predicted(make_model(*kind), *hydrides)
    learned = energies + 1000.0 * torch.tensor([int(s.numbers.sum()) for s in hydrides])  # without the references
    assert len({round(x, 9) for x in learned.tolist()}) == MAX_ATOMIC_NUMBER


@pytest.mark.parametrize("kind", KINDS)
def test_charges_to_ten(make_model, make_structure, kind):
    ions = [replace(make_structure(12, charge=q), charge=q) for q in range(-10, 11)]
    energy, forces = float32_errors(make_model, kind, *ions)
    assert energy < 1e-4 and forces < 1e-4
    assert len({round(x, 9) for x in predicted(make_model(*kind), *ions)[0].tolist()}) == 21


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_a_thousand_atoms(make_model, forces):
    """On a lattice of 1.5 Å, shaken; in float32, elsewhere and in another order."""
    generator = np.random.default_rng(0)
    positions = 1.5 * np.stack(np.meshgrid(*[np.arange(10.0)] * 3), -1).reshape(-1, 3)
    structure = molecule(positions + generator.uniform(-0.2, 0.2, (1000, 3)), generator.choice([1, 6, 7, 8], 1000))
    order = generator.permutation(1000)
    shuffled = replace(structure, numbers=structure.numbers[order], positions=structure.positions[order] - 7.0)
    energy, found = predicted(make_model("default", forces), structure)
    single_energy, single = predicted(make_model("default", forces, F32), shuffled, dtype=F32)
    assert abs(float(single_energy - energy)) / 1000 < 1e-4
    assert (single - found[order]).abs().max() < 1e-3 * found.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_company_order_and_padding_in_float32(make_model, make_structure, kind):
    """Kernels add in another order when a batch has another shape: rounding, and nothing more."""
    model, structures = make_model(*kind, dtype=F32), [make_structure(n, seed=n) for n in (3, 1, 17, 8)]
    alone = [predicted(model, s, dtype=F32) for s in structures]
    scale = max(float(forces.abs().max()) for _, forces in alone)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 2, 0]):
        energy, forces = predicted(model, *[structures[k] for k in order], dtype=F32)
        torch.testing.assert_close(energy, torch.cat([alone[k][0] for k in order]), rtol=0, atol=2e-4)
        torch.testing.assert_close(forces, torch.cat([alone[k][1] for k in order]), rtol=0, atol=1e-4 * scale)


def test_calculator_and_batches_agree(make_structure):
    """The committed, trained model: one molecule through ASE, and among others through `transip predict`."""
    calculator, model = TransIPCalculator(GOLDEN, unseen="ignore"), load_model(GOLDEN)
    structures = [make_structure(n, seed=n) for n in (2, 9, 5)]
    for structure, found in zip(structures, predict_batch(model, structures), strict=True):
        atoms = structure.to_atoms()
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(found.energy, rel=0, abs=1e-5)
        np.testing.assert_allclose(atoms.get_forces(), found.forces, rtol=0, atol=1e-5 * np.abs(found.forces).max())


# ---------------------------------------------------------------------------------------------- great energies


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, np.ndarray]:
    """A pack of molecules with gold near −10⁶ eV, and the microelectronvolts by which they differ."""
    generator, structures = np.random.default_rng(0), []
    small = 1e-6 * generator.integers(-500_000, 500_000, 60)
    for i, energy in enumerate(small):
        gold, hydrogen = 1 + i % 3, 1 + i % 5
        positions = 2.0 * np.arange(gold + hydrogen)[:, None] * np.ones(3)
        one = molecule(positions, [79] * gold + [1] * hydrogen)
        total = -MILLION * gold - 13.6 * hydrogen + energy
        structures.append(replace(one, energy=float(total), forces=np.zeros_like(positions)))
    path = tmp_path_factory.mktemp("heavy") / "x.pack"
    write_pack(path, structures, level_of_theory="made up")
    return Dataset.open([path]), small


def test_great_energies_are_stored_and_referenced_without_loss(heavy):
    """A float64 near 10⁶ has steps of 10⁻¹⁰: a microelectronvolt survives packing, fitting and taking away."""
    dataset, small = heavy
    batch = dataset.get_batch(range(len(dataset)))
    given = AtomicReferences.from_symbols({"Au": -MILLION, "H": -13.6}, dataset, remedy="")
    left = batch.energy.numpy() - given.energy(batch)
    np.testing.assert_allclose(left, small, rtol=0, atol=1e-8)
    fitted = AtomicReferences.fit(dataset, terms=())
    counts = np.array([[(dataset[i].numbers == z).sum() for z in (79, 1)] for i in range(len(dataset))])
    expected, *_ = np.linalg.lstsq(counts, small, rcond=None)
    assert fitted.values[79] + MILLION == pytest.approx(expected[0], abs=1e-8)
    assert fitted.values[1] + 13.6 == pytest.approx(expected[1], abs=1e-8)
    per_atom = (small - counts @ expected) / counts.sum(1)
    assert statistics(dataset, fitted)["energy_std"] == pytest.approx(per_atom.std(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_great_references_do_not_blur_a_potential(make_model, make_structure, kind):
    """The same network in float32 with references near −10⁶ eV and without: they differ by the references alone."""
    plain, shaken = make_structure(8), make_structure(8)
    shaken = replace(shaken, positions=shaken.positions + 1e-3)
    model = make_model(*kind, dtype=F32)
    energy = predicted(model, plain, shaken, dtype=F32)[0]
    reference = model.references[torch.from_numpy(plain.numbers)].sum()
    kept = model.references.clone()
    try:
        model.references.fill_(-MILLION)
        great = predicted(model, plain, shaken, dtype=F32)[0]
    finally:
        model.references.copy_(kept)
    torch.testing.assert_close(great + 8 * MILLION, energy - reference, rtol=0, atol=1e-8)


# ---------------------------------------------------------------------------------------------- determinism

SCRIPT = """
import hashlib, sys, torch
from pathlib import Path
from transip.batch import Batch
from transip.data.dataset import Dataset
from transip.model.files import load_model
torch.set_num_threads(1)
model, data = load_model(sys.argv[1]), Dataset.open([sys.argv[2]])
with torch.no_grad():
    found = model(data.get_batch(range(len(data))))
print(hashlib.sha256(found.energy.numpy().tobytes() + found.forces.numpy().tobytes()).hexdigest())
"""


def test_the_same_bits_in_every_process(toy_packs):
    """On a CPU with one thread, whatever the hash seed and whatever ran before."""
    found = set()
    for seed in ("0", "1"):
        command = [sys.executable, "-c", SCRIPT, str(GOLDEN), str(toy_packs[1])]
        environment = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1 and len(found.pop().strip()) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_twice(make_model, make_structure, kind):
    model, structures = make_model(*kind, dtype=F32), [make_structure(n) for n in (5, 2, 9)]
    (energy, forces), (again, once_more) = (predicted(model, *structures, dtype=F32) for _ in range(2))
    assert torch.equal(energy, again) and torch.equal(forces, once_more)
