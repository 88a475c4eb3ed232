"""The built-in backbone: pre-norm blocks of attention and SwiGLU, some with a local layer, over a structure's atoms.

Axes as in `transip.model`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch, centered
from transip.blocks import Blocks, find_blocks
from transip.config import ModelSettings
from transip.errors import InputError
from transip.model.attention import Attention
from transip.model.attention_bias import RBF_RANGE
from transip.model.backbone import Encoded
from transip.model.charges import ChargeEmbedding, ChargeHead
from transip.model.embedding import AtomEmbedding
from transip.model.geometry import block_geometry
from transip.model.local import LocalDescriptor
from transip.model.neighbors import LOCAL_CUTOFF, MIN_LENGTH
from transip.model.pair_features import PairEncoder, PairFeatures
from transip.model.radial import GaussianBasis
from transip.model.rotary import CosSin, compute_cos_sin

NO_CUTOFF = "a model without a cutoff cannot see periodic structures"
GIVE_CUTOFF = "train one with model.cutoff, or set pbc to False if this is a molecule in a box"


class Transformer(nn.Module):
    """Blocks of attention among the atoms of a structure; a `Backbone`."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.width, self.depth, self.cutoff = settings.width, settings.depth, settings.cutoff
        self.embedding = AtomEmbedding(settings)
        has_neighbors = settings.num_local_layers or settings.has_edge_force_head or settings.repulsion
        self.pair_encoder = PairEncoder(
            GaussianBasis(*RBF_RANGE) if settings.distance_bias else None,
            GaussianBasis(MIN_LENGTH, LOCAL_CUTOFF, settings.num_rbf) if has_neighbors else None,
            settings.l_max if settings.angular_channels else 1,
            settings.cutoff,
        )
        local_layers = {k * settings.depth // settings.num_local_layers for k in range(settings.num_local_layers)}
        self.blocks = nn.ModuleList(Block(settings, k in local_layers) for k in range(settings.depth))
        self.charge_head, self.charge_embedding = None, None
        if settings.charges == "local":
            self.charge_head, self.charge_embedding = ChargeHead(settings.width), ChargeEmbedding(settings.width)
        self.norm = nn.RMSNorm(settings.width)

    def forward(
        self,
        batch: Batch,
        positions: Float[Tensor, "atoms 3"],
        cell: Float[Tensor, "structures 3 3"] | None,
        layers: Sequence[int] = (),
    ) -> Encoded:
        """See `Backbone`.

        Raises:
            InputError: a structure is periodic and the model has no cutoff.
        """
        if cell is not None and self.cutoff is None:
            raise InputError(NO_CUTOFF, remedy=GIVE_CUTOFF)
        blocks = batch.blocks or self.find_blocks(batch)
        positions = centered(blocks.wrap(positions, cell, batch), batch)
        geometry = block_geometry(positions, cell, batch, blocks)
        pairs = self.pair_encoder(geometry, blocks, [block.attention.bias for block in self._blocks()])
        x = blocks.to_blocks(self.embedding(batch, positions))
        rotary = compute_cos_sin([block.attention.rotary for block in self._blocks()], geometry.positions)
        hidden_states, charges = [], None
        for layer, block in enumerate(self._blocks()):
            x = block(x, rotary[layer], pairs, layer)
            if layer == 0 and self.charge_head is not None and self.charge_embedding is not None:
                charges = self.charge_head(blocks.from_blocks(x), batch)
                x = x + blocks.to_blocks(self.charge_embedding(charges))
            hidden_states.append(x)
        chosen = tuple(blocks.from_blocks(hidden_states[layer]) for layer in layers)
        return Encoded(self.norm(blocks.from_blocks(x)), chosen, pairs, charges)

    def find_blocks(self, batch: Batch, skin: float = 0.0) -> Blocks:
        """What each atom of `batch` sees, found on the host; see `Batch.blocks`."""
        return find_blocks(batch, self.cutoff, LOCAL_CUTOFF, skin)

    def muon_parameters(self) -> Iterator[nn.Parameter]:
        """Dense matrices of the blocks, but neither those of distance biases nor factors of low-rank adapters.

        The product of two orthogonal factors is not the step that Muon means.
        """
        for name, parameter in self.blocks.named_parameters():
            if parameter.dim() == 2 and ".bias." not in name and "parametrizations." not in name:
                yield parameter

    def _blocks(self) -> "Iterator[Block]":
        return (cast(Block, block) for block in self.blocks)


class Block(nn.Module):
    """x + attention(norm x) [+ local(norm x)], then x + SwiGLU(norm x); every branch starts at zero."""

    def __init__(self, settings: ModelSettings, has_local: bool):
        super().__init__()
        self.attention_norm = nn.RMSNorm(settings.width)
        self.attention = Attention(settings)
        self.local = LocalDescriptor(settings) if has_local else None
        self.mlp_norm = nn.RMSNorm(settings.width)
        self.mlp = SwiGLU(settings.width)

    def forward(
        self, x: Float[Tensor, "B Q D"], rotary: CosSin, pairs: PairFeatures, layer: int
    ) -> Float[Tensor, "B Q D"]:
        """Embeddings after this block, the `layer`-th."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, rotary, pairs, layer)
        if self.local is not None:
            x = x + self.local(normed, pairs)
        return x + self.mlp(self.mlp_norm(x))


class SwiGLU(nn.Module):
    """Gated MLP (arXiv 2002.05202); the hidden width keeps the parameters of a plain 4× MLP."""

    def __init__(self, width: int):
        super().__init__()
        hidden = 8 * math.ceil(width / 3)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q D"]:
        """One gated MLP."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))
