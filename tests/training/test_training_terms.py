"""Terms of the loss."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch
from transip.config import LatentSettings, ModelSettings
from transip.errors import InputError
from transip.model.potential import Potential
from transip.rotations import random_rotations, rotate
from transip.training.nonfinite import find_nonfinite
from transip.training.objective import Objective
from transip.training.terms import (
    Charges,
    Dipole,
    Energy,
    Forces,
    Latent,
    Locality,
    Stress,
    rotational_gradient,
    safe_norm,
    warmup_factor,
)
from transip.training.training_batch import Normalizer, TrainingBatch, Views

F64 = torch.float64
FORCES = ["direct", "conservative"]


def labelled(make_structure, *counts: int) -> Batch:
    generator = np.random.default_rng(0)
    structures = [
        make_structure(count, energy=-1000.0 * count + i, forces=generator.normal(size=(count, 3)))
        for i, count in enumerate(counts)
    ]
    return Batch.collate(structures, F64)


def rotations(views: int, structures: int, seed: int = 1) -> torch.Tensor:
    flat = random_rotations(views * structures, torch.Generator().manual_seed(seed), F64)
    return flat.view(views, structures, 3, 3)


def unlabelled(make_structure, *counts: int) -> Views:
    structures = [make_structure(count, seed=7) for count in counts]
    return Views(Batch.collate(structures, F64), rotations(2, len(counts), seed=2))


def training_batch(batch: Batch, views: int, extra: Views | None = None) -> TrainingBatch:
    """Of one process and one batch."""
    pairs, atoms = (len(batch), batch.num_atoms) if views == 2 else (0, 0)
    if extra is not None:
        pairs, atoms = pairs + len(extra.batch), atoms + extra.batch.num_atoms
    normalizer = Normalizer(views * len(batch), views * batch.num_atoms, pairs, atoms)
    return TrainingBatch(Views(batch, rotations(views, len(batch))), normalizer, extra)


def one_by_one(pair: Views):
    """Each structure alone, and its rotation in the first and in the second view."""
    batch = pair.batch
    for i in range(len(batch)):
        atoms = batch.structure_index == i
        alone = Batch(
            batch.numbers[atoms],
            batch.positions[atoms],
            torch.zeros(int(atoms.sum()), dtype=torch.int64),
            *(value[i : i + 1] for value in (batch.atom_counts, batch.charge, batch.spin)),
            max_num_atoms=int(atoms.sum()),
        )
        yield alone, *(pair.rotations[:, i : i + 1])


def latent(settings_: LatentSettings) -> Latent:
    """With random weights also where training starts from zero."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        term = Latent(settings_, 64).double()
        for parameter in term.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return term


@pytest.mark.parametrize("forces", FORCES)
def test_energy_and_forces_are_those_of_the_formula(make_model, make_structure, forces):
    """w_E |ΔE| / N / s and w_F mean_i ‖ΔF_i‖₂ / s, over both views."""
    model, batch = make_model(forces=forces, scale=0.5), training_batch(labelled(make_structure, 5, 3, 1), 2)
    losses = Objective(model, [Energy(3.0), Forces(2.0)])(batch, 0.0)
    energy, force, stored = [], [], batch.labelled.batch
    for i, (alone, *views) in enumerate(one_by_one(batch.labelled)):
        for view in views:
            prediction = model(rotate(alone, view))
            energy.append(abs(prediction.energy.item() - stored.energy[i].item()) / len(alone.numbers))
            error = prediction.forces.detach() - stored.forces[stored.structure_index == i] @ view[0].T
            force += np.linalg.norm(error.numpy(), axis=-1).tolist()
    assert len(force) == 18 and losses.keys() == {"energy", "force"}
    assert losses["energy"].item() == pytest.approx(3.0 * np.mean(energy) / 0.5, rel=1e-9)
    assert losses["force"].item() == pytest.approx(2.0 * np.mean(force) / 0.5, rel=1e-9)


@pytest.fixture(scope="module")
def charged() -> Potential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Potential(ModelSettings(size="XS", charges="local"), torch.zeros(87, dtype=F64), 1.0).double()
        torch.nn.init.normal_(model.backbone.charge_head.mlp[-1].weight, std=0.1)
    return model


