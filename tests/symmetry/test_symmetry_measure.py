"""Rotation errors against potentials and encoders whose errors are known."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from transip.batch import Batch, Prediction, centered, segment_sum
from transip.config import LatentSettings
from transip.symmetry.latent import LatentEquivariance
from transip.symmetry.measure import measure_symmetry, predict_rotated

F64 = torch.float64
Encoder = Callable[[Batch], Tensor]


class Toy(nn.Module):
    """Springs to the centroid in a uniform field along z of `field` eV/Å per unit of charge z − 6."""

    def __init__(self, field: float = 0.0, encoder: Encoder | None = None):
        super().__init__()
        self.field, self.encoder = field, encoder

    def forward(self, batch: Batch, layers: tuple[int, ...] = ()) -> Prediction:
        x = centered(batch.positions, batch)
        charge = self.field * (batch.numbers - 6).to(x.dtype)
        energies = (0.5 * x.square().sum(-1) - charge * batch.positions[:, 2]).double()
        forces = -x.clone()
        forces[:, 2] += charge
        latents = tuple(self.encoder(batch) for _ in layers) if self.encoder else ()
        return Prediction(segment_sum(energies, batch), energies, forces, latents)


class Noise(nn.Module):
    """Forces that are nothing but independent normal noise of width `sigma`."""

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma, self.generator = sigma, torch.Generator().manual_seed(0)

    def forward(self, batch: Batch, layers: tuple[int, ...] = ()) -> Prediction:
        noise = torch.randn(batch.num_atoms, 3, generator=self.generator, dtype=F64)
        zeros = torch.zeros(batch.num_atoms, dtype=F64)
        return Prediction(segment_sum(zeros, batch), zeros, self.sigma * noise)


def direction(batch: Batch) -> Tensor:
    """Four vectors per atom: equivariant."""
    x = centered(batch.positions, batch)
    return torch.cat([x, 2 * x, -x, 3 * x], -1)


def distance(batch: Batch) -> Tensor:
    """Twelve functions of the distance from the centroid: invariant."""
    r = centered(batch.positions, batch).norm(dim=-1, keepdim=True)
    return torch.cat([(r * k).sin() for k in range(1, 13)], -1)


@pytest.fixture(scope="module")
def batches(make_structure) -> list[Batch]:
    """Three batches of molecules with 2 to 7 atoms."""
    return [Batch.collate([make_structure(2 + i % 6, 100 * b + i) for i in range(100)], F64) for b in range(3)]


def test_a_symmetric_potential_has_no_errors(batches):
    found = measure_symmetry(Toy(), batches)
    assert found["energy_rotation_spread"] < 1e-12
    assert found["energy_rotation_spread_per_atom"] < 1e-12
    assert found["force_rotation_error"] < 1e-12
    assert found["layers"] == []


def test_predictions_are_turned_back(batches):
    turns = [torch.eye(3, dtype=F64).expand(100, 3, 3)[:, list(order)] for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1))]
    views = predict_rotated(Toy(encoder=direction), batches[0], turns, (0,))
    torch.testing.assert_close(views.forces, views.forces[:1].expand_as(views.forces))
    torch.testing.assert_close(views.energy, views.energy[:1].expand_as(views.energy))
    torch.testing.assert_close(views.embeddings[0][1][:, :3], direction(batches[0])[:, [1, 2, 0]])


@pytest.mark.parametrize("rotations", [2, 4, 32])
def test_a_field_gives_the_errors_that_theory_says(make_structure, rotations):
    """In a field along z, −q x·ẑ: the turned-back force is q times a unit vector uniform on the sphere.

    Its components are uniform on [−q, q] (mean absolute value q / 2); the energy is the dipole's length times such
    a component (standard deviation |d| / √3). The estimates are exact for normal deviations: within 10 % here.
    """
    field, batches = 0.3, [Batch.collate([make_structure(5, seed) for seed in range(200)], F64)]
    found = measure_symmetry(Toy(field), batches, rotations=rotations)
    batch = batches[0]
    charge = field * (batch.numbers - 6).double()
    # the spread is that of the whole energy, and the molecule turns about the origin
    dipole = segment_sum(charge[:, None] * batch.positions, batch).norm(dim=-1)
    expected = float(dipole.mean()) / math.sqrt(3)
    c4 = math.sqrt(2 / (rotations - 1)) * math.gamma(rotations / 2) / math.gamma((rotations - 1) / 2)
    assert found["force_rotation_error"] == pytest.approx(float(charge.abs().mean()) / 2, rel=0.1)
    assert found["energy_rotation_spread"] == pytest.approx(c4 * expected, rel=0.1)
    assert found["energy_rotation_spread_per_atom"] == pytest.approx(found["energy_rotation_spread"] / 5)


@pytest.mark.parametrize("rotations", [2, 3, 5, 12])
def test_the_force_error_is_unbiased_however_few_the_rotations(batches, rotations):
    found = measure_symmetry(Noise(0.2), batches * 2, rotations=rotations)["force_rotation_error"]
    assert found == pytest.approx(0.2 * math.sqrt(2 / math.pi), rel=0.03)


def test_orientations_do_not_depend_on_how_structures_fall_into_batches(make_structure):
    structures = [make_structure(4, seed) for seed in range(12)]
    whole = measure_symmetry(Toy(0.3), [Batch.collate(structures, F64)])
    parts = measure_symmetry(Toy(0.3), [Batch.collate(structures[i : i + 5], F64) for i in (0, 5, 10)])
    assert whole.pop("layers") == parts.pop("layers") == []
    assert parts == pytest.approx(whole, rel=1e-12)
    assert (
        measure_symmetry(Toy(0.3), [Batch.collate(structures, F64)], seed=1)["force_rotation_error"]
        != whole["force_rotation_error"]
    )


@pytest.mark.parametrize("level", ["atoms", "pooled"])
@pytest.mark.parametrize("size", [1, 5])
def test_what_layers_hold_does_not_depend_on_it_either(make_structure, level, size):
    structures = [make_structure(4, seed) for seed in range(12)]
    torch.manual_seed(0)
    latent = LatentEquivariance(LatentSettings(level=level, hidden=8), width=12).double()
    options = {"layers": (0,), "latent": latent}
    whole = measure_symmetry(Toy(encoder=direction), [Batch.collate(structures, F64)], **options)
    batches = [Batch.collate(structures[i : i + size], F64) for i in range(0, 12, size)]
    (found,), (expected,) = measure_symmetry(Toy(encoder=direction), batches, **options)["layers"], whole["layers"]
    assert found == pytest.approx(expected, rel=1e-9) and expected["latent_error"] > 0


class TestInvariantShare:
    def share(self, encoder: Encoder, batches: list[Batch], rotations: int = 4) -> float:
        found = measure_symmetry(Toy(encoder=encoder), batches, rotations=rotations, layers=(0,))["layers"]
        assert [entry["layer"] for entry in found] == [0] and found[0]["latent_error"] is None
        return found[0]["invariant_share"]

    def test_an_invariant_encoder_is_detected(self, batches):
        """Its latent loss is zero with T = identity, and it knows nothing of direction."""
        assert self.share(distance, batches) == pytest.approx(1, abs=1e-9)

    @pytest.mark.parametrize("rotations", [2, 4, 16])
    def test_vectors_have_none(self, batches, rotations):
        assert self.share(direction, batches, rotations) < 0.05

    @pytest.mark.parametrize("rotations", [2, 8])
    def test_a_mixture_has_the_share_of_its_variance(self, batches, rotations):
        values = torch.cat([distance(batch) for batch in batches])
        invariant = float(values.var(0, correction=0).sum())
        vectors = float(torch.cat([direction(batch) for batch in batches]).square().sum(-1).mean())
        found = self.share(lambda b: torch.cat([distance(b), direction(b)], -1), batches, rotations)
        assert found == pytest.approx(invariant / (invariant + vectors), abs=0.05)
        assert 0.05 < found < 0.95


class RotatesVectors(nn.Module):
    """Three scalars stay, three vectors rotate."""

    def forward(self, embeddings: Tensor, rotations: Tensor) -> Tensor:
        vectors = torch.einsum("iab,ivb->iva", rotations, embeddings[:, 3:].unflatten(-1, (3, 3)))
        return torch.cat([embeddings[:, :3], vectors.flatten(1)], -1)


class TestLatentError:
    def error(self, latent: LatentEquivariance, encoder: Encoder, batches: list[Batch]) -> float | None:
        model = Toy(encoder=encoder)
        return measure_symmetry(model, batches, layers=(0, 1), latent=latent.double())["layers"][1]["latent_error"]

    @pytest.mark.parametrize("level", ["atoms", "pooled"])
    def test_is_zero_for_an_exact_action(self, batches, level):
        latent = LatentEquivariance(LatentSettings(level=level), 12)
        latent.action = RotatesVectors()

        def scalars_and_vectors(batch: Batch) -> Tensor:
            return torch.cat([distance(batch)[:, :3], direction(batch)[:, :9] + vertex(batch)], -1)

        def vertex(batch: Batch) -> Tensor:  # a vector whose mean over the atoms does not vanish
            x = centered(batch.positions, batch)
            return (x * x.norm(dim=-1, keepdim=True)).repeat(1, 3)

        assert self.error(latent, scalars_and_vectors, batches) == pytest.approx(0, abs=1e-12)

    def test_is_two_for_the_identity_on_vectors(self, batches):
        """⟨|r u − u|²⟩ = 2 ⟨|u|²⟩ over rotations: worse than predicting the mean, whose error is 1."""
        latent = LatentEquivariance(LatentSettings(hidden=8), 12)
        assert self.error(latent, direction, batches) == pytest.approx(2, rel=0.1)

    def test_is_given_only_for_the_last_layer(self, batches):
        latent = LatentEquivariance(LatentSettings(hidden=8), 12).double()
        found = measure_symmetry(Toy(encoder=direction), batches, layers=(0, 1), latent=latent)["layers"]
        assert found[0]["latent_error"] is None and found[1]["latent_error"] is not None


@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_layers_of_a_real_model_are_examined(make_model, batches, forces):
    model = make_model(forces=forces)
    last = model.settings.depth - 1
    latent = LatentEquivariance(LatentSettings(hidden=8), model.settings.width).double()
    found = measure_symmetry(model, batches[:1], layers=tuple(range(last + 1)), latent=latent)
    assert found["force_rotation_error"] > 0 and found["energy_rotation_spread"] > 0
    assert [entry["layer"] for entry in found["layers"]] == list(range(last + 1))
    assert all(0 <= entry["invariant_share"] <= 1 for entry in found["layers"])
    assert [entry["latent_error"] is not None for entry in found["layers"]] == [False] * last + [True]


def test_layers_may_be_counted_from_either_end(make_model, batches):
    model = make_model()
    depth = model.settings.depth
    latent = LatentEquivariance(LatentSettings(hidden=8), model.settings.width).double()
    first, last = (
        measure_symmetry(model, batches[:1], layers=layers, latent=latent)["layers"]
        for layers in (tuple(range(depth)), tuple(range(-depth, 0)))
    )
    assert [entry.pop("layer") for entry in first] == list(range(depth))
    assert [entry.pop("layer") for entry in last] == list(range(-depth, 0))
    assert first == last
    assert [entry["latent_error"] is not None for entry in first] == [False] * (depth - 1) + [True]
