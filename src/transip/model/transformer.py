"""The Transformer: pre-norm attention and SwiGLU blocks over the atoms of each molecule, beside a local convolution.

Shape suffixes: B structures, N padded atoms, n atoms that look (see `Pairs`), M atoms seen, D width, H heads, K
features of a head.
"""

import math
from itertools import islice
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch
from transip.config import ModelSettings
from transip.model.bias import DistanceBias
from transip.model.convolution import Convolution
from transip.model.images import Images
from transip.model.pairs import EveryPair, PairFeatures, Pairs
from transip.model.rotary import Phases, RotaryCoordinates, all_phases, turn, turn_back

Hidden = Float[Tensor, "B N D"]


class Transformer(nn.Module):
    """Blocks of attention among the atoms of a molecule."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.pairs = PairFeatures(settings)
        looking = {k * settings.depth // settings.num_local_layers for k in range(settings.num_local_layers)}
        self.blocks = nn.ModuleList(Block(settings, k in looking) for k in range(settings.depth))

    def forward(
        self,
        embedding: Float[Tensor, "atoms D"],
        positions: Float[Tensor, "atoms 3"],
        batch: Batch,
        depth: int | None = None,
        *,
        images: Images | None = None,
        frugal: bool = False,
    ) -> tuple[list[Hidden], EveryPair]:
        """Embeddings after each block, first to last, padded, and the pairs of atoms that the blocks saw.

        Args:
            embedding: of the atoms before the first block.
            positions: Å, centred per structure.
            batch: says which atoms belong together.
            depth: run only this many blocks.
            images: periodic images of the atoms; None if all structures are molecules.
            frugal: see `PairFeatures`.
        """
        blocks = [cast(Block, block) for block in islice(self.blocks, depth)]
        hidden_BND, positions_BN3 = batch.to_dense(embedding), batch.to_dense(positions)
        biases = [block.attention.bias for block in blocks if block.attention.bias is not None]
        mask = images.mask if images is not None else None if batch.is_dense else batch.mask
        pairs = self.pairs(positions_BN3, mask, biases, images, frugal=frugal)
        seen_BM3 = positions_BN3 if images is None else images.places(positions_BN3)
        phases = all_phases([block.attention.rotary for block in blocks], seen_BM3)
        hiddens = []
        for number, block in enumerate(blocks):
            hidden_BND = block(hidden_BND, phases[number], pairs, number)
            hiddens.append(hidden_BND)
        return hiddens, pairs


class Block(nn.Module):
    """x + attention(norm x) [+ convolution(norm x)], then x + SwiGLU(norm x); every branch starts at zero."""

    def __init__(self, settings: ModelSettings, convolution: bool):
        super().__init__()
        self.attention_norm = nn.RMSNorm(settings.width)
        self.attention = Attention(settings)
        self.convolution = Convolution(settings) if convolution else None
        self.mlp_norm = nn.RMSNorm(settings.width)
        self.mlp = SwiGLU(settings.width)

    def forward(self, hidden_BND: Hidden, phases: Phases, pairs: EveryPair, number: int) -> Hidden:
        """This block, the `number`-th."""
        normed_BND = self.attention_norm(hidden_BND)
        hidden_BND = hidden_BND + self.attention(normed_BND, phases, pairs, number)
        if self.convolution is not None:
            seen_BMD = normed_BND if pairs.images is None else pairs.images.of(normed_BND)
            hidden_BND = hidden_BND + pairs.look(self.convolution, seen_BMD)
        return hidden_BND + self.mlp(self.mlp_norm(hidden_BND))


class Attention(nn.Module):
    """Multi-head attention with rotary coordinates, normed queries and keys, and a learned distance bias."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        width, self.heads = settings.width, settings.heads
        features = width // self.heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.output.weight)
        self.query_norm = nn.RMSNorm(features)
        self.key_norm = nn.RMSNorm(features)
        self.rotary = RotaryCoordinates(self.heads, features // 2, settings.min_frequency, settings.max_frequency)
        self.bias = DistanceBias(self.heads) if settings.distance_bias else None
        self.rotary_values = settings.rotary_values

    def forward(self, hidden_BND: Hidden, phases: Phases, pairs: EveryPair, block: int) -> Hidden:
        """Attention output before it is added to the residual stream."""
        query = self._normed(self.query_norm, self.query(hidden_BND))
        key = self._normed(self.key_norm, self.key(hidden_BND))
        value = self._split(self.value(hidden_BND))
        own = phases  # of the atoms that look
        # Turned together they are fewer operations. A compiler fuses those itself, and takes the derivative of a stack
        # to have the shape that it had in the first batch.
        if pairs.images is None and not torch.compiler.is_compiling():
            turned = [query, key, value] if self.rotary_values else [query, key]
            together = Phases(phases.cos[:, :, None], phases.sin[:, :, None])
            query, key, *rest = turn(torch.stack(turned, 2), together).transpose(1, 3).unbind(2)
            value = rest[0] if rest else value.transpose(1, 2)
        else:
            if pairs.images is not None:
                own = Phases(*(part[:, : query.shape[1]] for part in phases))
                key, value = pairs.images.of(key), pairs.images.of(value)
            value = turn(value, phases) if self.rotary_values else value
            query, key, value = (x.transpose(1, 2) for x in (turn(query, own), turn(key, phases), value))

        def see(pairs: Pairs, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return attend(query[:, :, pairs.looking], key, value, pairs.bias(block))

        output_BNHK = pairs.look(see, query, key, value)
        if self.rotary_values:
            output_BNHK = turn_back(output_BNHK, own)
        return self.output(output_BNHK.flatten(2))

    def _normed(self, norm: nn.RMSNorm, hidden_BND: Hidden) -> Float[Tensor, "B N H K"]:
        return norm(self._split(hidden_BND).to(norm.weight.dtype))  # float32 under autocast, too

    def _split(self, hidden_BND: Hidden) -> Float[Tensor, "B N H K"]:
        return hidden_BND.unflatten(-1, (self.heads, -1))


class SwiGLU(nn.Module):
    """Gated MLP (arXiv 2002.05202); the hidden width keeps the parameters of a plain 4× MLP."""

    def __init__(self, width: int):
        super().__init__()
        hidden = 8 * math.ceil(width / 3)
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, hidden_BND: Hidden) -> Hidden:
        """One gated MLP."""
        return self.down(functional.silu(self.gate(hidden_BND)) * self.up(hidden_BND))


def attend(
    query: Float[Tensor, "B H n K"],
    key: Float[Tensor, "B H N K"],
    value: Float[Tensor, "B H N K"],
    bias: Float[Tensor, "B #H #n N"] | None,
) -> Float[Tensor, "B n H K"]:
    """Softmax attention.

    Written out where gradients are needed: the fused CPU kernel has neither a second derivative (gradient
    forces) nor a derivative with respect to the bias.
    """
    if torch.is_grad_enabled():
        logits, scale = query @ key.mT, query.shape[-1] ** -0.5
        logits = logits * scale if bias is None else torch.add(bias, logits, alpha=scale)
        output = logits.softmax(-1).to(value.dtype) @ value
    else:
        bias = None if bias is None else bias.to(query.dtype)
        output = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return output.transpose(1, 2)
