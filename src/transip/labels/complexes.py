"""Metal complexes: metals in several oxidation states and spins, with common ligands, on template geometries."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from scipy.spatial.transform import Rotation

from transip.labels.fragments import Fragment, fragment, merge
from transip.labels.geometries import Cluster

_THIRD = np.sqrt(0.75)
SHAPES = {
    "linear": np.array([[0, 0, 1], [0, 0, -1.0]]),
    "tetrahedral": np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3),
    "square planar": np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1.0, 0]]),
    "trigonal bipyramidal": np.array([[0, 0, 1], [0, 0, -1], [1, 0, 0], [-0.5, _THIRD, 0], [-0.5, -_THIRD, 0]]),
    "octahedral": np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]]),
}
COMMON = ("octahedral", "octahedral", "tetrahedral", "trigonal bipyramidal")
D10 = ("linear", "tetrahedral")
TETRAHEDRAL = ("tetrahedral",)
SQUARE_PLANAR = ("square planar",)
OCTAHEDRAL = ("octahedral",)
FIVE_OR_SIX = ("trigonal bipyramidal", "octahedral")

# metal, oxidation state, d electrons, shapes
METALS = (
    ("Al", 3, 0, COMMON), ("Sc", 3, 0, COMMON), ("Ti", 3, 1, COMMON), ("Ti", 4, 0, COMMON), ("V", 3, 2, COMMON),
    ("Cr", 3, 3, COMMON), ("Mn", 2, 5, COMMON), ("Fe", 2, 6, COMMON), ("Fe", 3, 5, COMMON),
    ("Co", 2, 7, COMMON), ("Co", 3, 6, OCTAHEDRAL), ("Ni", 2, 8, (*COMMON, *SQUARE_PLANAR)), ("Cu", 1, 10, D10),
    ("Cu", 2, 9, (*COMMON, *SQUARE_PLANAR)), ("Zn", 2, 10, COMMON), ("Ga", 3, 0, COMMON),
    ("Ge", 4, 0, TETRAHEDRAL), ("Y", 3, 0, COMMON), ("Zr", 4, 0, COMMON), ("Nb", 5, 0, FIVE_OR_SIX),
    ("Mo", 0, 6, OCTAHEDRAL), ("Ru", 2, 6, OCTAHEDRAL), ("Rh", 1, 8, SQUARE_PLANAR), ("Rh", 3, 6, OCTAHEDRAL),
    ("Pd", 2, 8, SQUARE_PLANAR), ("Ag", 1, 10, D10), ("Cd", 2, 10, COMMON), ("In", 3, 0, COMMON),
    ("Sn", 4, 0, COMMON), ("La", 3, 0, OCTAHEDRAL), ("Hf", 4, 0, COMMON), ("Ta", 5, 0, FIVE_OR_SIX),
    ("W", 0, 6, OCTAHEDRAL), ("W", 6, 0, OCTAHEDRAL), ("Re", 1, 6, OCTAHEDRAL), ("Os", 2, 6, OCTAHEDRAL),
    ("Ir", 3, 6, OCTAHEDRAL), ("Pt", 2, 8, SQUARE_PLANAR), ("Pt", 4, 6, OCTAHEDRAL), ("Au", 1, 10, ("linear",)),
    ("Au", 3, 8, SQUARE_PLANAR), ("Hg", 2, 10, D10),
)  # fmt: skip
LIGANDS = (  # the first atom binds
    "O", "N", "P", "[C-]#[O+]", "[C-]#N", "[F-]", "[Cl-]", "[Br-]", "[OH-]", "[N-]=C=S", "n1ccccc1", "N#CC",
    "P(C)(C)C", "n1c[nH]cc1", "[O-]C(C)=O", "[CH3-]",
)  # fmt: skip
LARGEST_CHARGE = 3


def sample_complex(rng: np.random.Generator, max_atoms: int) -> Cluster:
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
    species = [Fragment(np.array([number]), np.zeros((1, 3)), oxidation)]
    for name, direction in zip(names, SHAPES[shape], strict=True):
        species.append(_coordinated(fragment(name), number, direction, rng))
    whole = merge(species)
    spin = 1 + int(rng.choice(unpaired(d_electrons, shape, light=number <= 30)))
    source = f"[{metal}+{oxidation}] {shape} " + ".".join(names)
    return Cluster("metal_complexes", source, charge, spin, whole.numbers, whole.positions)


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


def _coordinated(ligand: Fragment, metal: int, direction: np.ndarray, rng: np.random.Generator) -> Fragment:
    """`ligand` with its first atom at bonding distance along `direction`, the rest pointing outwards."""
    distance = covalent_radii[metal] + covalent_radii[ligand.numbers[0]]
    spin = Rotation.from_rotvec(rng.uniform(0, 2 * np.pi) * direction)
    outwards = ligand.positions.mean(0)
    if len(ligand) > 1:
        spin = spin * Rotation.align_vectors([direction], [outwards])[0]
    return ligand.moved(spin, distance * direction)
