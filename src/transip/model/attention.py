"""Multi-head attention among the atoms of a structure. Axes as in `transip.model`."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.config import ModelSettings
from transip.model.attention_bias import DistanceBias
from transip.model.pair_features import PairFeatures
from transip.model.rotary import CosSin, RotaryEmbedding3D, apply_rotary_emb


class Attention(nn.Module):
    """Attention with rotary coordinates, normed queries and keys, and a learned distance bias."""

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
        self.rotary = RotaryEmbedding3D(self.heads, features // 2, settings.min_frequency, settings.max_frequency)
        self.bias = DistanceBias(self.heads) if settings.distance_bias else None
        self.rotary_values = settings.rotary_values

    def forward(
        self, x: Float[Tensor, "B Q D"], rotary: CosSin, pairs: PairFeatures, layer: int
    ) -> Float[Tensor, "B Q D"]:
        """Attention output before it is added to the residual stream; `rotary` holds the angles of the rows."""
        blocks, num_slots = pairs.blocks, x.shape[0] * x.shape[1]
        query_rotary = rotary.head(num_slots)
        query = apply_rotary_emb(self._qk_norm(self.query_norm, self.query(x)).flatten(0, 1), query_rotary)
        key = apply_rotary_emb(blocks.to_rows(self._qk_norm(self.key_norm, self.key(x))), rotary)
        value = blocks.to_rows(self._split_heads(self.value(x)))
        if self.rotary_values:
            value = apply_rotary_emb(value, rotary)
        bias = None if pairs.attention_bias is None else pairs.attention_bias[layer]
        output = scaled_dot_product_attention(
            query.unflatten(0, x.shape[:2]), blocks.gather_keys(key), blocks.gather_keys(value), bias
        ).flatten(0, 1)
        if self.rotary_values:
            output = apply_rotary_emb(output, query_rotary, inverse=True)
        return self.output(output.flatten(1)).unflatten(0, x.shape[:2])

    def _qk_norm(self, norm: nn.RMSNorm, x: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q H F"]:
        return norm(self._split_heads(x).to(norm.weight.dtype))  # float32 under autocast, too

    def _split_heads(self, x: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q H F"]:
        return x.unflatten(-1, (self.heads, -1))


def scaled_dot_product_attention(
    query: Float[Tensor, "B Q H F"],
    key: Float[Tensor, "B K H F"],
    value: Float[Tensor, "B K H F"],
    bias: Float[Tensor, "B #H #Q K"] | None,
) -> Float[Tensor, "B Q H F"]:
    """softmax(q kᵀ / √F + bias) v.

    Written out where gradients are needed: the fused CPU kernel has neither a second derivative (conservative
    forces) nor a derivative with respect to the bias.
    """
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if torch.is_grad_enabled():
        scores, scale = query @ key.mT, query.shape[-1] ** -0.5
        scores = scores * scale if bias is None else torch.add(bias, scores, alpha=scale)
        output = scores.softmax(-1).to(value.dtype) @ value
    else:
        mask = None if bias is None else bias.to(query.dtype)
        output = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return output.transpose(1, 2)
