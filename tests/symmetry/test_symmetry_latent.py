"""The latent-equivariance loss: zero for what is equivariant, positive for what is not."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from transip.batch import Batch
from transip.config import LatentSettings
from transip.errors import InputError
from transip.rotations import quaternions_to_matrices, random_rotations
from transip.symmetry.latent import (
    FixedAction,
    LatentEquivariance,
    LearnedAction,
    encode_rotations,
    info_nce,
    load_latent,
    save_latent,
)

F64 = torch.float64
WIDTH = 12  # three scalars, three vectors
levels = pytest.mark.parametrize("level", ["atoms", "pooled"])
distances = pytest.mark.parametrize("distance", ["mse", "cosine"])


def rotations(count: int, seed: int = 0) -> torch.Tensor:
    return random_rotations(count, torch.Generator().manual_seed(seed), F64)


def latents(atoms: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(atoms, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture
def batch(make_structure) -> Batch:
    return Batch.collate([make_structure(count) for count in (5, 1, 3)], F64)


def turned(embedding: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Three scalars stay, three vectors turn; written as a loop."""
    out = embedding.clone()
    for i, vector in itertools.product(range(len(embedding)), range(3)):
        part = slice(3 + 3 * vector, 6 + 3 * vector)
        out[i, part] = turns[i] @ embedding[i, part]
    return out


class TestLossIsZero:
    @levels
    @distances
    def test_for_vectors_that_turn_under_the_fixed_action(self, batch, level, distance):
        settings_ = LatentSettings(weight=1, action="fixed", level=level, distance=distance, layers=(0, 1))
        turns, first = rotations(3), [latents(9, 0), latents(9, 1)]
        second = [turned(u, turns[batch.structure_index]) for u in first]
        loss = LatentEquivariance(settings_, WIDTH)(first, second, turns, batch)
        torch.testing.assert_close(loss, torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)

    @levels
    @distances
    def test_for_invariant_embeddings_under_the_untrained_action(self, batch, level, distance):
        """The degenerate optimum: T starts as the identity, and an embedding without direction satisfies it."""
        latent = LatentEquivariance(LatentSettings(weight=1, level=level, distance=distance), WIDTH).double()
        loss = latent([latents(9)], [latents(9)], rotations(3), batch)
        torch.testing.assert_close(loss, torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)

    @levels
    @pytest.mark.parametrize("action", ["fixed", "mlp"])
    def test_for_nothing_else(self, batch, level, action):
        latent = LatentEquivariance(LatentSettings(weight=1, level=level, action=action), WIDTH).double()
        turns, first = rotations(3), latents(9)
        backwards = turned(first, turns.mT[batch.structure_index])
        assert (latent([first], [backwards], turns, batch) > 1e-3).all()


def test_layers_and_atoms_count_equally(batch):
    """Mean over the layers of the mean over a structure's atoms of the mean squared component."""
    latent = LatentEquivariance(LatentSettings(weight=1, layers=(0, 1)), WIDTH).double()
    first, second = [latents(9, 0), latents(9, 1)], [latents(9, 2), latents(9, 3)]
    found = latent(first, second, rotations(3), batch)
    squares = torch.stack([(u - v).square().mean(-1) for u, v in zip(first, second, strict=True)]).mean(0)
    expected = torch.stack([squares[batch.structure_index == i].mean() for i in range(3)])
    torch.testing.assert_close(found, expected)


def test_a_stopped_gradient_reaches_only_the_first_view(batch):
    for stop in (False, True):
        latent = LatentEquivariance(LatentSettings(weight=1, stop_gradient=stop, hidden=8), WIDTH).double()
        first, second = latents(9, 0).requires_grad_(), latents(9, 1).requires_grad_()
        latent([first], [second], rotations(3), batch).sum().backward()
        assert first.grad is not None
        assert (second.grad is None) == stop


