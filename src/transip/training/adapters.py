"""Fine-tuning a part of a trained model: what is frozen, and what is learned in addition.

What is learned in addition to frozen weights is a parametrisation of them (`torch.nn.utils.parametrize`);
`merge_adapters` makes plain weights of both, so that a fine-tuned model is like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from transip.config import FineTuningSettings
from transip.errors import InputError
from transip.model.potential import Potential
from transip.model.transformer import Block, Transformer
from transip.structure import MAX_CHARGE

LORA_ALPHA = 8.0  # so that the learning rate need not change with the rank


class NewSpecies(NamedTuple):
    """What the data have and the trained model has not seen: atomic numbers, total charges (e), multiplicities."""

    elements: Sequence[int] = ()
    charges: Sequence[int] = ()
    spins: Sequence[int] = ()


class LowRank(nn.Module):
    """W + `LORA_ALPHA` / rank · up @ down, which is W at first (LoRA, arXiv 2106.09685)."""

    def __init__(self, weight: Float[Tensor, "outputs inputs"], rank: int):
        super().__init__()
        outputs, inputs = weight.shape
        self.factor = LORA_ALPHA / rank
        self.down = nn.Parameter(torch.randn(rank, inputs).to(weight) / inputs**0.5)
        self.up = nn.Parameter(weight.new_zeros(outputs, rank))

    def forward(self, weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "outputs inputs"]:
        """The matrix that is used."""
        return torch.addmm(weight, self.up, self.down, alpha=self.factor)


class TrainableRows(nn.Module):
    """A table of which only some rows are learned."""

    rows: Tensor

    def __init__(self, table: Float[Tensor, "rows width"], rows: Sequence[int]):
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows))
        self.values = nn.Parameter(table[rows].clone())

    def forward(self, table: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """The table that is used."""
        return table.index_copy(0, self.rows, self.values)


def apply_adapters(potential: Potential, settings: FineTuningSettings, new_species: NewSpecies) -> None:
    """Freeze what `settings` say, in place, and give it what is learned in addition; predictions stay as they are.

    Heads and the last norm are always trained, and so are the vectors of new elements, charges and multiplicities.

    Raises:
        InputError: the backbone is not the built-in one.
    """
    if settings.frozen_blocks is None and not settings.lora_rank:
        return
    backbone = potential.backbone
    if not isinstance(backbone, Transformer):
        raise InputError(
            "freezing blocks and low-rank adapters are for the built-in backbone",
            remedy="leave frozen_blocks and lora_rank out of fine_tuning, or freeze what you want in your backbone",
        )
    embed, num_frozen = backbone.embedding.requires_grad_(False), settings.frozen_blocks or 0
    charges = [charge + MAX_CHARGE for charge in new_species.charges]
    for table, rows in (
        (embed.element, new_species.elements),
        (embed.charge, charges),
        (embed.spin, new_species.spins),
    ):
        if rows and table is not None:
            _parametrize(table, TrainableRows(table.weight.detach(), rows))
    for layer, block in enumerate(cast(Block, module) for module in backbone.blocks):
        if settings.lora_rank or layer < num_frozen:
            block.requires_grad_(False)
        for matrix in chain(block.attention.children(), block.mlp.children()):
            if settings.lora_rank and layer >= num_frozen and isinstance(matrix, nn.Linear):
                _parametrize(matrix, LowRank(matrix.weight.detach(), settings.lora_rank))


def merge_adapters(potential: Potential) -> Potential:
    """`potential`, or, if it has adapters, a copy with plain ones; predictions are the same."""
    adapted = {name: m for name, m in potential.named_modules() if parametrize.is_parametrized(m, "weight")}
    if not adapted:
        return potential
    # Not `parametrize.remove_parametrizations` on a deep copy: a copy shares its classes with the original.
    with torch.random.fork_rng(devices=[]):
        plain = Potential(potential.settings, potential.references, potential.scale, potential.card)
    state = {name: value for name, value in potential.state_dict().items() if ".parametrizations." not in name}
    state |= {f"{name}.weight": module.weight for name, module in adapted.items()}
    plain.to(next(potential.parameters())).load_state_dict(state)
    return plain.train(potential.training)


def _parametrize(module: nn.Module, parametrization: nn.Module) -> None:
    parametrize.register_parametrization(module, "weight", parametrization)
