"""What is read from the atoms' last embeddings: energies and, for direct models, forces.

Two pairs of heads: plain ones read the embedding as it comes; the `Vector` ones read it as ¼ scalars and ¾
vectors (`fixed_representation`), so that they are equivariant functions of the embedding. `PairForceHead` adds to the
plain ones what needs two atoms to be seen.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.model.pairs import EveryPair, Pairs

Embedding = Float[Tensor, "atoms width"]


def scalar_head(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """A two-layer MLP whose output starts at zero."""
    last = nn.Linear(width, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), last)


def split_representation(
    embedding: Embedding,
) -> tuple[Float[Tensor, "atoms scalars"], Float[Tensor, "atoms vectors 3"]]:
    """Read an embedding as width / 4 scalars followed by width / 4 vectors."""
    scalars = embedding.shape[-1] // 4
    return embedding[..., :scalars], embedding[..., scalars:].unflatten(-1, (scalars, 3))


class EnergyHead(nn.Module):
    """Energy of each atom from its embedding."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = scalar_head(width, width, 1)

    def forward(self, embedding: Embedding) -> Float[Tensor, "atoms"]:
        """One number per atom, in units of the model's scale."""
        return self.mlp(embedding).squeeze(-1)


class ForceHead(nn.Module):
    """Force on each atom from its embedding."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = scalar_head(width, width, 3)

    def forward(self, embedding: Embedding) -> Float[Tensor, "atoms 3"]:
        """One vector per atom, in units of the model's scale per Å."""
        return self.mlp(embedding)


class PairForceHead(nn.Module):
    """Forces along the lines between near atoms, each as strong as distance and both embeddings say.

    Bonds are stiff, and their force is a steep function of one distance along one line: read off the pair, neither
    has to be squeezed through an atom's embedding. The strengths are as (little) invariant as the embeddings.
    """

    HIDDEN = 64

    def __init__(self, width: int, gaussians: int):
        super().__init__()
        self.seen = nn.Linear(width, self.HIDDEN, bias=False)
        self.looking = nn.Linear(width, self.HIDDEN)
        self.radial = nn.Linear(gaussians, self.HIDDEN, bias=False)
        self.strength = nn.Linear(self.HIDDEN, 1, bias=False)
        nn.init.zeros_(self.strength.weight)

    def forward(self, embedding: Float[Tensor, "B N D"], pairs: EveryPair) -> Float[Tensor, "B N 3"]:
        """One vector per atom, in units of the model's scale per Å; embeddings and forces in the padded layout."""
        looking, seen = self.looking(embedding), self.seen(embedding)
        seen = seen if pairs.images is None else pairs.images.of(seen)
        return pairs.look(self._of, looking, seen)

    def _of(
        self, pairs: Pairs, looking: Float[Tensor, "B A K"], seen: Float[Tensor, "B N K"]
    ) -> Float[Tensor, "B n 3"]:
        near = pairs.neighbours
        hidden = near.of(seen) + looking[:, pairs.looking, None] + self.radial(near.radial)
        strength = self.strength(functional.silu(hidden)).squeeze(-1) * near.fade
        return (strength[:, :, None] * near.direction).sum(3)


class VectorEnergyHead(nn.Module):
    """Energy of each atom from the scalars and the lengths of the vectors: invariant."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = scalar_head(width // 2, width, 1)

    def forward(self, embedding: Embedding) -> Float[Tensor, "atoms"]:
        """One number per atom, in units of the model's scale."""
        return self.mlp(_invariants(embedding)).squeeze(-1)


class VectorForceHead(nn.Module):
    """Force on each atom: a sum of the vectors weighted by invariants: equivariant."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = scalar_head(width // 2, width, width // 4)

    def forward(self, embedding: Embedding) -> Float[Tensor, "atoms 3"]:
        """One vector per atom, in units of the model's scale per Å."""
        _, vectors = split_representation(embedding)
        return torch.einsum("av,avx->ax", self.mlp(_invariants(embedding)), vectors)


def _invariants(embedding: Embedding) -> Float[Tensor, "atoms invariants"]:
    scalars, vectors = split_representation(embedding)
    return torch.cat([scalars, vectors.square().sum(-1)], -1)
