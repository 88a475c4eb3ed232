"""Liquids: boxes look like water, and periodic labels are derivatives that know no box edges."""

from dataclasses import replace

import numpy as np
import pytest
from ase.neighborlist import neighbor_list

from transip.config import LabelSettings
from transip.errors import InputError
from transip.labels import liquids, sources
from transip.labels.chunks import Chunk, _label, label_chunk
from transip.labels.methods import gfn2_xtb, wb97m_v
from transip.labels.molecules import LabelingError
from transip.structure import Structure

pytest.importorskip("tblite")
pytest.importorskip("rdkit")

STEP = 1e-3  # Å, or strain
DOMAIN = {"domain": "liquids", "structures": 3, "max_atoms": 36, "conformers": 2, "temperatures": [300]}


def settings(chunk=2, **changes):
    return LabelSettings.model_validate({"domains": [DOMAIN | changes], "chunk": chunk})


def wanted(**changes):
    return settings(**changes).domains[0]


@pytest.fixture(scope="module")
def chunk():
    return label_chunk(settings(), 0, 0)


@pytest.fixture(scope="module")
def box():
    """Eight molecules, labelled."""
    molecule = sources.sample_molecule(wanted(), (0, 0), 0)
    positions, atoms = np.array([[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]), 24
    rng, sites = np.random.default_rng(0), np.indices((2, 2, 2)).reshape(3, -1).T
    positions = (3.1 * sites[:, None] + positions).reshape(-1, 3) + rng.normal(scale=0.03, size=(atoms, 3))
    cell = 6.2 * molecule.cell / np.cbrt(np.linalg.det(molecule.cell))
    return gfn2_xtb(Structure(molecule.numbers[:atoms], positions @ cell / 6.2, 0, 1, cell=cell, domain="liquids"))


def slope(label, case, how, size=STEP):
    """Derivative of the energy along `how`, a function of a structure and a step."""
    up, down = (label(how(case, step)).energy for step in (size, -size))
    return (up - down) / (2 * size)


def test_periodic_forces_and_stress_are_derivatives_of_the_energy(box):
    def pushed(case, step):
        moved = case.positions.copy()
        moved[4, 1] += step
        return replace(case, positions=moved)

    def sheared(case, step):
        strain = np.eye(3)
        strain[0, 2] += step / 2
        strain[2, 0] += step / 2
        return replace(case, positions=case.positions @ strain, cell=case.cell @ strain)

    assert box.forces[4, 1] == pytest.approx(-slope(gfn2_xtb, box, pushed), abs=2e-3)
    stress = slope(gfn2_xtb, box, sheared) / np.linalg.det(box.cell)
    assert box.stress[0, 2] == pytest.approx(stress, abs=1e-5)
    np.testing.assert_allclose(box.forces.sum(0), 0, atol=1e-6)


def test_labels_do_not_know_where_the_cell_begins(box):
    elsewhere = np.array([0.7, -2.0, 11.0]) + np.random.default_rng(1).integers(-2, 3, size=(len(box), 3)) @ box.cell
    again = gfn2_xtb(replace(box, positions=box.positions + elsewhere))
    assert again.energy == pytest.approx(box.energy, abs=1e-4)
    np.testing.assert_allclose(again.forces, box.forces, atol=1e-3)
    np.testing.assert_allclose(again.stress, box.stress, atol=1e-5)
    assert abs(gfn2_xtb(replace(box, cell=None)).energy - box.energy) > 0.1


def test_methods_refuse_the_cells_that_they_do_not_know(box):
    with pytest.raises(InputError, match="vacuum"):
        gfn2_xtb(replace(box, cell=box.cell * [[1], [1], [0]]))  # tblite would repeat it in the third direction too
    with pytest.raises(InputError, match="gfn2-xtb"):
        wb97m_v(box)


def test_atoms_that_overlap_across_a_face_are_a_counted_failure(box):
    positions = box.positions.copy()
    positions[0] = positions[5] + box.cell[1] + [0.1, 0.0, 0.0]
    with pytest.raises(LabelingError) as failed:
        _label(replace(box, positions=positions), wanted(), "gfn2-xtb")
    assert failed.value.reason == "atoms overlap"


def test_a_chunk_is_a_function_of_settings_and_number(chunk):
    again = label_chunk(settings(structures=5), 0, 0)
    assert len(chunk.structures) == 2 and not chunk.failures
    for a, b in zip(chunk.structures, again.structures, strict=True):
        assert a.source == b.source
        for name in ("numbers", "positions", "forces", "cell", "stress", "charges"):
            assert (getattr(a, name) == getattr(b, name)).all()
        assert a.dipole is None
    one, other = chunk.structures
    assert np.linalg.norm(one.positions - other.positions, axis=1).mean() > 0.3  # frames differ


def test_cells_and_stress_survive_a_round_trip_beside_molecules(chunk, tmp_path):
    molecule = replace(chunk.structures[0], cell=None, stress=None)
    Chunk([*chunk.structures, molecule], {}).save(tmp_path / "chunk.npz")
    *periodic, last = Chunk.load(tmp_path / "chunk.npz").structures
    assert last.cell is None and last.stress is None
    for a, b in zip(periodic, chunk.structures, strict=True):
        assert (a.cell == b.cell).all()
        assert (a.stress == b.stress).all()


def test_draws_are_whole_molecules_at_the_density_of_a_liquid():
    for index in range(40):
        molecule = sources.sample_molecule(wanted(max_atoms=72), (0, 0), index)
        assert len(molecule) % 3 == 0 and liquids.FEWEST <= len(molecule) / 3 <= 24
        assert (molecule.numbers.reshape(-1, 3) == [8, 1, 1]).all()
        density = len(molecule) / 3 * 18.015 * 1.66054 / np.linalg.det(molecule.cell)
        assert 0.85 <= density <= 1.15
        assert 1 / np.linalg.norm(np.linalg.inv(molecule.cell), axis=0).max() > 6.0  # Å, between faces
    with pytest.raises(InputError, match="max_atoms"):
        sources.sample_molecule(wanted(max_atoms=20), (0, 0), 0)


def test_the_classical_forces_are_derivatives_of_their_energy():
    molecule = sources.sample_molecule(wanted(), (0, 0), 0)
    water, rng = liquids.FlexibleTIP3P(molecule.cell), np.random.default_rng(0)
    positions = molecule.positions + rng.normal(scale=0.05, size=molecule.positions.shape)
    along = rng.normal(size=positions.shape)
    _, forces = water(positions)
    up, down = (water(positions + s * 1e-5 * along)[0] for s in (1, -1))
    assert -(forces * along).sum() == pytest.approx((up - down) / 2e-5, rel=1e-4)
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-9)


