"""The Transformer: pre-norm attention and SwiGLU blocks over the atoms of each molecule, beside a local convolution.

Shape suffixes: B structures, N padded atoms, n atoms that look (see `Pairs`), D width, H heads, K features of a head.
"""

import math
from collections.abc import Iterable
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch
from transip.config import ModelSettings
from transip.model.convolution import Convolution
from transip.model.pairs import SPREAD, PairFeatures, Pairs
from transip.model.rotary import RotaryCoordinates, turn, turn_back

Hidden = Float[Tensor, "B N D"]
Logits = Float[Tensor, "B H n N"]


class Transformer(nn.Module):
    """Blocks of attention among the atoms of a molecule."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.pairs = PairFeatures(settings)
        looking = {k * settings.depth // settings.convolutions for k in range(settings.convolutions)}
        self.blocks = nn.ModuleList(Block(settings, k in looking) for k in range(settings.depth))

    def forward(
        self,
        embedding: Float[Tensor, "atoms D"],
        positions: Float[Tensor, "atoms 3"],
        batch: Batch,
        depth: int | None = None,
    ) -> tuple[list[Float[Tensor, "atoms D"]], Iterable[Pairs]]:
        """Embeddings of the atoms after each block, first to last, and the pairs of atoms that the blocks saw.

        Args:
            embedding: of the atoms before the first block.
            positions: Å, centred per structure.
            batch: says which atoms belong together.
            depth: run only this many blocks.
        """
        slots, size = batch.slots, (len(batch), batch.largest)
        hidden_BND = to_padded(embedding, slots, size)
        positions_BN3 = to_padded(positions, slots, size)
        pairs = self.pairs(positions_BN3, batch.mask)
        hiddens = []
        for block in islice(self.blocks, depth):
            hidden_BND = block(hidden_BND, positions_BN3, pairs)
            hiddens.append(hidden_BND.flatten(0, 1)[slots])
        return hiddens, pairs


class Block(nn.Module):
    """x + attention(norm x) [+ convolution(norm x)], then x + SwiGLU(norm x); every branch starts at zero."""

    def __init__(self, settings: ModelSettings, convolution: bool):
        super().__init__()
        self.attention_norm = nn.RMSNorm(settings.width)
        self.attention = Attention(settings)
        self.convolution = Convolution(settings.width) if convolution else None
        self.mlp_norm = nn.RMSNorm(settings.width)
        self.mlp = SwiGLU(settings.width)

    def forward(self, hidden_BND: Hidden, positions_BN3: Float[Tensor, "B N 3"], pairs: Iterable[Pairs]) -> Hidden:
        """One block."""
        normed_BND = self.attention_norm(hidden_BND)
        hidden_BND = hidden_BND + self.attention(normed_BND, positions_BN3, pairs)
        if self.convolution is not None:
            hidden_BND = hidden_BND + torch.cat([self.convolution(normed_BND, part) for part in pairs], 1)
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

    def forward(self, hidden_BND: Hidden, positions_BN3: Float[Tensor, "B N 3"], pairs: Iterable[Pairs]) -> Hidden:
        """Attention output before it is added to the residual stream."""
        phases = self.rotary(positions_BN3)
        query_BNHK = turn(self._normed(self.query_norm, self.query(hidden_BND)), phases)
        key_BNHK = turn(self._normed(self.key_norm, self.key(hidden_BND)), phases)
        value_BNHK = self._split(self.value(hidden_BND))
        if self.rotary_values:
            value_BNHK = turn(value_BNHK, phases)
        parts = [attend(query_BNHK[:, p.looking], key_BNHK, value_BNHK, self._bias(p, query_BNHK.dtype)) for p in pairs]
        output_BNHK = torch.cat(parts, 1)
        if self.rotary_values:
            output_BNHK = turn_back(output_BNHK, phases)
        return self.output(output_BNHK.flatten(2))

    def _bias(self, pairs: Pairs, dtype: torch.dtype) -> Float[Tensor, "B h n N"]:
        hide = pairs.hide[:, None, None, :].to(dtype)
        return hide if self.bias is None else self.bias(pairs).to(dtype) + hide

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


class DistanceBias(nn.Module):
    """Per head, a logit bias learned from distance: Gaussians, and a slope that makes some heads local at the start."""

    def __init__(self, heads: int):
        super().__init__()
        self.project = nn.Linear(SPREAD[-1], heads, bias=False)
        nn.init.zeros_(self.project.weight)
        self.slope = nn.Parameter(torch.logspace(math.log10(0.1), math.log10(5.0), heads))  # 1/Å

    def forward(self, pairs: Pairs) -> Logits:
        """Bias of every pair."""
        bias_BNnH = self.project(pairs.spread) - pairs.distance[..., None] * self.slope
        return bias_BNnH.permute(0, 3, 2, 1)


def attend(
    query_BnHK: Float[Tensor, "B n H K"],
    key_BNHK: Float[Tensor, "B N H K"],
    value_BNHK: Float[Tensor, "B N H K"],
    bias: Float[Tensor, "B h m N"],
) -> Float[Tensor, "B n H K"]:
    """Softmax attention.

    Written out where gradients are needed: the fused CPU kernel has neither a second derivative (gradient
    forces) nor a derivative with respect to the bias.
    """
    query, key, value = (x.transpose(1, 2) for x in (query_BnHK, key_BNHK, value_BNHK))
    if torch.is_grad_enabled():
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        output = logits.softmax(-1).to(value.dtype) @ value
    else:
        output = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return output.transpose(1, 2)


def to_padded(values: Float[Tensor, "atoms F"], slots: Tensor, size: tuple[int, int]) -> Float[Tensor, "B N F"]:
    """Lay flat atoms out as (structures × largest structure), zeros where there is none."""
    padded = values.new_zeros(size[0] * size[1], values.shape[-1])
    return padded.index_copy(0, slots, values).view(*size, -1)
