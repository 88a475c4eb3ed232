"""What is read from an atom's last embedding: its energy and, for direct models, its force.

Two pairs of heads: plain ones read the embedding as it comes; the `Vector` ones read it as ¼ scalars and ¾
vectors (`fixed_representation`), so that they are equivariant functions of the embedding.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
