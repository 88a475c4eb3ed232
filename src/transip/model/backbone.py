"""The seam for other networks: what a `Potential` asks of its backbone, and what a backbone hands to the heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from transip.batch import Batch
from transip.config import ModelSettings
from transip.model.pair_features import PairFeatures


class AtomicCharges(NamedTuple):
    """Charges and spins of the atoms of a batch.

    Attributes:
        charges: partial charges in e, which sum to the total charge of each structure, (atoms,).
        spin_populations: unpaired electrons of each atom, which sum to 2S, (atoms,).
        shared: the part of `charges` that was shared out because the atoms' surroundings did not say it, (atoms,).
        unassigned: what of the total charge (e) and of the unpaired electrons the atoms' surroundings do not say,
            Q − Σq⁰ and 2S − Σv, (structures, 2).
    """

    charges: Float[Tensor, "atoms"]
    spin_populations: Float[Tensor, "atoms"]
    shared: Float[Tensor, "atoms"]
    unassigned: Float[Tensor, "structures 2"]


@dataclass(frozen=True)
class Encoded:
    """What a backbone has made of the atoms of a batch.

    Attributes:
        embeddings: of the atoms, from which the heads read energies and forces, (atoms, width).
        hidden_states: of the atoms after each of the layers asked for, (atoms, width); the latent loss compares them.
        pairs: pairs of atoms, from which the head for forces along edges reads; None: the backbone has none to offer.
        charges: partial charges and spin populations; None: the backbone knows none.
    """

    embeddings: Float[Tensor, "atoms width"]
    hidden_states: tuple[Float[Tensor, "atoms width"], ...] = ()
    pairs: PairFeatures | None = None
    charges: AtomicCharges | None = None


@runtime_checkable
class Backbone(Protocol):
    """An `nn.Module` that encodes the atoms of a batch; the built-in one is `transip.model.transformer.Transformer`.

    Attributes:
        width: features of an embedding.
        depth: number of layers.
    """

    width: int
    depth: int

    def forward(
        self,
        batch: Batch,
        positions: Float[Tensor, "atoms 3"],
        cell: Float[Tensor, "structures 3 3"] | None,
        layers: Sequence[int],
    ) -> Encoded:
        """Encode the atoms of `batch`.

        Args:
            batch: elements, charges, multiplicities, and which atoms belong together.
            positions: Å, to be used in the place of `batch.positions`: forces are derivatives with respect to them.
            cell: lattice vectors in Å, one per row, likewise; None of molecules.
            layers: of which layers hidden states are wanted, counted from 0 or, if negative, from the end.
        """
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Encoded:
        """`forward`, as every `nn.Module` calls it."""
        ...

    def muon_parameters(self) -> Iterable[nn.Parameter]:
        """Matrices that the Muon optimiser may have; all other parameters are AdamW's."""
        ...


BuildBackbone = Callable[[ModelSettings], Backbone]
