"""The fixed repulsion of nuclei: the published function at short distance, nothing beyond bonds."""

import ase.data
import numpy as np
import pytest
import torch

from transip.batch import Batch
from transip.config import ModelSettings
from transip.model.potential import Potential
from transip.structure import Structure

F64 = torch.float64
PAIRS = [("H", "H"), ("H", "C"), ("C", "O"), ("Si", "F"), ("Fe", "O"), ("Cs", "I"), ("Rn", "Rn")]


def dimers(pair: tuple[str, str], lengths: np.ndarray) -> Batch:
    numbers = np.array([ase.data.atomic_numbers[symbol] for symbol in pair])
    places = [np.array([[0.0, 0.0, 0.0], [0.48 * r, 0.6 * r, 0.64 * r]]) for r in lengths]
    return Batch.collate([Structure(numbers, place, 0, 1 + int(numbers.sum()) % 2) for place in places], F64)


def potential(seed: int = 0, **settings: object) -> Potential:
    torch.manual_seed(seed)
    settings = {"size": "XS", "repulsion": True, **settings}
    model = Potential(ModelSettings.model_validate(settings), torch.zeros(87, dtype=F64), 2.0).double().eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


@pytest.mark.parametrize("pair", PAIRS, ids="".join)
def test_the_function_is_zbl_within_bonds_and_nothing_beyond(pair):
    radii = [ase.data.covalent_radii[ase.data.atomic_numbers[symbol]] for symbol in pair]
    bond = min(sum(radii), 4.0)
    lengths = np.array([0.02, 0.05, 0.999, 1.0, 1.1]) * bond
    with_it, without = potential(), potential(repulsion=False)
    without.load_state_dict(with_it.state_dict())
    with torch.no_grad():
        found = with_it(dimers(pair, lengths)).energy - without(dimers(pair, lengths)).energy
    a, b = (ase.data.atomic_numbers[symbol] for symbol in pair)
    x = lengths / (0.46850 / (a**0.23 + b**0.23))
    phi = 0.18175 * np.exp(-3.1998 * x) + 0.50986 * np.exp(-0.94229 * x)
    phi += 0.28022 * np.exp(-0.4029 * x) + 0.02817 * np.exp(-0.20162 * x)
    zbl = 14.399645 * a * b / lengths * phi
    assert found[:2].numpy() == pytest.approx(zbl[:2], rel=5e-3)  # lengths are smoothed by 0.001 Å
    assert 0 < found[2] < 1e-4 * zbl[2] and found[3:].abs().max() < 1e-9


@pytest.mark.parametrize("pair", PAIRS, ids="".join)
@pytest.mark.parametrize("seed", [0, 1])
def test_energies_rise_when_atoms_approach(pair, seed):
    """Whatever an untrained network says."""
    numbers = [ase.data.atomic_numbers[symbol] for symbol in pair]
    bond = min(sum(ase.data.covalent_radii[z] for z in numbers), 4.0)
    with torch.no_grad():
        prediction = potential(seed)(dimers(pair, np.linspace(0.15, 0.45, 40) * bond))
    assert (prediction.energy.diff() < 0).all()
    along = prediction.forces.view(-1, 2, 3)[:, 1] @ torch.tensor([0.48, 0.6, 0.64], dtype=F64)
    assert (along > 0).all()


def test_forces_are_derivatives_and_trainable():
    model, step = potential().requires_grad_(), 1e-6
    lengths = np.array([0.6])
    forces = model(dimers(("C", "O"), lengths)).forces
    slope = [float(model(dimers(("C", "O"), lengths + sign * step)).energy.detach()) for sign in (1, -1)]
    along = forces[1] @ torch.tensor([0.48, 0.6, 0.64], dtype=F64)
    assert float(along) == pytest.approx(-(slope[0] - slope[1]) / (2 * step), rel=1e-6)
    (gradient,) = torch.autograd.grad(forces.square().sum(), model.energy_head.mlp[0].weight)
    assert gradient.abs().max() > 0


def test_direct_forces_exclude_it():
    with pytest.raises(ValueError, match="direct forces"):
        ModelSettings.model_validate({"repulsion": True, "forces": "direct"})
