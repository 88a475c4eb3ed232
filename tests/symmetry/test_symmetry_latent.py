"""The latent-equivariance loss: zero for what is equivariant, positive for what is not."""

import pytest
import torch
from torch import nn

from transip.batch import Batch
from transip.config import LatentSettings
from transip.errors import InputError
from transip.rotations import random_rotations
from transip.symmetry.latent import LatentEquivariance, LearnedAction, load_latent, save_latent

F64 = torch.float64
WIDTH = 12  # three scalars, three vectors
levels = pytest.mark.parametrize("level", ["atoms", "pooled"])


def rotations(count: int, seed: int = 0) -> torch.Tensor:
    return random_rotations(count, torch.Generator().manual_seed(seed), F64)


def latents(atoms: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(atoms, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture
def batch(make_structure) -> Batch:
    return Batch.collate([make_structure(count) for count in (5, 1, 3)], F64)


def rotated(embedding: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Three scalars stay, three vectors rotate."""
    vectors = torch.einsum("iab,ivb->iva", turns, embedding[:, 3:].unflatten(-1, (3, 3)))
    return torch.cat([embedding[:, :3], vectors.flatten(1)], -1)


class RotatesVectors(nn.Module):
    """A perfect action on `rotated` embeddings."""

    def forward(self, embeddings: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
        return rotated(embeddings, rotations)


class TestLossIsZero:
    @levels
    def test_for_embeddings_that_follow_the_action(self, batch, level):
        turns, first = rotations(3), latents(9)
        latent = LatentEquivariance(LatentSettings(weight=1, level=level), WIDTH)
        latent.action = RotatesVectors()
        loss = latent(first, rotated(first, turns[batch.structure_index]), turns, batch)
        torch.testing.assert_close(loss, torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
        backwards = rotated(first, turns.mT[batch.structure_index])
        assert (latent(first, backwards, turns, batch) > 1e-3).all()

    @levels
    def test_for_invariant_embeddings_under_the_untrained_action(self, batch, level):
        """The degenerate optimum: T starts as the identity, and an embedding without direction satisfies it."""
        latent = LatentEquivariance(LatentSettings(weight=1, level=level), WIDTH).double()
        loss = latent(latents(9), latents(9), rotations(3), batch)
        torch.testing.assert_close(loss, torch.zeros(3, dtype=F64), rtol=0, atol=1e-12)
        assert (latent(latents(9), latents(9, 1), rotations(3), batch) > 1e-3).all()


def test_atoms_count_equally(batch):
    """Mean over a structure's atoms of the mean squared component."""
    latent = LatentEquivariance(LatentSettings(weight=1), WIDTH).double()
    first, second = latents(9, 0), latents(9, 1)
    squares = (first - second).square().mean(-1)
    expected = torch.stack([squares[batch.structure_index == i].mean() for i in range(3)])
    torch.testing.assert_close(latent(first, second, rotations(3), batch), expected)


def test_the_learned_action_starts_as_the_identity_and_can_learn_to_rotate():
    torch.manual_seed(0)
    action = LearnedAction(WIDTH, hidden=64).double()
    u, r = latents(256), rotations(256)
    assert torch.equal(action(u, r), u)
    optimizer = torch.optim.AdamW(action.parameters(), lr=1e-2)
    start = float((u - rotated(u, r)).square().mean())
    for _ in range(150):
        optimizer.zero_grad()
        loss = (action(u, r) - rotated(u, r)).square().mean()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * start


class TestFiles:
    def test_an_action_comes_back_as_it_was(self, tmp_path):
        settings_ = LatentSettings(weight=2.0, hidden=8, level="pooled")
        latent = LatentEquivariance(settings_, WIDTH)
        for parameter in latent.parameters():
            torch.nn.init.normal_(parameter)
        save_latent(latent, tmp_path)
        found = load_latent(tmp_path)
        assert found is not None
        assert (found.settings, found.width) == (settings_, WIDTH)
        torch.testing.assert_close(found.state_dict(), latent.state_dict(), rtol=0, atol=0)
        assert not any(p.requires_grad for p in found.parameters())

    def test_there_may_be_none(self, tmp_path):
        assert load_latent(tmp_path) is None

    @pytest.mark.parametrize("name", ["latent.json", "latent.safetensors"])
    def test_damage_is_named(self, tmp_path, name):
        save_latent(LatentEquivariance(LatentSettings(), WIDTH), tmp_path)
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            load_latent(tmp_path)