class TestCharges:
    """Of structures of 5 and 3 atoms, of which one is labelled."""

    def test_what_is_not_labelled_counts_as_no_error(self, charged, make_structure):
        batch, generator = labelled(make_structure, 5, 3), torch.Generator().manual_seed(0)
        charges, dipole = (torch.randn(shape, generator=generator, dtype=F64) for shape in ((8,), (2, 3)))
        charges[5:], dipole[1] = math.nan, math.nan
        batch = replace(batch, charges=charges, dipole=dipole)
        seen = training_batch(batch, 1)
        objective = Objective(charged, [Charges(2.0), Dipole(3.0), Locality(4.0)])
        losses, found = objective(seen, 0.0), charged(seen.labelled.rotated)
        expected_dipole = seen.labelled.rotated.dipole[0] - found.dipole[0]
        assert losses["charge"].item() == pytest.approx(2.0 * (found.charges - charges)[:5].abs().sum().item() / 8)
        assert losses["dipole"].item() == pytest.approx(3.0 * expected_dipole.norm().item() / 5 / 2, rel=1e-4)
        assert losses["locality"].item() == pytest.approx(4.0 * found.unassigned.abs().sum().item() / 2)
        gradients = torch.autograd.grad(sum(losses.values()), charged.parameters(), allow_unused=True)
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)

    def test_without_any_label_there_is_no_loss(self, charged, make_structure):
        losses = Objective(charged, [Charges(1.0), Dipole(1.0)])(training_batch(labelled(make_structure, 5, 3), 1), 0.0)
        assert losses["charge"].item() == losses["dipole"].item() == 0


class TestLatent:
    """Of labelled structures (5, 3 and 6 atoms), if they have two views, and of unlabelled ones (4 and 2 atoms)."""

    VIEWS = pytest.mark.parametrize("views", [1, 2])

    @VIEWS
    @pytest.mark.parametrize("forces", FORCES)
    @pytest.mark.parametrize("level", ["atoms", "pooled"])
    def test_is_the_mean_over_all_pairs(self, make_model, make_structure, views, forces, level):
        model, extra = make_model(forces=forces), unlabelled(make_structure, 4, 2)
        batch, term = labelled(make_structure, 5, 3, 6), latent(LatentSettings(weight=2.0, hidden=8, level=level))
        both = training_batch(batch, views, extra)
        loss = Objective(model, [Energy(1.0), term])(both, 1.0)["latent"]
        expected = []
        for alone, first, second in one_by_one(both.pairs):
            (u,), (v,) = (model(rotate(alone, view), (-1,)).embeddings for view in (first, second))
            expected.append(term.equivariance(u, v, second @ first.mT, alone).item())
        assert len(expected) == (5 if views == 2 else 2)
        assert loss.item() == pytest.approx(2.0 * np.mean(expected), rel=1e-9)
        assert loss.item() > 1e-3

    @VIEWS
    def test_of_unlabelled_structures_gives_no_gradient_of_the_labels(self, make_model, make_structure, views):
        """At the beginning of the warm-up nothing but the labels pulls; those of unlabelled structures are not read."""
        model = Potential(make_model().settings, torch.zeros(87, dtype=F64), 1.0).double()
        model.load_state_dict(make_model().state_dict())
        extra, batch = unlabelled(make_structure, 4, 2), labelled(make_structure, 5, 3, 6)
        wrong = replace(extra.batch, energy=torch.full((2,), 1e6, dtype=F64), forces=torch.full((6, 3), 1e3, dtype=F64))
        gradients = []
        for more in (extra, replace(extra, batch=wrong), None):
            terms = [Energy(8.0), Forces(1.0)]
            terms += [latent(LatentSettings(weight=1.0, hidden=8))] if more or views == 2 else []
            model.zero_grad()
            sum(Objective(model, terms)(training_batch(batch, views, more), 0.0).values()).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert gradients[0].norm() > 1
        torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)

    def test_rises_in_the_warm_up(self, make_model, make_structure):
        term, batch = latent(LatentSettings(weight=2.0, warmup=0.5, hidden=8)), labelled(make_structure, 5, 3)
        objective = Objective(make_model(), [term])
        losses = [objective(training_batch(batch, 2), progress)["latent"].item() for progress in (0.0, 0.25, 0.5, 1.0)]
        assert losses == pytest.approx([0, 0.5 * losses[3], losses[3], losses[3]])
        assert losses[3] > 0
        assert warmup_factor(0.0, 0.0) == 1.0

    def test_needs_two_views(self, make_model, make_structure):
        objective = Objective(make_model(), [latent(LatentSettings(weight=2.0, hidden=8))])
        with pytest.raises(InputError, match=r"compares two views(.|\n)*set objective\.views to 2"):
            objective(training_batch(labelled(make_structure, 5, 3), 1), 1.0)


def test_the_potential_runs_once_for_all_terms(make_model, make_structure, monkeypatch):
    """And once for the unlabelled structures."""
    model, calls = make_model(), []
    forward = Potential.forward
    monkeypatch.setattr(Potential, "forward", lambda self, *a, **k: calls.append("forward") or forward(self, *a, **k))
    batch = training_batch(labelled(make_structure, 5, 3), 2, unlabelled(make_structure, 4))
    terms = [Energy(1.0), Forces(1.0), latent(LatentSettings(weight=1.0, hidden=8)), Stress(1.0)]
    losses = Objective(model, terms)(batch, 1.0)
    assert list(losses) == ["energy", "force", "latent", "stress"] and losses["stress"] == 0
    assert len(calls) == 1


