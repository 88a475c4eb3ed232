"""Training on crystals: labels of energy, forces and stress are learned together."""

from dataclasses import replace

import ase
import numpy as np
import pytest
from ase.calculators.morse import MorsePotential

from toy import read_metrics, toy_recipe
from transip.config import BatchSettings
from transip.data.dataset import Dataset
from transip.data.store import write_pack
from transip.errors import InputError
from transip.evaluation.saved import evaluate
from transip.model.files import load_model
from transip.structure import Structure
from transip.training.trainer import train


def crystal(seed: int, stress: bool = True) -> Structure:
    """A strained, shaken cell of two to four atoms, labelled with a Morse potential."""
    generator = np.random.default_rng(seed)
    cell = 3.0 * np.diag([1.0, 1.0, 1.0 + seed % 2]) @ (np.eye(3) + generator.normal(scale=0.03, size=(3, 3)))
    count = 2 + 2 * (seed % 2)
    fractions = [[0, 0, 0], [0.5, 0.5, 0.25], [0, 0, 0.5], [0.5, 0.5, 0.75]][:count]
    atoms = ase.Atoms(numbers=[10, 18, 10, 18][:count], scaled_positions=fractions, cell=cell, pbc=True)
    atoms.rattle(0.08, rng=generator)
    atoms.calc = MorsePotential(epsilon=0.3, r0=2.6, rho0=4.0, rcut1=3.5, rcut2=4.5)
    return Structure(
        np.array(atoms.numbers), atoms.positions, 0, 1, atoms.get_potential_energy(), atoms.get_forces(),
        cell=atoms.cell.array, stress=atoms.get_stress(voigt=False) if stress else None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crystals")
    for name, seeds in (("train", range(60)), ("validation", range(100, 112))):
        crystals = [crystal(seed, stress=seed % 3 > 0) for seed in seeds]
        write_pack(folder / f"{name}.pack", crystals, level_of_theory="Morse")
    return folder / "train.pack", folder / "validation.pack"


CUTOFF = {"model.cutoff": 5.0, "model.forces": "conservative"}


def test_stress_is_learned(packs, tmp_path):
    errors = {}
    for weight in (0.0, 1.0):
        changes = {"training.steps": 60, "training.log_every": 10, "objective.stress_weight": weight}
        model = load_model(train(toy_recipe(packs, CUTOFF | changes), tmp_path / str(weight), progress=False))
        found = evaluate(model, Dataset.open(packs[1:]), batch=BatchSettings(), symmetry=False, progress=False)
        errors[weight] = found.overall["stress_mae"]
        assert "Stress MAE" in str(found.table().caption)
        losses = [line.get("stress_loss") for line in read_metrics(tmp_path / str(weight), "train")]
        assert all(losses) if weight else set(losses) == {None}  # a term without weight is no term
    labels = Dataset.open(packs[1:]).get_batch(range(12)).stress
    spread = float((labels - labels.nanmean(0)).abs().nanmean())
    assert errors[1.0] < 0.8 * errors[0.0] and errors[1.0] < 0.8 * spread


def test_molecules_and_crystals_train_together(packs, toy_packs, tmp_path):
    folder = tmp_path / "mixed.pack"
    molecules = Dataset.open(toy_packs[:1])
    mixed = [molecules[i] for i in range(20)] + [crystal(seed) for seed in range(20)]
    write_pack(folder, [replace(s, source="") for s in mixed], level_of_theory="any")
    recipe = toy_recipe((folder, folder), {**CUTOFF, "training.steps": 3})
    with pytest.warns(match="composition"):
        train(recipe, tmp_path / "run", progress=False)
    assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path / "run", "train"))


def test_crystals_need_a_cutoff_and_torques(packs, tmp_path):
    with pytest.raises(InputError, match=r"set model\.cutoff"):
        train(toy_recipe(packs), tmp_path / "a", progress=False)
    with pytest.raises(InputError, match="equigrad"):
        train(toy_recipe(packs, {**CUTOFF, "objective.equigrad_weight": 0.1}), tmp_path / "b", progress=False)
