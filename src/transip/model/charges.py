"""Partial charges and spin populations: each atom reads its own from its surroundings, and they add up to the totals.

An atom's embedding says how much charge q⁰ its surroundings give it, whatever the total charge Q is. What is left of
Q is shared out with positive weights w, which are read from the embedding, too:

    q_i = q⁰_i + w_i / Σ_j w_j · (Q − Σ_j q⁰_j)

So charges always sum to Q, and where the q⁰ do by themselves (separated ions, neutral molecules) no atom knows of what
is far away. Charge equilibration has the same form, with the inverse hardness as the weight (QEq,
doi:10.1021/j100161a070). Spin populations are s_i = 2S · v_i / Σ_j v_j, with positive v that are learned to be those
of the surroundings.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch, segment_sum
from transip.model.backbone import AtomicCharges
from transip.model.heads import mlp_head
from transip.structure import MAX_ATOMIC_NUMBER

SMALLEST = 1e-6  # weights and local spins are larger, so that there is always an atom to take what is left
CLOSED_SHELL = -3.0  # of the read-out of spins at first: softplus makes a twentieth of an electron of it
SENSITIVITY = 0.05  # e or unpaired electrons: so much is half as visible as any more
# Numbers per element start from 0 and have to reach some e or some ten eV, steps of the optimiser are thousandths.
ELEMENT_SCALE, ENERGY_SCALE = 10.0, 10.0


class ChargeHead(nn.Module):
    """Charges and spin populations from the atoms' embeddings."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.mlp = mlp_head(width, 3)
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, 3)  # in units of `ELEMENT_SCALE`
        nn.init.zeros_(self.element.weight)

    def forward(self, embeddings: Float[Tensor, "atoms width"], batch: Batch) -> AtomicCharges:
        """q⁰, w and v of each atom, distributed so that they add up."""
        read_out = self.mlp(self.norm(embeddings)) + ELEMENT_SCALE * self.element(batch.numbers)
        local_charges, weights, spins = read_out.to(batch.positions.dtype).unbind(-1)
        return distribute(
            local_charges,
            functional.softplus(weights) + SMALLEST,
            functional.softplus(spins + CLOSED_SHELL) + SMALLEST,
            batch,
        )


def distribute(
    local_charges: Float[Tensor, "atoms"],
    weights: Float[Tensor, "atoms"],
    local_spins: Float[Tensor, "atoms"],
    batch: Batch,
) -> AtomicCharges:
    """Charges and spin populations that add up to the totals.

    Args:
        local_charges: q⁰ in e.
        weights: w > 0, by which what is left of the total charge is shared out.
        local_spins: v > 0, unpaired electrons.
        batch: says which atoms belong together, and what the totals are.
    """
    index, totals = batch.structure_index, torch.stack([batch.charge, batch.spin - 1], 1).to(weights)
    sums = segment_sum(torch.stack([local_charges, local_spins, weights], 1), batch)
    unassigned = totals - sums[:, :2]
    shared = weights * (unassigned[:, 0] / sums[:, 2])[index]
    spin_populations = local_spins * (totals[:, 1] / sums[:, 1])[index]
    return AtomicCharges(local_charges + shared, spin_populations, shared, unassigned)


class ChargeEmbedding(nn.Module):
    """Embedding of an atom's charge, of what of it was shared out, and of its spin population.

    A tenth of an electron more or less is all that an atom has of a molecule's charge: the last two are given to the
    network in a form, too, in which little is nearly as visible as much.
    """

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(5, width), nn.Linear(width, width)

    def forward(self, charges: AtomicCharges) -> Float[Tensor, "atoms width"]:
        """To be added to the atoms' embeddings."""
        shared, spins = charges.shared, charges.spin_populations
        visible = [shared * (shared.square() + SENSITIVITY**2).rsqrt(), spins / (spins + SENSITIVITY)]
        features = torch.stack([charges.charges, shared, spins, *visible], -1)
        return self.down(functional.silu(self.up(features.to(self.up.weight.dtype))))


class ChargeEnergy(nn.Module):
    """Σ_i χ δ_i + ½ η δ_i² + σ s_i: what it costs, element by element, to give an atom a share δ of the charge.

    The energy of charges that surroundings give is a function of the surroundings, which the network has.
    """

    def __init__(self):
        super().__init__()
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, 3)  # χ, η and σ in units of `ENERGY_SCALE` eV
        nn.init.zeros_(self.element.weight)

    def forward(self, charges: AtomicCharges, batch: Batch) -> Float[Tensor, "atoms"]:
        """Per-atom energies in eV."""
        electronegativity, hardness, spin = (ENERGY_SCALE * self.element(batch.numbers)).unbind(-1)
        shared = charges.shared
        return (electronegativity + hardness * shared / 2) * shared + spin * charges.spin_populations
