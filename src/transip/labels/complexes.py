"""Metal complexes: metals in several oxidation states and spins, with common ligands, on template geometries."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from scipy.spatial.transform import Rotation

from transip.labels.fragments import Fragment, fragment, joined
from transip.labels.molecules import Molecule

_THIRD = np.sqrt(0.75)
SHAPES = {
    "linear": np.array([[0, 0, 1], [0, 0, -1.0]]),
    "tetrahedral": np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3),
    "square planar": np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1.0, 0]]),
    "trigonal bipyramidal": np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [-0.5, _THIRD, 0], [-0.5, -_THIRD, 0]]),
    "octahedral": np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]]),
}
MANY = ("octahedral", "octahedral", "tetrahedral", "trigonal bipyramidal")
TEN = ("linear", "tetrahedral")
FOUR = ("tetrahedral",)
FLAT = ("square planar",)
SIX = ("octahedral",)
HIGH = ("trigonal bipyramidal", "octahedral")

# metal, oxidation state, d electrons, shapes
METALS = (
    ("Al", 3, 0, MANY), ("Sc", 3, 0, MANY),
    ("Ti", 3, 1, MANY), ("Ti", 4, 0, MANY), ("V", 3, 2, MANY), ("Cr", 3, 3, MANY), ("Mn", 2, 5, MANY),
    ("Fe", 2, 6, MANY), ("Fe", 3, 5, MANY), ("Co", 2, 7, MANY), ("Co", 3, 6, SIX),
    ("Ni", 2, 8, (*MANY, *FLAT)), ("Cu", 1, 10, TEN), ("Cu", 2, 9, (*MANY, *FLAT)), ("Zn", 2, 10, MANY),
    ("Ga", 3, 0, MANY), ("Ge", 4, 0, FOUR), ("Y", 3, 0, MANY), ("Zr", 4, 0, MANY), ("Nb", 5, 0, HIGH),
    ("Mo", 0, 6, SIX), ("Ru", 2, 6, SIX), ("Rh", 1, 8, FLAT), ("Rh", 3, 6, SIX),
    ("Pd", 2, 8, FLAT), ("Ag", 1, 10, TEN), ("Cd", 2, 10, MANY), ("In", 3, 0, MANY), ("Sn", 4, 0, MANY),
    ("La", 3, 0, SIX), ("Hf", 4, 0, MANY), ("Ta", 5, 0, HIGH), ("W", 0, 6, SIX), ("W", 6, 0, SIX),
    ("Re", 1, 6, SIX), ("Os", 2, 6, SIX),
    ("Ir", 3, 6, SIX), ("Pt", 2, 8, FLAT), ("Pt", 4, 6, SIX), ("Au", 1, 10, ("linear",)), ("Au", 3, 8, FLAT),
    ("Hg", 2, 10, TEN),
)  # fmt: skip
LIGANDS = (  # the first atom binds
    "O", "N", "P", "[C-]#[O+]", "[C-]#N", "[F-]", "[Cl-]", "[Br-]", "[OH-]", "[N-]=C=S", "n1ccccc1", "N#CC",
    "P(C)(C)C", "n1c[nH]cc1", "[O-]C(C)=O", "[CH3-]",
)  # fmt: skip
LARGEST_CHARGE = 3


def draw(rng: np.random.Generator, max_atoms: int) -> Molecule:
    """A complex of one metal with one or two kinds of ligand, of low or high spin."""
    while True:
        metal, oxidation, d_electrons, shapes = METALS[rng.integers(len(METALS))]
        shape = str(rng.choice(shapes))
        kinds = rng.choice(LIGANDS, size=2, replace=False)
        names = [str(kinds[0] if rng.random() < 0.7 else kinds[1]) for _ in SHAPES[shape]]
        charge = oxidation + sum(fragment(name).charge for name in names)
        if abs(charge) <= LARGEST_CHARGE:
            break
    number = atomic_numbers[metal]
    parts = [Fragment(np.array([number]), np.zeros((1, 3)), oxidation)]
    for name, direction in zip(names, SHAPES[shape], strict=True):
        parts.append(_bound(fragment(name), number, direction, rng))
    whole = joined(parts)
    spin = 1 + int(rng.choice(unpaired(d_electrons, shape, light=number <= 30)))
    source = f"[{metal}+{oxidation}] {shape} " + ".".join(names)
    return Molecule("metal_complexes", source, charge, spin, numbers=whole.numbers, positions=whole.positions)


def unpaired(d_electrons: int, shape: str, light: bool) -> list[int]:
    """Numbers of unpaired electrons worth trying: low spin, and for `light` (3d) metals high spin too."""
    high = min(d_electrons, 10 - d_electrons)
    if shape == "square planar":
        low = d_electrons % 2
    elif 4 <= d_electrons <= 7:  # t2g fills before eg
        low = abs(6 - d_electrons)
    else:
        low = high
    if shape == "square planar" or not light:
        return [low]
    return [high] if shape == "tetrahedral" else sorted({low, high})


def _bound(ligand: Fragment, metal: int, direction: np.ndarray, rng: np.random.Generator) -> Fragment:
    """`ligand` with its first atom at bonding distance along `direction`, the rest pointing outwards."""
    distance = covalent_radii[metal] + covalent_radii[ligand.numbers[0]]
    spin = Rotation.from_rotvec(rng.uniform(0, 2 * np.pi) * direction)
    outwards = ligand.positions.mean(0)
    if len(ligand) > 1:
        spin = spin * Rotation.align_vectors([direction], [outwards])[0]
    return ligand.moved(spin, distance * direction)
