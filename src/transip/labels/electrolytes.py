"""Electrolytes: ions and ion pairs in a first shell of solvent molecules."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from transip.labels.fragments import Fragment, fragment, merge, place_near
from transip.labels.geometries import Cluster

CATIONS = (
    "[Li+]", "[Na+]", "[K+]", "[Rb+]", "[Cs+]", "[Mg+2]", "[Ca+2]", "[Sr+2]", "[Ba+2]", "[Zn+2]", "[NH4+]",
)  # fmt: skip
ANIONS = (
    "[F-]",
    "[Cl-]",
    "[Br-]",
    "[I-]",
    "F[P-](F)(F)(F)(F)F",  # PF6−
    "F[B-](F)(F)F",  # BF4−
    "[O-][N+](=O)[O-]",  # NO3−
    "[O-]Cl(=O)(=O)=O",  # ClO4−
    "[O-]S(=O)(=O)[O-]",  # SO4 2−
    "FS(=O)(=O)[N-]S(=O)(=O)F",  # FSI−, the small bis(sulfonyl)imide
)
SOLVENTS = (
    "O",  # water
    "CO",  # methanol
    "CC#N",  # acetonitrile
    "CS(C)=O",  # DMSO
    "C1CCOC1",  # THF
    "O=C1OCCO1",  # ethylene carbonate
    "COC(=O)OC",  # dimethyl carbonate
    "COCCOC",  # DME
)
IONS = {"cation": 0.35, "anion": 0.3, "pair": 0.25, "none": 0.1}  # share of clusters
LARGEST_SHELL = 6  # solvent molecules
TRIALS = 12  # placements of a solvent molecule, of which the best solvating is taken


def sample_electrolyte(rng: np.random.Generator, max_atoms: int) -> Cluster:
    """A cluster of zero, one or two ions with one to six molecules of one solvent, sometimes of two."""
    kind = str(rng.choice(list(IONS), p=list(IONS.values())))
    ions = [str(rng.choice(CATIONS))] if kind in ("cation", "pair") else []
    ions += [str(rng.choice(ANIONS))] if kind in ("anion", "pair") else []
    solvents = list(rng.choice(SOLVENTS, size=2, replace=False, p=_favour_water()))[: 1 + int(rng.random() < 0.2)]
    names = ions or [str(solvents[0])]
    cluster = fragment(names[0])
    for ion in names[1:]:
        cluster = merge([cluster, place_near(cluster, fragment(ion), rng)])
    for _ in range(rng.integers(1, LARGEST_SHELL, endpoint=True)):
        solvent = str(rng.choice(solvents))
        if len(cluster) + len(fragment(solvent)) > max_atoms:
            break
        cluster = merge([cluster, _solvating(cluster, fragment(solvent), rng)])
        names.append(solvent)
    return Cluster("elytes", ".".join(names), cluster.charge, 1, cluster.numbers, cluster.positions)


def _favour_water() -> np.ndarray:
    weights = np.array([4.0 if solvent == "O" else 1.0 for solvent in SOLVENTS])
    return weights / weights.sum()


def _solvating(cluster: Fragment, solvent: Fragment, rng: np.random.Generator) -> Fragment:
    """Of several placements, the one that best turns its O or N to a cation, or its hydrogens to an anion."""
    facing = (1,) if cluster.charge < 0 else (7, 8)

    def facing_score(placed: Fragment) -> float:
        distances = cdist(cluster.positions, placed.positions).min(0)
        faces = np.isin(placed.numbers, facing)
        return float(distances[faces].min() - distances[~faces].min())

    return min((place_near(cluster, solvent, rng) for _ in range(TRIALS)), key=facing_score)
