"""Terms of the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch
from transip.config import LatentSettings, ObjectiveSettings
from transip.rotations import random_rotations, rotate
from transip.training.losses import Losses, Objective, Share, norm, not_finite, rotation_gradient, warm

F64 = torch.float64


def labelled(make_structure, *counts: int) -> Batch:
    generator = np.random.default_rng(0)
    structures = [
        make_structure(count, energy=-1000.0 * count + i, forces=generator.normal(size=(count, 3)))
        for i, count in enumerate(counts)
    ]
    return Batch.collate(structures, F64)


def turns(views: int, structures: int) -> torch.Tensor:
    flat = random_rotations(views * structures, torch.Generator().manual_seed(1), F64)
    return flat.view(views, structures, 3, 3)


@pytest.mark.parametrize("forces", ["direct", "gradient"])
def test_terms_are_those_of_the_formula(make_model, make_structure, forces):
    """L = w_E |ΔE| / N / s + w_F mean_i ‖ΔF_i‖₂ / s, over both views."""
    model, batch, orientations = make_model(forces=forces, scale=0.5), labelled(make_structure, 5, 3, 1), turns(2, 3)
    built = Objective(model, ObjectiveSettings(energy=3.0, forces=2.0, views=2, second_view=0.67))
    losses: Losses = built(batch, orientations, 2, Share(5, 17, 2), 0.0)
    energy, force = [], []
    for view, number in zip(orientations, (3, 2), strict=True):
        for i in range(number):
            atoms = batch.structure == i
            alone = Batch(
                batch.numbers[atoms],
                batch.positions[atoms] @ view[i].T,
                torch.zeros(int(atoms.sum()), dtype=torch.int64),
                *(value[i : i + 1] for value in (batch.counts, batch.charge, batch.spin)),
                largest=int(atoms.sum()),
            )
            prediction = model(alone)
            energy.append(abs(prediction.energy.item() - batch.energy[i].item()) / len(alone.numbers))
            error = prediction.forces.detach() - batch.forces[atoms] @ view[i].T
            force += np.linalg.norm(error.numpy(), axis=-1).tolist()
    assert len(force) == 17
    assert losses.energy.item() == pytest.approx(3.0 * np.mean(energy) / 0.5, rel=1e-9)
    assert losses.forces.item() == pytest.approx(2.0 * np.mean(force) / 0.5, rel=1e-9)
    assert losses.total.item() == pytest.approx((losses.energy + losses.forces).item(), rel=1e-12)
    assert losses.latent.item() == losses.equigrad.item() == 0


def test_the_latent_loss_rises_in_the_warm_up(make_model, make_structure):
    settings_ = ObjectiveSettings(views=2, latent=LatentSettings(weight=2.0, warmup=0.5, hidden=8))
    built, batch = Objective(make_model(), settings_).double(), labelled(make_structure, 5, 3)
    found = [built(batch, turns(2, 2), 2, Share(4, 16, 2), done).latent.item() for done in (0.0, 0.25, 0.5, 1.0)]
    assert found == pytest.approx([0, 0.5 * found[3], found[3], found[3]])
    assert found[3] > 0
    assert warm(0.0, 0.0) == 1.0


def test_bfloat16_changes_the_network_only_in_its_third_digit(make_model, make_structure):
    model, batch = make_model(dtype=torch.float32), labelled(make_structure, 6, 4).to(dtype=torch.float32)
    exact, rounded = (
        Objective(model, ObjectiveSettings(), bf16)(batch, turns(1, 2).float(), 0, Share(2, 10, 0), 0.0)
        for bf16 in (False, True)
    )
    assert exact.forces != rounded.forces
    assert float(rounded.forces) == pytest.approx(float(exact.forces), rel=0.05)


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.integers(2, 7), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_the_rotation_gradient_is_that_of_automatic_differentiation(make_model, make_structure, counts, seed):
    """Of E(x exp(G − Gᵀ)) with respect to G at G = 0."""
    model = make_model(forces="gradient")
    batch = Batch.collate([make_structure(count, seed + i) for i, count in enumerate(counts)], F64)
    generator = torch.zeros(len(batch), 3, 3, dtype=F64, requires_grad=True)
    turned = rotate(batch, torch.matrix_exp(generator - generator.mT).mT)  # x G as rows is Gᵀ x as columns
    # the model differentiates with respect to its positions, so it must be asked at a leaf: chain rule by hand
    leaf = replace(turned, positions=turned.positions.detach().requires_grad_())
    (slope,) = torch.autograd.grad(model(leaf).energy.sum(), leaf.positions)
    (expected,) = torch.autograd.grad(turned.positions, generator, slope)
    found = rotation_gradient(batch, model(batch).forces)
    torch.testing.assert_close(found, expected.norm(dim=(1, 2)), rtol=1e-6, atol=2e-6)
    assert found.max() > 1e-4


def test_an_invariant_energy_has_no_rotation_gradient(make_structure):
    batch = Batch.collate([make_structure(6), make_structure(4)], F64)
    positions = batch.positions.requires_grad_()
    pair = torch.cdist(positions, positions)[batch.structure[:, None] != batch.structure[None]]
    within = [torch.pdist(positions[batch.structure == i]).square().sum() for i in range(2)]
    (gradient,) = torch.autograd.grad(sum(within), positions)
    torch.testing.assert_close(rotation_gradient(batch, -gradient), torch.zeros(2, dtype=F64), rtol=0, atol=2e-6)
    (across,) = torch.autograd.grad(pair.sum(), positions)  # pulls between the molecules: a torque on each
    assert (rotation_gradient(batch, -across) > 1e-3).all()


def test_lengths_have_a_finite_gradient_at_zero():
    vectors = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]], requires_grad=True)
    lengths = norm(vectors)
    lengths.sum().backward()
    torch.testing.assert_close(lengths, torch.tensor([0.0, 5.0]), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(vectors.grad, torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.8, 0.0]]))


class TestNotFinite:
    def test_names_structures_by_their_place_in_the_dataset(self, make_model, make_structure):
        batch = replace(labelled(make_structure, 3, 4, 2, 5), index=torch.tensor([11, 7, 5, 2]))
        assert not_finite(make_model(), batch) == []
        energy, forces = batch.energy.clone(), batch.forces.clone()
        energy[1], forces[8] = torch.inf, torch.nan
        assert not_finite(make_model(), replace(batch, energy=energy, forces=forces)) == [7, 5]

    def test_says_nothing_about_unlabelled_structures(self, make_model, make_structure):
        assert not_finite(make_model(), Batch.collate([make_structure(3)], F64)) == []
