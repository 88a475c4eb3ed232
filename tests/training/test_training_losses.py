"""Terms of the loss."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transip.batch import Batch, Prediction, segment_sum
from transip.config import LatentSettings, ModelSettings, ObjectiveSettings
from transip.model.potential import Potential
from transip.rotations import random_rotations, rotate
from transip.training.losses import Losses, Objective, Share, Twice, norm, not_finite, rotation_gradient, warm

F64 = torch.float64


def labelled(make_structure, *counts: int) -> Batch:
    generator = np.random.default_rng(0)
    structures = [
        make_structure(count, energy=-1000.0 * count + i, forces=generator.normal(size=(count, 3)))
        for i, count in enumerate(counts)
    ]
    return Batch.collate(structures, F64)


def turns(views: int, structures: int, seed: int = 1) -> torch.Tensor:
    flat = random_rotations(views * structures, torch.Generator().manual_seed(seed), F64)
    return flat.view(views, structures, 3, 3)


def a_pool(make_structure, *counts: int) -> Twice:
    structures = [make_structure(count, seed=7) for count in counts]
    return Twice(Batch.collate(structures, F64), turns(2, len(counts), seed=2))


def one_by_one(batch: Batch, orientations: torch.Tensor):
    """Each structure of `batch` alone, in its first and in its second view."""
    for i in range(len(batch)):
        atoms = batch.structure_index == i
        alone = Batch(
            batch.numbers[atoms],
            batch.positions[atoms],
            torch.zeros(int(atoms.sum()), dtype=torch.int64),
            *(value[i : i + 1] for value in (batch.atom_counts, batch.charge, batch.spin)),
            max_num_atoms=int(atoms.sum()),
        )
        yield alone, *(orientations[:, i : i + 1])


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_terms_are_those_of_the_formula(make_model, make_structure, forces):
    """L = w_E |ΔE| / N / s + w_F mean_i ‖ΔF_i‖₂ / s, over both views."""
    model, batch, orientations = make_model(forces=forces, scale=0.5), labelled(make_structure, 5, 3, 1), turns(2, 3)
    built = Objective(model, ObjectiveSettings(energy_weight=3.0, force_weight=2.0, views=2, second_view=0.67))
    losses: Losses = built(batch, orientations, 2, Share(5, 17, 2), 0.0)
    energy, force = [], []
    for view, number in zip(orientations, (3, 2), strict=True):
        for i in range(number):
            atoms = batch.structure_index == i
            alone = Batch(
                batch.numbers[atoms],
                batch.positions[atoms] @ view[i].T,
                torch.zeros(int(atoms.sum()), dtype=torch.int64),
                *(value[i : i + 1] for value in (batch.atom_counts, batch.charge, batch.spin)),
                max_num_atoms=int(atoms.sum()),
            )
            prediction = model(alone)
            energy.append(abs(prediction.energy.item() - batch.energy[i].item()) / len(alone.numbers))
            error = prediction.forces.detach() - batch.forces[atoms] @ view[i].T
            force += np.linalg.norm(error.numpy(), axis=-1).tolist()
    assert len(force) == 17
    assert losses.energy.item() == pytest.approx(3.0 * np.mean(energy) / 0.5, rel=1e-9)
    assert losses.forces.item() == pytest.approx(2.0 * np.mean(force) / 0.5, rel=1e-9)
    assert losses.total.item() == pytest.approx((losses.energy + losses.forces).item(), rel=1e-12)
    assert losses.latent.item() == losses.equigrad.item() == losses.consistency.item() == 0


class TestLossesBetweenViews:
    """Of labelled structures (5 and 3 atoms are paired, if any) and of a pool (4 and 2 atoms)."""

    VIEWS = pytest.mark.parametrize(
        "views", [{"views": 1}, {"views": 2}, {"views": 2, "second_view_labels": False}], ids=str
    )

    def losses(
        self, model: Potential, make_structure, settings_: dict, pool: Twice | None, progress: float = 1.0
    ) -> tuple[Objective, Losses]:
        batch, built = labelled(make_structure, 5, 3, 6), self.objective(model, settings_)
        two = built.settings.views == 2
        views = (5, 22) if two and built.settings.second_view_labels else (3, 14)
        pairs, atoms = (2, 8) if two else (0, 0)
        share = Share(*views, pairs + (2 if pool else 0), atoms + (6 if pool else 0))
        return built, built(batch, turns(2, 3)[: 2 if two else 1], 2 if two else 0, share, progress, pool)

    def objective(self, model: Potential, settings_: dict) -> Objective:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            built = Objective(model, ObjectiveSettings.model_validate(settings_)).double()
            for parameter in built.latent.parameters() if built.latent is not None else ():
                torch.nn.init.normal_(parameter, std=0.1)
        return built

    def pairs(self, make_structure, settings_: dict, pool: Twice):
        yield from one_by_one(*pool)
        if settings_["views"] == 2:
            yield from one_by_one(labelled(make_structure, 5, 3), turns(2, 3)[:, :2])

    @VIEWS
    @pytest.mark.parametrize("forces", ["direct", "conservative"])
    @pytest.mark.parametrize("level", ["atoms", "pooled"])
    def test_the_latent_loss_is_the_mean_over_all_pairs(self, make_model, make_structure, views, forces, level):
        model, pool = make_model(forces=forces), a_pool(make_structure, 4, 2)
        settings_ = {**views, "latent": {"weight": 2.0, "hidden": 8, "layers": [0, 2], "level": level}}
        built, found = self.losses(model, make_structure, settings_, pool)
        expected = []
        for alone, first, second in self.pairs(make_structure, settings_, pool):
            u, v = (model(rotate(alone, turn), (0, 2)).embeddings for turn in (first, second))
            expected.append(built.latent(u, v, second @ first.mT, alone).item())
        assert len(expected) == 2 * views["views"]
        assert found.latent.item() == pytest.approx(2.0 * np.mean(expected), rel=1e-9)
        assert found.latent.item() > 1e-3

    @VIEWS
    @pytest.mark.parametrize("forces", ["direct", "conservative"])
    def test_the_consistency_is_the_mean_over_all_pairs(self, make_model, make_structure, views, forces):
        """The task losses' distance, weights included, between one view's prediction and the other's, turned."""
        model, pool = make_model(forces=forces, scale=0.5), a_pool(make_structure, 4, 2)
        settings_ = {**views, "consistency": 0.7, "energy_weight": 3.0, "force_weight": 2.0}
        _, found = self.losses(model, make_structure, settings_, pool)
        energy, force = [], []
        for alone, first, second in self.pairs(make_structure, settings_, pool):
            a, b = (model(rotate(alone, turn)) for turn in (first, second))
            energy.append(abs(a.energy - b.energy).item() / alone.num_atoms)
            turned = a.forces @ (second[0] @ first[0].T).T
            force += (b.forces - turned).norm(dim=-1).tolist()
        expected = 0.7 * (3.0 * np.mean(energy) + 2.0 * np.mean(force)) / 0.5
        assert len(force) == (14 if views["views"] == 2 else 6)
        assert found.consistency.item() == pytest.approx(expected, rel=1e-6)
        assert found.latent.item() == 0
        parts = found.energy + found.forces + found.consistency
        assert found.total.item() == pytest.approx(parts.item(), rel=1e-12)

    @VIEWS
    def test_unlabelled_structures_give_no_task_gradient(self, make_model, make_structure, views):
        """At the beginning of the warm-up nothing but the labels pulls, and those of a pool are not even read."""
        model = Potential(make_model().settings, torch.zeros(87, dtype=F64), 1.0).double()
        model.load_state_dict(make_model().state_dict())
        settings_ = {**views, "latent": {"weight": 1.0, "hidden": 8}}
        pool = a_pool(make_structure, 4, 2)
        wrong = replace(pool.batch, energy=torch.full((2,), 1e6, dtype=F64), forces=torch.full((6, 3), 1e3, dtype=F64))
        gradients = []
        for one in [pool, pool._replace(batch=wrong), None]:
            if one is None and views["views"] == 1:
                settings_ = views
            _, found = self.losses(model, make_structure, settings_, one, progress=0.0)
            model.zero_grad()
            found.total.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert gradients[0].norm() > 1
        torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)

    def test_labels_of_the_first_view_alone_are_a_setting(self, make_model, make_structure):
        """The task losses are then those of one view, and the losses between the views those of two."""
        for between in ({"latent": {"weight": 1.0, "hidden": 8, "layers": [1]}}, {"consistency": 1.0}):
            one, two, cheap = (
                self.losses(make_model(), make_structure, settings_, None)[1]
                for settings_ in (
                    {"views": 1},
                    {"views": 2, **between},
                    {"views": 2, "second_view_labels": False, **between},
                )
            )
            for term in ("energy", "forces"):
                assert getattr(cheap, term).item() == pytest.approx(getattr(one, term).item(), rel=1e-9)
                assert getattr(cheap, term).item() != pytest.approx(getattr(two, term).item(), rel=1e-3)
            for term in ("latent", "consistency"):
                assert getattr(cheap, term).item() == pytest.approx(getattr(two, term).item(), rel=1e-9)
            assert cheap.latent + cheap.consistency > 1e-3

    @pytest.mark.parametrize(
        ("changes", "runs"),
        [
            ({"latent": {"weight": 1.0, "hidden": 8, "layers": [1]}}, [2, 2, 1, 1]),
            ({"latent": {"weight": 1.0, "hidden": 8, "layers": [-3, 0]}}, [2, 2, 1, 1]),
            ({"latent": {"weight": 1.0, "hidden": 8, "layers": [-1]}}, [2, 2, 2, 2]),
            ({"latent": {"weight": 1.0, "hidden": 8, "layers": [0]}, "consistency": 1.0}, [2, 2, 2, 2]),
        ],
    )
    def test_views_without_labels_run_only_as_deep_as_they_must(self, make_model, make_structure, changes, runs):
        model, seen = make_model(), [0, 0, 0, 0]

        def count(block: int):
            def hook(*_: object) -> None:
                seen[block] += 1

            return hook

        handles = [block.register_forward_hook(count(k)) for k, block in enumerate(model.transformer.blocks)]
        settings_ = {"views": 2, "second_view_labels": False, **changes}
        self.losses(model, make_structure, settings_, a_pool(make_structure, 4, 2))
        for handle in handles:
            handle.remove()
        assert seen == runs


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_embeddings_of_a_part_of_the_network_are_those_of_the_whole(make_model, make_structure, preset, forces):
    model, batch = make_model(preset, forces), labelled(make_structure, 5, 3)
    for layers in [(0,), (2, 1), (-2,), (-1, 0)]:
        found, expected = model.embeddings(batch, layers), model(batch, layers).embeddings
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert len(found) == len(layers)


