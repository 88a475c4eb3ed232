"""What must hold for any weights: exact symmetries, consistent derivatives, no leaks between molecules."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch, segment_sum
from transip.config import ModelSettings
from transip.model.attention import Attention
from transip.model.potential import Potential
from transip.structure import Structure

KINDS = [(preset, forces) for preset in ("default", "paper") for forces in ("direct", "conservative")]
GRADIENT = [kind for kind in KINDS if kind[1] == "conservative"]
F64 = torch.float64
seeds, sizes = st.integers(0, 10_000), st.integers(1, 9)
quick = settings(max_examples=5, deadline=None)


def collate(*structures: Structure, dtype: torch.dtype = F64) -> Batch:
    return Batch.collate(structures, dtype)


@torch.no_grad()
def predict(model: Potential, *structures: Structure) -> tuple[torch.Tensor, torch.Tensor]:
    prediction = model(collate(*structures))
    return prediction.energy, prediction.forces


def close(a: torch.Tensor, b: torch.Tensor, atol: float = 1e-8) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryModel:
    @quick
    @given(counts=st.lists(sizes, min_size=2, max_size=4), seed=seeds)
    def test_a_batch_gives_what_its_structures_give_alone(self, make_model, make_structure, kind, counts, seed):
        model = make_model(*kind)
        structures = [make_structure(count, seed + i) for i, count in enumerate(counts)]
        energy, forces = predict(model, *structures)
        alone = [predict(model, structure) for structure in structures]
        close(energy, torch.cat([e for e, _ in alone]))
        close(forces, torch.cat([f for _, f in alone]))

    @quick
    @given(count=sizes, padding=st.integers(1, 20), seed=seeds)
    def test_padding_changes_nothing(self, make_model, make_structure, kind, count, padding, seed):
        batch = collate(make_structure(count, seed), make_structure(3, seed))
        with torch.no_grad():
            plain, padded = (
                make_model(*kind)(b) for b in (batch, replace(batch, max_num_atoms=batch.max_num_atoms + padding))
            )
        close(plain.energy, padded.energy)
        close(plain.forces, padded.forces)

    @quick
    @given(count=sizes, seed=seeds)
    def test_order_of_atoms_does_not_matter(self, make_model, make_structure, kind, count, seed):
        model, structure = make_model(*kind), make_structure(count, seed)
        order = np.random.default_rng(seed).permutation(count)
        shuffled = replace(structure, numbers=structure.numbers[order], positions=structure.positions[order])
        (energy, forces), (other_energy, other_forces) = predict(model, structure), predict(model, shuffled)
        close(energy, other_energy)
        close(forces[order], other_forces)

    @quick
    @given(count=sizes, seed=seeds, shift=st.tuples(*[st.floats(-50, 50)] * 3))
    def test_place_in_space_does_not_matter(self, make_model, make_structure, kind, count, seed, shift):
        model, structure = make_model(*kind), make_structure(count, seed)
        moved = replace(structure, positions=structure.positions + np.array(shift))
        (energy, forces), (other_energy, other_forces) = predict(model, structure), predict(model, moved)
        close(energy, other_energy)
        close(forces, other_forces)

    @quick
    @given(count=sizes, seed=seeds)
    def test_the_net_force_is_zero(self, make_model, make_structure, kind, count, seed):
        _, forces = predict(make_model(*kind), make_structure(count, seed))
        close(forces.sum(0), torch.zeros(3, dtype=F64))

    def test_molecules_of_a_batch_do_not_see_each_other(self, make_model, make_structure, kind):
        batch = collate(make_structure(5), make_structure(3), make_structure(7))
        positions = batch.positions.requires_grad_()
        prediction = make_model(*kind)(replace(batch, positions=positions))
        mine = batch.structure_index == 1
        for value in (prediction.energy[1], prediction.forces[mine].square().sum()):
            (gradient,) = torch.autograd.grad(value, positions, retain_graph=True)
            assert torch.equal(gradient[~mine], torch.zeros_like(gradient[~mine]))
            assert gradient[mine].abs().max() > 1e-6

    def test_charge_and_multiplicity_change_the_energy(self, make_model, make_structure, kind):
        neutral = make_structure(6, spin=1)
        others = [replace(neutral, charge=-2), replace(neutral, charge=2), replace(neutral, spin=3)]
        energies, _ = predict(make_model(*kind), neutral, *others)
        assert len({round(energy, 6) for energy in energies.tolist()}) == 4

    def test_references_of_charge_and_spin_are_part_of_every_atoms_energy(self, make_model, make_structure, kind):
        """9 eV a charge, 2.5 an unpaired electron, 3 a squared charge: divided evenly, and without forces."""
        model = deepcopy(make_model(*kind))
        structures = [make_structure(4), make_structure(5, charge=-2), make_structure(3, charge=1)]
        batch = collate(*structures)
        with torch.no_grad():
            found = model(batch)
            model.charge_spin_references.zero_()
            without = model(batch)
        energies = [9 * s.charge + 2.5 * (s.spin - 1) + 3 * s.charge**2 for s in structures]
        expected = torch.tensor(energies, dtype=F64)
        close(found.energy - without.energy, expected)
        close(found.atom_energies - without.atom_energies, (expected / batch.atom_counts)[batch.structure_index])
        close(segment_sum(found.atom_energies, batch), found.energy)
        assert torch.equal(found.forces, without.forces)

    def test_totals_near_a_million_keep_their_small_part(self, make_model, make_structure, kind):
        """−10⁶ eV in float32 has steps of 0.06 eV; the references are added in float64."""
        model, structure = make_model(*kind, dtype=torch.float32), make_structure(8)
        with torch.no_grad():
            prediction = model(collate(structure, dtype=torch.float32))
        assert prediction.energy.dtype == model.references.dtype == F64
        small = prediction.atom_energies - model.reference_energies(collate(structure))
        assert small.abs().min() > 1e-6
        torch.testing.assert_close(small, small.float().double(), rtol=0, atol=1e-9)

    def test_float32_agrees_with_float64(self, make_model, make_structure, kind):
        structures = [make_structure(count) for count in (1, 4, 9)]
        with torch.no_grad():
            double = make_model(*kind)(collate(*structures))
            single = make_model(*kind, dtype=torch.float32)(collate(*structures, dtype=torch.float32))
        assert single.forces.dtype == torch.float32
        scale = float(double.forces.abs().mean())
        torch.testing.assert_close(single.energy, double.energy, rtol=0, atol=1e-4)
        torch.testing.assert_close(single.forces.double(), double.forces, rtol=1e-3, atol=1e-3 * scale)

    def test_phases_stay_float32_under_bfloat16_autocast(self, make_model, make_structure, kind):
        model, batch = make_model(*kind, dtype=torch.float32), collate(make_structure(6), dtype=torch.float32)
        seen: list[list[torch.Tensor]] = [[], []]
        attentions = [module for module in model.modules() if isinstance(module, Attention)]
        for views, autocast in zip(seen, (False, True), strict=True):
            hooks = [a.register_forward_pre_hook(lambda _m, given, v=views: v.extend(given[1])) for a in attentions]
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                prediction = model(batch)
            for hook in hooks:
                hook.remove()
        assert len(seen[1]) == 2 * model.settings.depth
        assert all(torch.equal(plain, cast) and cast.dtype == torch.float32 for plain, cast in zip(*seen, strict=True))
        assert prediction.energy.dtype == F64 and prediction.forces.dtype == torch.float32

    @pytest.mark.parametrize("shape", ["atom", "diatomic", "linear", "planar", "on one point of symmetry"])
    def test_special_geometries_have_finite_derivatives(self, make_model, kind, shape):
        positions = {
            "atom": [[0, 0, 0]],
            "diatomic": [[0, 0, 0], [0, 0, 1.1]],
            "linear": [[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]],
            "planar": [[0, 0, 0], [1.1, 0, 0], [-0.55, 0.95, 0], [-0.55, -0.95, 0]],
            "on one point of symmetry": [[0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]],
        }[shape]
        structure = Structure(np.full(len(positions), 6), np.array(positions, dtype=float), 0, 1)
        batch = collate(structure, structure)
        leaf = batch.positions.requires_grad_()
        prediction = make_model(*kind)(replace(batch, positions=leaf))
        assert torch.isfinite(prediction.energy).all() and torch.isfinite(prediction.forces).all()
        (second,) = torch.autograd.grad(prediction.forces.square().sum(), leaf)
        assert torch.isfinite(second).all()
        if len(positions) == 1:
            close(prediction.forces, torch.zeros(2, 3, dtype=F64))

    def test_the_same_in_inference_mode(self, make_model, make_structure, kind):
        model, structures = make_model(*kind), [make_structure(4, 0), make_structure(3, 1)]
        with torch.no_grad():
            expected = model(collate(*structures), (0,))
        outside = collate(*structures)
        with torch.inference_mode():
            for batch in (outside, collate(*structures)):
                found = model(batch, (0,))
                close(found.energy, expected.energy)
                close(found.forces, expected.forces)
                close(found.embeddings[0], expected.embeddings[0])
        assert not found.forces.requires_grad


@pytest.mark.parametrize("kind", GRADIENT)
class TestGradientForces:
    @quick
    @given(count=st.integers(2, 7), seed=seeds)
    def test_forces_are_minus_the_finite_difference_of_the_energy(self, make_model, make_structure, kind, count, seed):
        model, structure = make_model(*kind), make_structure(count, seed)
        direction = np.random.default_rng(seed).normal(size=(count, 3))
        step = 1e-4
        moved = [replace(structure, positions=structure.positions + k * step * direction) for k in (-2, -1, 1, 2)]
        (energy, *_), (_, forces) = predict(model, *moved), predict(model, structure)
        slope = (energy[0] - 8 * energy[1] + 8 * energy[2] - energy[3]) / (12 * step)
        expected = -(forces * torch.from_numpy(direction)).sum()
        torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-4)

    def test_the_same_forces_with_and_without_a_graph(self, make_model, make_structure, kind):
        batch = collate(make_structure(6))
        with torch.no_grad():
            detached = make_model(*kind)(batch)
        assert not detached.forces.requires_grad and not detached.energy.requires_grad
        close(detached.forces, make_model(*kind)(batch).forces)

    def test_training_through_forces_reaches_every_weight(self, make_model, make_structure, kind):
        model = Potential(make_model(*kind).settings, torch.zeros(87, dtype=F64), 1.0).double()
        model.load_state_dict(make_model(*kind).state_dict())
        prediction = model(collate(make_structure(6), make_structure(4)))
        (prediction.forces.square().sum() + prediction.energy.sum()).backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
        assert missing == []


def apart(a: Structure, b: Structure, distance: float) -> Structure:
    positions = np.concatenate([a.positions, b.positions + np.array([distance, 0, 0])])
    return Structure(np.concatenate([a.numbers, b.numbers]), positions, 0, 1)


def test_far_fragments_add_up_while_all_distance_slopes_are_positive(make_model, make_structure):
    """At the start of training, every head of the default preset fades with distance, the slowest by 0.1 per Å."""
    a, b = make_structure(5, spin=1), make_structure(4, spin=1)
    model = make_model()
    (ea, eb, far, near), _ = predict(model, a, b, apart(a, b, 1000.0), apart(a, b, 10.0))
    assert abs(far - ea - eb) < 1e-6
    assert abs(near - ea - eb) > 1e-6


def test_far_fragments_do_not_add_up_in_the_paper_preset(make_model, make_structure):
    """Attention without a distance bias never fades: a documented limit of the plain backbone."""
    a, b = make_structure(5, spin=1), make_structure(4, spin=1)
    (ea, eb, far), _ = predict(make_model("paper"), a, b, apart(a, b, 1000.0))
    assert abs(far - ea - eb) > 1e-3


@pytest.mark.parametrize(
    ("given", "size", "count"),
    [
        ({}, "XS", 204_233),
        ({}, "S", 586_577),
        ({}, "M", 21_873_937),
        ({}, "L", 114_806_785),
        ({"forces": "direct"}, "XS", 217_676),
        ({"forces": "direct"}, "S", 620_756),
        ({"forces": "direct"}, "M", 22_072_980),
        ({"forces": "direct"}, "L", 115_498_884),
        ({"preset": "paper"}, "XS", 125_636),
        ({"preset": "paper"}, "S", 478_532),
        ({"preset": "paper"}, "M", 21_890_692),
        ({"preset": "paper"}, "L", 115_750_660),
    ],
)
def test_parameter_counts_are_those_published(given, size, count):
    with torch.device("meta"):
        architecture = ModelSettings.model_validate({"size": size, **given})
        model = Potential(architecture, torch.zeros(87, dtype=F64), 1.0)
    assert model.num_parameters == count