class TestActions:
    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_the_fixed_action_is_a_representation(self, seed):
        act, u = FixedAction(), latents(7, seed)
        r, s = rotations(7, seed), rotations(7, seed + 1)
        torch.testing.assert_close(act(act(u, r), s), act(u, s @ r))
        torch.testing.assert_close(act(u, torch.eye(3, dtype=F64).expand(7, 3, 3)), u)
        torch.testing.assert_close(act(u, r).norm(dim=-1), u.norm(dim=-1))
        torch.testing.assert_close(act(u, r), turned(u, r))

    @pytest.mark.parametrize("encoding", ["matrix", "6d", "quaternion"])
    def test_the_learned_action_starts_as_the_identity_and_can_learn_to_turn(self, encoding):
        torch.manual_seed(0)
        action = LearnedAction(WIDTH, LatentSettings(rotation=encoding, hidden=64)).double()
        u, r = latents(256), rotations(256)
        assert torch.equal(action(u, r), u)
        optimizer = torch.optim.AdamW(action.parameters(), lr=1e-2)
        start = float((u - turned(u, r)).square().mean())
        for _ in range(150):
            optimizer.zero_grad()
            loss = (action(u, r) - turned(u, r)).square().mean()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 0.5 * start

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 10_000))
    def test_encodings_determine_the_rotation(self, seed):
        r = rotations(5, seed)
        columns = encode_rotations(r, "6d").unflatten(1, (2, 3))
        third = torch.linalg.cross(columns[:, 0], columns[:, 1])
        torch.testing.assert_close(torch.stack([columns[:, 0], columns[:, 1], third], -1), r)
        quaternions = encode_rotations(r, "quaternion")
        assert (quaternions[:, 0] >= 0).all()
        torch.testing.assert_close(quaternions_to_matrices(quaternions), r)
        assert torch.equal(encode_rotations(r, "matrix").unflatten(1, (3, 3)), r)


class TestInfoNCE:
    def test_is_least_for_matches(self):
        u = latents(6)
        matched = info_nce(u, u, 0.1).mean()
        for order in itertools.islice(itertools.permutations(range(6)), 1, 200):
            assert info_nce(u, u[list(order)], 0.1).mean() > matched

    def test_is_the_chance_level_for_embeddings_that_are_all_alike(self):
        """An invariant, structure-blind embedding is no optimum here, unlike of the squared error."""
        u = latents(1).expand(8, WIDTH)
        torch.testing.assert_close(info_nce(u, u, 0.1), torch.full((8,), 8.0, dtype=F64).log())

    def test_goes_to_zero_with_the_temperature_and_ignores_lengths(self):
        u = latents(6)
        assert info_nce(u, 3 * u, 0.005).max() < 1e-6
        torch.testing.assert_close(info_nce(u, latents(6, 1), 0.3), info_nce(2 * u, 5 * latents(6, 1), 0.3))

    def test_compares_within_blocks(self, monkeypatch):
        monkeypatch.setattr("transip.symmetry.latent.NEGATIVES", 4)
        u, v = latents(10, 0), latents(10, 1)
        expected = torch.cat([info_nce(u[part], v[part], 0.1) for part in (slice(4), slice(4, 8), slice(8, 10))])
        torch.testing.assert_close(info_nce(u, v, 0.1), expected)

    def test_agrees_with_the_definition(self):
        u, v = latents(5, 0), latents(5, 1)
        similarity = functional.cosine_similarity(u[:, None], v[None], dim=-1) / 0.2
        expected = -(similarity.diag() - similarity.exp().sum(1).log())
        torch.testing.assert_close(info_nce(u, v, 0.2), expected)


class TestFiles:
    def test_an_action_comes_back_as_it_was(self, tmp_path):
        settings_ = LatentSettings(weight=2.0, layers=(0, -1), rotation="6d", hidden=8, level="pooled")
        latent = LatentEquivariance(settings_, WIDTH)
        for parameter in latent.parameters():
            torch.nn.init.normal_(parameter)
        save_latent(latent, tmp_path)
        found = load_latent(tmp_path)
        assert found is not None
        assert (found.settings, found.width) == (settings_, WIDTH)
        torch.testing.assert_close(found.state_dict(), latent.state_dict(), rtol=0, atol=0)
        assert not any(p.requires_grad for p in found.parameters())

    def test_a_fixed_action_has_no_weights(self, tmp_path):
        save_latent(LatentEquivariance(LatentSettings(action="fixed"), WIDTH), tmp_path)
        assert load_latent(tmp_path) is not None

    def test_there_may_be_none(self, tmp_path):
        assert load_latent(tmp_path) is None

    @pytest.mark.parametrize("name", ["latent.json", "latent.safetensors"])
    def test_damage_is_named(self, tmp_path, name):
        save_latent(LatentEquivariance(LatentSettings(), WIDTH), tmp_path)
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_latent(tmp_path)