class Springs(Potential):
    """Springs between all atoms, equivariant by construction; with `wind`, pushed along z whatever the orientation."""

    wind = 0.0

    def forward(self, batch: Batch, layers=()) -> Prediction:
        """Energy ½ Σ_i |x_i − centre|² and its forces."""
        count = batch.atom_counts[batch.structure_index][:, None]
        centre = (segment_sum(batch.positions, batch)[batch.structure_index]) / count
        forces = centre - batch.positions
        energies = 0.5 * forces.square().sum(-1)
        push = torch.tensor([0.0, 0.0, self.wind], dtype=F64)
        return Prediction(segment_sum(energies, batch), energies, forces + push)


def test_the_consistency_is_zero_for_equivariant_predictions_alone(make_structure):
    springs = Springs(ModelSettings(size="XS"), torch.zeros(87, dtype=F64), 1.0)
    pool = a_pool(make_structure, 4, 2)
    built = Objective(springs, ObjectiveSettings(consistency=1.0))
    arguments = labelled(make_structure, 5), turns(1, 1), 0, Share(1, 5, 2, 6), 0.0, pool
    assert built(*arguments).consistency.item() < 1e-5  # norm() is rounded off at zero
    springs.wind = 0.5
    relative = (pool.turns[1] @ pool.turns[0].mT)[:, :, 2] * 0.5
    missed = (torch.tensor([0.0, 0.0, 0.5], dtype=F64) - relative).norm(dim=-1)
    expected = (4 * missed[0] + 2 * missed[1]).item() / 6
    assert built(*arguments).consistency.item() == pytest.approx(expected, rel=1e-6)
    assert expected > 0.1


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
    model = make_model(forces="conservative")
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
    pair = torch.cdist(positions, positions)[batch.structure_index[:, None] != batch.structure_index[None]]
    within = [torch.pdist(positions[batch.structure_index == i]).square().sum() for i in range(2)]
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

    def test_without_labels_only_predictions_count(self, make_model, make_structure):
        batch = replace(Batch.collate([make_structure(3), make_structure(4)], F64), index=torch.tensor([4, 1]))
        assert not_finite(make_model(), batch) == []
        assert not_finite(make_model(), replace(batch, spin=torch.tensor([1, 2]) * batch.spin)) == []
        positions = batch.positions.clone()
        positions[5, 0] = torch.nan
        assert not_finite(make_model(), replace(batch, positions=positions)) == [1]
        assert not_finite(make_model(), replace(batch, positions=positions, index=None)) == []
