"""The latent loss trains a backbone that is none of ours, and the study compares equal forward passes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from benchmarks.robustness.commands import random_model
from benchmarks.study import backbone, entries, terms
from benchmarks.study.run import recipe_of
from tests.toy import toy_structure
from transip.batch import Batch
from transip.config import LatentSettings
from transip.rotations import random_rotations, rotate
from transip.structure import MAX_ATOMIC_NUMBER
from transip.symmetry.latent import LatentEquivariance
from transip.symmetry.measure import measure_symmetry

F64 = torch.float64


@pytest.fixture
def model():
    """In float64, every head switched on."""
    torch.manual_seed(0)
    model = backbone.MessagePassing(backbone.Shape(width=16), torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=F64), 1.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.double()


@pytest.fixture
def batch() -> Batch:
    """Methanol, water and methane, shaken."""
    return Batch.collate([toy_structure(number) for number in (3, 0, 1)], F64)


def same(found, expected) -> None:
    assert expected.forces.norm() > 0.1  # or nothing would be compared
    torch.testing.assert_close(found.energy, expected.energy)
    torch.testing.assert_close(found.forces, expected.forces)
    torch.testing.assert_close(found.embeddings, expected.embeddings)


def test_a_translation_changes_nothing(model, batch):
    moved = replace(batch, positions=batch.positions + torch.tensor([3.0, -20.0, 7.0], dtype=F64))
    same(model(moved, (0, 2)), model(batch, (0, 2)))


def test_atoms_have_no_order(model):
    batch = Batch.collate([toy_structure(3)], F64)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    shuffled = replace(batch, numbers=batch.numbers[order], positions=batch.positions[order])
    expected, found = model(batch, (0, 2)), model(shuffled, (0, 2))
    same(
        found,
        replace(
            expected,
            forces=expected.forces[order],
            atom_energies=expected.atom_energies[order],
            embeddings=tuple(latent[order] for latent in expected.embeddings),
        ),
    )


def test_molecules_of_a_batch_do_not_see_each_other(model, batch):
    alone = model(batch.head(1))
    together = model(batch)
    torch.testing.assert_close(together.forces[: batch.head(1).num_atoms], alone.forces)
    torch.testing.assert_close(together.energy[:1], alone.energy)


def test_forces_of_a_molecule_cancel(model, batch):
    forces = model(batch).forces
    assert forces.abs().max() > 0.1
    torch.testing.assert_close(forces[:6].sum(0), torch.zeros(3, dtype=F64), atol=1e-10, rtol=0)


def test_messages_fade_out_at_the_cutoff(model):
    def pair(distance: float) -> Batch:
        numbers = torch.tensor([6, 8])
        positions = torch.tensor([[0.0, 0, 0], [distance, 0, 0]], dtype=F64)
        zero = torch.tensor([0])
        return Batch(numbers, positions, torch.tensor([0, 0]), torch.tensor([2]), zero, zero + 1, 2)

    inside, outside, far = (model(pair(backbone.CUTOFF + x)).energy for x in (-1e-4, 1e-4, 2.0))
    torch.testing.assert_close(inside, outside, atol=1e-6, rtol=0)
    assert outside == far
    assert abs(model(pair(3.0)).energy - far) > 1e-3


def test_no_rotation_symmetry_is_built_in(model, batch):
    found = measure_symmetry(model, [batch], layers=(0, 2))
    assert found["force_rotation_error"] > 0.05
    assert all(layer["invariant_share"] < 0.999 for layer in found["layers"])


def test_the_latent_loss_falls_along_its_gradient(model, batch):
    latent = LatentEquivariance(LatentSettings(weight=1), model.settings.width).double()
    first, second = random_rotations(6, torch.Generator().manual_seed(0), F64).view(2, 3, 3, 3)
    parameters = [*model.parameters(), *latent.parameters()]
    losses = []
    for _ in range(5):
        u, v = (model(rotate(batch, turns), (2,)).embeddings[0] for turns in (first, second))
        losses.append(latent(u, v, second @ first.mT, batch).mean())
        gradients = torch.autograd.grad(losses[-1], parameters, allow_unused=True)  # it asks nothing of the heads
        assert gradients[0].any()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0 if gradient is None else 1e-3 * gradient
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_embeddings_of_a_turning_molecule_change_as_differentiated(batch):
    model = random_model("direct").double()
    axes = torch.nn.functional.normalize(torch.randn(3, 3, dtype=F64), dim=-1)
    embedding, change = terms.embedding_and_change(model, batch, axes)
    torch.testing.assert_close(embedding, model(batch, (-1,)).embeddings[0])
    step = 1e-5
    there, back = (model(rotate(batch, _about(axes, angle)), (-1,)).embeddings[0] for angle in (step, -step))
    assert change.norm() > 0.1
    torch.testing.assert_close((there - back) / (2 * step), change, atol=1e-6, rtol=1e-5)


def _about(axes: torch.Tensor, angle: float) -> torch.Tensor:
    """Rotations by `angle` about unit vectors."""
    across = torch.linalg.cross(axes[:, None], torch.eye(3, dtype=F64)[None])  # row i: axis × unit vector i
    return torch.linalg.matrix_exp(angle * across.mT)


def test_a_rotated_molecule_is_another_input(model, batch):
    turned = rotate(batch, random_rotations(3, torch.Generator().manual_seed(1), F64))
    assert (model(turned).energy - model(batch).energy).abs().max() > 1e-3


def test_every_entry_is_a_recipe_of_equally_many_passes():
    made = {
        f"{group}/{name}": entries.passes(group, name, recipe_of(group, name, seed=0))
        for group, members in entries.GROUPS.items()
        for name in members
        if entries.counted(group, name)
    }
    assert len(made) > 50
    assert set(made.values()) == {entries.PASSES}


def test_every_loss_term_belongs_to_an_entry():
    known = {f"{group}/{name.partition('@')[0]}" for group, members in entries.GROUPS.items() for name in members}
    assert {*entries.LOSS_TERMS, *entries.PASSES_OF_TERMS} <= known


def test_parts_of_a_preset_are_exchanged():
    plain = recipe_of("paper-backbone", "plain", seed=0).model
    assert plain.distance_bias and plain.rotary_values and plain.absolute_features
    assert recipe_of("ingredients", "frequencies-to-3", seed=0).model.max_frequency == 3
    assert not recipe_of("ingredients", "no-rotary-values", seed=0).model.rotary_values
