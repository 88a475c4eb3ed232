"""Charges and spin populations: they add up, and energies of what is far apart do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch, Prediction, segment_sum
from transip.config import ModelSettings
from transip.errors import InputError
from transip.model.potential import Potential
from transip.structure import Structure

F64 = torch.float64
LITHIUM, SODIUM, CHLORINE = 3, 11, 17
seeds, sizes = st.integers(0, 10_000), st.integers(1, 9)
quick = settings(max_examples=5, deadline=None)


@pytest.fixture(scope="module")
def make_charged():
    """A random model with gradient forces and a cutoff; zeros where training starts from zeros are random, too."""

    def build(charges: str = "local", dtype: torch.dtype = F64, smearing: float | None = None) -> Potential:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            chosen = ModelSettings.model_validate(
                {"size": "XS", "cutoff": 5.0, "charges": charges, "smearing": smearing}
            )
            model = Potential(chosen, torch.zeros(87, dtype=F64), 0.7)
            for parameter in model.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
        return model.to(dtype).eval()

    return build


@torch.no_grad()
def predict(model: Potential, *structures: Structure, dtype: torch.dtype = F64) -> tuple[Prediction, Batch]:
    batch = Batch.collate(structures, dtype)
    return model(batch), batch


def atom(number: int, charge: int = 0, spin: int = 1) -> Structure:
    return Structure(np.array([number]), np.zeros((1, 3)), charge, spin)


@pytest.mark.parametrize("charges", ["output", "local"])
class TestEveryModelWithCharges:
    @quick
    @given(counts=st.lists(sizes, min_size=1, max_size=3), charge=st.integers(-2, 2), seed=seeds)
    def test_charges_and_spin_populations_add_up_to_the_totals(
        self, make_charged, make_structure, charges, counts, charge, seed
    ):
        structures = [make_structure(count, seed + i, charge=charge) for i, count in enumerate(counts)]
        for dtype, tolerance in ((F64, 1e-13), (torch.float32, 1e-5)):
            found, batch = predict(make_charged(charges, dtype), *structures, dtype=dtype)
            for values, total in ((found.charges, batch.charge), (found.spin_populations, batch.spin - 1)):
                torch.testing.assert_close(segment_sum(values, batch), total.to(dtype), rtol=0, atol=tolerance * 10)
        assert (found.spin_populations >= 0).all()

    def test_forces_are_the_derivative_of_the_energy(self, make_charged, make_structure, charges):
        model, structure, step = make_charged(charges), make_structure(6, charge=1), 1e-5
        forces = predict(model, structure)[0].forces
        for index in ((0, 0), (3, 1), (5, 2)):
            ends = []
            for sign in (1, -1):
                moved = structure.positions.copy()
                moved[index] += sign * step
                ends.append(predict(model, replace(structure, positions=moved))[0].energy.item())
            assert forces[index].item() == pytest.approx(-(ends[0] - ends[1]) / (2 * step), abs=1e-6)

    @quick
    @given(count=sizes, seed=seeds)
    def test_order_and_company_do_not_matter(self, make_charged, make_structure, charges, count, seed):
        model, structure = make_charged(charges), make_structure(count, seed, charge=1)
        order = np.random.default_rng(seed).permutation(count)
        shuffled = replace(structure, numbers=structure.numbers[order], positions=structure.positions[order] + 7.0)
        found, (other, _) = predict(model, structure)[0], predict(model, shuffled, make_structure(4, seed))
        for name in ("charges", "spin_populations"):
            torch.testing.assert_close(getattr(found, name)[order], getattr(other, name)[:count], rtol=0, atol=1e-9)
        torch.testing.assert_close(found.energy[0], other.energy[0], rtol=0, atol=1e-9)

    def test_every_parameter_learns(self, make_charged, make_structure, charges):
        model, batch = make_charged(charges), Batch.collate([make_structure(5, charge=1), make_structure(6, 1)], F64)
        found = model(batch)
        (
            found.forces.square().sum() + found.energy.sum() + found.charges.abs().sum() + found.unassigned.sum()
        ).backward()
        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


FRAGMENTS = {
    "ion and molecule": (atom(SODIUM, 1), None),
    "ion pair": (atom(SODIUM, 1), atom(CHLORINE, -1)),
    "radical and molecule": (atom(LITHIUM, 0, 2), None),
    "radical and ion": (atom(LITHIUM, 0, 2), atom(CHLORINE, -1)),
}


@pytest.mark.parametrize("fragments", FRAGMENTS.values(), ids=list(FRAGMENTS))
def test_energies_of_distant_fragments_add_up(make_charged, make_structure, fragments):
    """Where each atom knows its charge; a vector of the total charge, given to all, does not add up."""
    first, second = fragments[0], fragments[1] or make_structure(6, spin=1, seed=2)
    numbers, apart = np.concatenate([first.numbers, second.numbers]), second.positions + np.array([20.0, 0.0, 0.0])
    positions, spin = np.concatenate([first.positions, apart]), first.spin + second.spin - 1
    pair = Structure(numbers, positions, first.charge + second.charge, spin)
    excess = {}
    for charges in ("local", "output"):
        model = make_charged(charges)
        if charges == "local":
            know_charges(model)
        found, _ = predict(model, pair, first, second)
        excess[charges] = abs(found.energy[0] - found.energy[1] - found.energy[2]).item()
        if charges == "local":
            torch.testing.assert_close(found.charges[: len(numbers)], found.charges[len(numbers) :], rtol=0, atol=1e-5)
    assert excess["local"] < 1e-4 < excess["output"]


class TestCoulombEnergy:
    """Of models whose charges are those of distant ions."""

    @pytest.mark.parametrize("distance", [16.0, 40.0])
    def test_ions_attract_each_other_by_the_law_of_coulomb(self, make_charged, distance):
        model = make_charged(smearing=1.5)
        know_charges(model)
        pair = Structure(np.array([SODIUM, CHLORINE]), np.array([[0.0, 0.0, 0.0], [0.0, distance, 0.0]]), 0, 1)
        found, _ = predict(model, pair, atom(SODIUM, 1), atom(CHLORINE, -1))
        interaction = found.energy[0] - found.energy[1] - found.energy[2]
        assert interaction.item() == pytest.approx(-14.3996 / distance, abs=1e-4)
        assert found.forces[1].tolist() == pytest.approx([0, -14.3996 / distance**2, 0], abs=1e-5)

    def test_chunks_change_nothing(self, make_charged, make_structure, monkeypatch):
        model, structures = make_charged(smearing=1.5), [make_structure(9, charge=1), make_structure(5, 1)]
        whole, _ = predict(model, *structures)
        monkeypatch.setattr("transip.model.coulomb.MAX_PAIRS", 40)
        parts, _ = predict(model, *structures)
        torch.testing.assert_close(parts.energy, whole.energy, rtol=0, atol=1e-10)
        torch.testing.assert_close(parts.forces, whole.forces, rtol=0, atol=1e-10)

    def test_of_a_cell_is_refused(self, make_charged, make_structure):
        with pytest.raises(InputError, match="periodic"):
            predict(make_charged(smearing=1.5), replace(make_structure(3), cell=10 * np.eye(3)))

    def test_needs_charges(self):
        with pytest.raises(ValueError, match="smearing"):
            ModelSettings(smearing=2.0)


@torch.no_grad()
def know_charges(model: Potential) -> None:
    """Let sodium be a cation, chlorine an anion, lithium a radical, and all else neutral without unpaired electrons."""
    head = model.backbone.charge_head
    head.mlp[-1].weight.zero_()
    head.mlp[-1].bias.zero_()
    head.element.weight.copy_(torch.tensor([0.0, 0.0, -6.0]))
    head.element.weight[SODIUM, 0], head.element.weight[CHLORINE, 0] = 0.1, -0.1
    head.element.weight[LITHIUM, 2] = 0.4
