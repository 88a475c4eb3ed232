"""Screened repulsion of nuclei: what keeps atoms apart where there are no data. Axes as in `transip.model`."""

import ase.data
import torch
from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch
from transip.model.coulomb import COULOMB_CONSTANT
from transip.model.neighbors import LOCAL_CUTOFF
from transip.model.pair_features import PairFeatures
from transip.structure import MAX_ATOMIC_NUMBER

SCREENING_LENGTH = 0.46850  # Å; 0.8854 Bohr radii
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
EXPONENT = 6  # of the envelope


class NuclearRepulsion(nn.Module):
    """Ziegler–Biersack–Littmark repulsion, which an envelope takes to zero at the sum of the covalent radii.

    E_i = ½ Σ_j z_i z_j e² / (4πε₀ r) · φ(r / a) · f(r / (R_i + R_j)) with a = 0.4685 Å / (z_i^0.23 + z_j^0.23) and f
    the polynomial of DimeNet (arXiv 2003.03123, exponent 6), as in MACE. Nothing of it is learned. The network learns
    the rest, which is small where atoms overlap, so that the energy rises there whatever the network says.
    """

    covalent_radii: Tensor

    def __init__(self):
        super().__init__()
        radii = torch.tensor(ase.data.covalent_radii[: MAX_ATOMIC_NUMBER + 1], dtype=torch.float64)
        self.register_buffer("covalent_radii", radii, persistent=False)

    def forward(self, pairs: PairFeatures, batch: Batch) -> Float[Tensor, "atoms"]:
        """Half of the repulsion between each atom and its neighbours, eV."""
        neighbors, blocks = pairs.neighbors, pairs.blocks
        assert neighbors is not None
        lengths, dtype = neighbors.lengths, neighbors.lengths.dtype
        z = blocks.to_blocks(batch.numbers.to(dtype))
        radii = blocks.to_blocks(self.covalent_radii.to(dtype)[batch.numbers])
        key_z, key_radii = (blocks.gather_neighbors(blocks.to_rows(values)) for values in (z, radii))
        z, radii = z[..., None], radii[..., None]
        x = lengths * (z**0.23 + key_z**0.23) / SCREENING_LENGTH
        screening = sum(weight * torch.exp(-rate * x) for weight, rate in SCREENING)
        envelope = polynomial_envelope(lengths / (radii + key_radii).clamp(max=LOCAL_CUTOFF))
        energies = 0.5 * COULOMB_CONSTANT * z * key_z / lengths * screening * envelope * (neighbors.envelope > 0)
        return blocks.from_blocks(energies.sum(-1))


def polynomial_envelope(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 at x = 0, 0 with two derivatives at x = 1 and beyond."""
    p, x = EXPONENT, x.clamp(max=1.0)
    return 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