def test_boxes_look_like_liquid_water():
    bonds, neighbours, volumes = [], [], []
    for index in range(3):
        molecule = sources.sample_molecule(wanted(max_atoms=72), (0, 0), index)
        for frame in molecule.geometries(wanted(temperatures=[300.0], conformers=2), np.random.default_rng(index)):
            atoms = frame.check().to_atoms()
            i, j, distances = neighbor_list("ijd", atoms, 6.0)
            oxygens, bonded = (atoms.numbers[i] == 8) & (atoms.numbers[j] == 8), i // 3 == j // 3
            bonds.extend(distances[bonded & (i % 3 == 0) & (distances < 1.3)])
            neighbours.extend(distances[oxygens])
            volumes.append(len(atoms) ** 2 / 9 / atoms.get_volume())
    assert len(bonds) == 2 * 2 * sum(
        len(sources.sample_molecule(wanted(max_atoms=72), (0, 0), k)) // 3 for k in range(3)
    )
    assert 0.85 < min(bonds) < max(bonds) < 1.1
    edges = np.arange(2.0, 6.01, 0.2)
    ideal = sum(volumes) * 4 / 3 * np.pi * np.diff(edges**3)
    structure = np.histogram(neighbours, edges)[0] / ideal
    peak = structure.argmax()
    assert 2.6 <= edges[peak] < edges[peak + 1] <= 3.05
    assert structure[peak] > 2  # and beyond it next to no order
    assert np.abs(structure[8:] - 1).max() < 0.4


def test_gaussian_displacements_are_added_to_the_liquid():
    molecule = sources.sample_molecule(wanted(), (0, 0), 0)
    seed = np.random.default_rng
    thermal = next(molecule.geometries(wanted(), seed(0))).positions
    gaussian = next(molecule.geometries(wanted(displacement="gaussian", sigmas=[0.05]), seed(0))).positions
    assert (gaussian - thermal).std() == pytest.approx(0.05, rel=0.2)