@pytest.mark.parametrize("names", [(), ("energy", "energy"), ("two words",)])
def test_terms_need_names_that_can_be_logged(make_model, names):
    terms = [Energy(1.0) for _ in names]
    for term, name in zip(terms, names, strict=True):
        object.__setattr__(term, "name", name)
    with pytest.raises(InputError, match="names that differ and are words"):
        Objective(make_model(), terms)


def test_bfloat16_changes_the_network_only_in_its_third_digit(make_model, make_structure):
    model, batch = make_model(dtype=torch.float32), labelled(make_structure, 6, 4).to(dtype=torch.float32)
    turned = TrainingBatch(Views(batch, rotations(1, 2).float()), Normalizer(2, 10))
    exact, rounded = (Objective(model, [Forces(1.0)], bf16)(turned, 0.0)["force"].item() for bf16 in (False, True))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=0.05)


@settings(max_examples=10, deadline=None)
@given(counts=st.lists(st.integers(2, 7), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_the_rotation_gradient_is_that_of_automatic_differentiation(make_model, make_structure, counts, seed):
    """Of E(x exp(G − Gᵀ)) with respect to G at G = 0."""
    model = make_model(forces="conservative")
    batch = Batch.collate([make_structure(count, seed + i) for i, count in enumerate(counts)], F64)
    generator = torch.zeros(len(batch), 3, 3, dtype=F64, requires_grad=True)
    turned = rotate(batch, torch.matrix_exp(generator - generator.mT).mT)  # x G as rows is Gᵀ x as columns
    # the model differentiates with respect to its positions, so it must be asked at a leaf: chain rule by hand
    leaf = replace(turned, positions=turned.positions.detach().requires_grad_())
    (slope,) = torch.autograd.grad(model(leaf).energy.sum(), leaf.positions)
    (expected,) = torch.autograd.grad(turned.positions, generator, slope)
    found = rotational_gradient(batch, model(batch).forces)
    torch.testing.assert_close(found, expected.norm(dim=(1, 2)), rtol=1e-6, atol=2e-6)
    assert found.max() > 1e-4


def test_an_invariant_energy_has_no_rotational_gradient(make_structure):
    batch = Batch.collate([make_structure(6), make_structure(4)], F64)
    positions = batch.positions.requires_grad_()
    pair = torch.cdist(positions, positions)[batch.structure_index[:, None] != batch.structure_index[None]]
    within = [torch.pdist(positions[batch.structure_index == i]).square().sum() for i in range(2)]
    (gradient,) = torch.autograd.grad(sum(within), positions)
    torch.testing.assert_close(rotational_gradient(batch, -gradient), torch.zeros(2, dtype=F64), rtol=0, atol=2e-6)
    (across,) = torch.autograd.grad(pair.sum(), positions)  # pulls between the molecules: a torque on each
    assert (rotational_gradient(batch, -across) > 1e-3).all()


def test_lengths_have_a_finite_gradient_at_zero():
    vectors = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0]], requires_grad=True)
    lengths = safe_norm(vectors)
    lengths.sum().backward()
    torch.testing.assert_close(lengths, torch.tensor([0.0, 5.0]), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(vectors.grad, torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.8, 0.0]]))


class TestNotFinite:
    def test_names_structures_by_their_place_in_the_dataset(self, make_model, make_structure):
        batch = replace(labelled(make_structure, 3, 4, 2, 5), index=torch.tensor([11, 7, 5, 2]))
        assert find_nonfinite(make_model(), batch) == []
        energy, forces = batch.energy.clone(), batch.forces.clone()
        energy[1], forces[8] = torch.inf, torch.nan
        assert find_nonfinite(make_model(), replace(batch, energy=energy, forces=forces)) == [7, 5]

    def test_without_labels_only_predictions_count(self, make_model, make_structure):
        batch = replace(Batch.collate([make_structure(3), make_structure(4)], F64), index=torch.tensor([4, 1]))
        assert find_nonfinite(make_model(), batch) == []
        assert find_nonfinite(make_model(), replace(batch, spin=torch.tensor([1, 2]) * batch.spin)) == []
        positions = batch.positions.clone()
        positions[5, 0] = torch.nan
        assert find_nonfinite(make_model(), replace(batch, positions=positions)) == [1]
        assert find_nonfinite(make_model(), replace(batch, positions=positions, index=None)) == []
