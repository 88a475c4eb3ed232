"""Pairs: two molecules or ions in random orientation, from closer than contact to 12 Å, and each of them alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.distance import cdist

from transip.config import DomainSettings
from transip.labels import organics
from transip.labels.electrolytes import ANIONS, CATIONS, SOLVENTS
from transip.labels.fragments import Fragment, fragment, merge, place_near
from transip.labels.geometries import Cluster
from transip.labels.molecules import LabelingError, MoleculeSpec
from transip.structure import Structure

METAL_CATIONS = tuple(cation for cation in CATIONS if cation != "[NH4+]")
OTHER_CATIONS = (
    "[NH4+]", "C[NH3+]", "C[NH+](C)C", "C[N+](C)(C)C", "NC(N)=[NH2+]", "c1c[nH+]c[nH]1", "c1cc[nH+]cc1", "C[OH2+]",
    "CC(N)=[OH+]",
)  # fmt: skip
ORGANIC_ANIONS = (
    "O=C[O-]", "CC(=O)[O-]", "O=C([O-])C(F)(F)F", "C[O-]", "[O-]c1ccccc1", "C[S-]", "CS(=O)(=O)[O-]",
    "COP(=O)([O-])OC", "O=C([O-])O", "[C-]#N", "[N-]=C=S", "[OH-]",
)  # fmt: skip
MOLECULES = (
    *SOLVENTS, "N", "C", "C=O", "C=C", "C#C", "CN", "CF", "S", "NC=O", "CC(N)=O", "c1ccccc1", "O=C=O", "c1c[nH]cn1",
)  # fmt: skip
RADICALS = ("[OH]", "[CH3]", "[NH2]", "C[O]", "[CH2]C", "C[S]", "C[CH]C", "[CH2]C=C")  # doublets

KINDS = {"neutral": 0.35, "ion": 0.3, "counter-ions": 0.25, "like ions": 0.05, "radical": 0.05}  # share of pairs
LARGEST_ORGANIC = 16  # atoms of a molecule of the organics, which are drawn for half of the neutral molecules
NEAREST, FARTHEST = -0.45, 9.5  # Å beyond contact: of O–H 1.7 to 11.7 Å, of Na–O 2.0 to 11.9 Å
FARTHEST_OF_METALS = 2.5  # Å: farther off GFN2-xTB leaves up to 1.5 e of a metal's charge on whatever else there is
SEPARATED = 5.0  # Å between the nearest atoms, from where on each fragment has to keep its own charge
CHARGE_TOLERANCE = 0.1  # e


def sample_pair(rng: np.random.Generator, max_atoms: int) -> Pair:
    """Two neutral molecules, an ion with a molecule, two ions, or a radical with a molecule, of any size."""
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    sign = 1 if kind == "counter-ions" or rng.random() < 0.5 else -1
    if kind == "neutral":
        first = _molecule(rng)
    elif kind == "radical":
        first = _cluster(str(rng.choice(RADICALS)), spin=2)
    else:
        first = _ion(rng, sign)
    if kind == "counter-ions":
        second = _ion(rng, -sign)
    elif kind == "like ions":
        second = _ion(rng, sign)
    else:
        second = _molecule(rng)
    spin = first.spin + second.spin - 1
    return Pair("pairs", f"{first.source}.{second.source}", first.charge + second.charge, spin, first, second)


@dataclass(frozen=True, eq=False)
class Pair(MoleculeSpec):
    """Two species, each of which comes in one displaced geometry.

    Attributes:
        first, second: the species; in structures of both, the atoms of `first` come first.
    """

    first: MoleculeSpec
    second: MoleculeSpec

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def geometries(self, settings: DomainSettings, rng: np.random.Generator) -> Iterator[Structure]:
        """Both at many distances and in many orientations, then each alone, in the same geometries as together."""
        one_each = settings.model_copy(update={"conformers": 1})
        alone = [next(iter(species.geometries(one_each, rng))) for species in (self.first, self.second)]
        first, second = (Fragment(s.numbers, s.positions, s.charge) for s in alone)
        num_together = max(settings.conformers - len(alone), 1)
        metal = {self.first.source, self.second.source} & set(METAL_CATIONS)
        span = (FARTHEST_OF_METALS if metal else FARTHEST) - NEAREST
        for _ in range(num_together):  # dense at contact: a third of the distances are within a ninth of the span
            pair = merge([first, place_near(first, second, rng, NEAREST + span * rng.random() ** 2)])
            yield self.at(pair.numbers, pair.positions - pair.positions.mean(0))
        for structure in alone[: settings.conformers - num_together]:
            yield replace(structure, domain=self.domain)

    def check_labels(self, labelled: Structure) -> Structure:
        """Return `labelled` if separated members hold their own charges.

        Raises:
            LabelingError: they do not.
        """
        together = len(labelled) == len(self)
        if together and not keeps_charges(labelled, len(self.first), self.first.charge):
            raise LabelingError("charge delocalised over separated fragments")
        return labelled


def keeps_charges(labelled: Structure, num_first: int, charge: int) -> bool:
    """Whether the first `num_first` atoms hold `charge` (e), as they must from `SEPARATED` on.

    Approximate methods delocalise charge over fragments that are far apart. True where there are no charges to judge.
    """
    if labelled.charges is None:
        return True
    first, second = labelled.positions[:num_first], labelled.positions[num_first:]
    separated = cdist(first, second).min() > SEPARATED
    return not separated or bool(abs(labelled.charges[:num_first].sum() - charge) <= CHARGE_TOLERANCE)


def _molecule(rng: np.random.Generator) -> MoleculeSpec:
    if rng.random() < 0.5:
        return organics.sample_organic((int(rng.integers(2**31)),), 0, LARGEST_ORGANIC)
    return _cluster(str(rng.choice(MOLECULES)))


def _ion(rng: np.random.Generator, sign: int) -> Cluster:
    groups = (METAL_CATIONS, OTHER_CATIONS) if sign > 0 else (ANIONS, ORGANIC_ANIONS)
    return _cluster(str(rng.choice(groups[rng.integers(2)])))


def _cluster(smiles: str, spin: int = 1) -> Cluster:
    species = fragment(smiles)
    return Cluster("pairs", smiles, species.charge, spin, species.numbers, species.positions)
