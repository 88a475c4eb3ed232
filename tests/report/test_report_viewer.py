import ase.build
import numpy as np

from transip.report.viewer import bonds


def test_bonds_are_those_that_chemists_draw() -> None:
    for name, expected in (("CH3CH2OH", 8), ("C6H6", 12), ("CO2", 2), ("H2O", 2), ("LiF", 1)):
        atoms = ase.build.molecule(name)
        assert len(bonds(atoms.numbers, atoms.positions)) == expected, name


def test_separate_molecules_are_not_bonded() -> None:
    water = ase.build.molecule("H2O")
    positions = np.concatenate([water.positions, water.positions + 2.5])
    assert bonds(np.tile(water.numbers, 2), positions) == [[0, 1], [0, 2], [3, 4], [3, 5]]
