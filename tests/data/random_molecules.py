"""Molecules for the tests of `transip.data`: real ones with made-up labels, and random ones."""

import ase.build
import numpy as np
from hypothesis import strategies as st

from transip.structure import Structure

NAMES = ("H2O", "CH4", "C2H6", "CH3OH", "NH3", "CO2", "C6H6", "HCN", "CH3CN", "C2H4", "CH3SH", "CH3Cl")
ATOMIC_ENERGIES = {1: -16.0, 6: -1037.0, 7: -1490.0, 8: -2047.0, 16: -10834.0, 17: -12522.0}  # eV


def real(count: int, seed: int = 0) -> list[Structure]:
    """Slightly distorted molecules with bond lengths and total energies as at a DFT level."""
    generator = np.random.default_rng(seed)
    structures = []
    for i in range(count):
        atoms = ase.build.molecule(NAMES[i % len(NAMES)])
        positions = atoms.positions + generator.normal(scale=0.02, size=(len(atoms), 3))
        energy = sum(ATOMIC_ENERGIES[z] for z in atoms.numbers.tolist()) + generator.normal(scale=0.1)
        structures.append(
            Structure(
                numbers=atoms.numbers.astype(np.int64),
                positions=positions,
                charge=0,
                spin=1,
                energy=float(energy),
                forces=generator.normal(size=(len(atoms), 3)),
                domain=("neutral_organics", "reactivity")[i % 2],
                source=f"molecule-{i}",
            )
        )
    return structures


@st.composite
def random_structures(draw, *, labelled: bool = True, max_atoms: int = 9) -> Structure:
    """Any elements on the points of a 1 Å grid, with a possible charge and multiplicity."""
    count = draw(st.integers(1, max_atoms))
    numbers = np.array(draw(st.lists(st.integers(1, 86), min_size=count, max_size=count)), dtype=np.int64)
    points = draw(st.permutations(range(27)))[:count]
    positions = np.array(np.unravel_index(points, (3, 3, 3)), dtype=np.float64).T
    charge = draw(st.integers(-5, 5).filter(lambda q: numbers.sum() - q >= 2))
    parity = (int(numbers.sum()) - charge) % 2
    finite = st.floats(-1e6, 1e6, width=32)
    forces = np.array(draw(st.lists(finite, min_size=3 * count, max_size=3 * count))).reshape(count, 3)
    values = st.floats(-10, 10, width=32)
    per_atom = st.none() | st.lists(values, min_size=count, max_size=count).map(np.array)
    return Structure(
        numbers=numbers,
        positions=positions,
        charge=charge,
        charges=draw(per_atom),
        spin_populations=draw(per_atom),
        dipole=draw(st.none() | st.lists(values, min_size=3, max_size=3).map(np.array)),
        spin=1 + parity,
        energy=draw(st.floats(-1e8, 1e8)) if labelled else None,
        forces=forces if labelled else None,
        domain=draw(st.sampled_from(["", "elytes", "reactivity"])),
        source=draw(st.text(max_size=5)),
    )
