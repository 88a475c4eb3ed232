"""Molecules and geometries: every domain gives possible, reproducible, thermally displaced structures."""

from collections import Counter

import numpy as np
import pytest

from transip.config import DomainSettings, LabelSettings
from transip.errors import InputError
from transip.labels import complexes, electrolytes, geometries, peptides, sources
from transip.labels.chunks import label_chunk
from transip.labels.fragments import fragment, gap
from transip.labels.geometries import Cluster
from transip.labels.molecules import LabelingError
from transip.labels.organics import ELEMENTS, molecules_up_to
from transip.structure import check_parity, rigid_body_modes

pytest.importorskip("tblite")
pytest.importorskip("rdkit")

DOMAINS = ("neutral_organics", "biomolecules", "elytes", "metal_complexes", "reactivity")


def campaign(domain, chunk=6, **settings):
    small_ones = {"structures": 4, "max_atoms": 14, "conformers": 2} | settings
    return LabelSettings(domains=[{"domain": domain, **small_ones}], chunk=chunk)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_yields_possible_labelled_structures(domain):
    chunk = label_chunk(campaign(domain), 0, 0)
    assert len(chunk.structures) >= 3
    for structure in chunk.structures:
        structure.check()  # parity, overlap, elements, finite numbers
        assert structure.domain == domain
        assert len(structure) <= 14
        np.testing.assert_allclose(structure.positions.mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(structure.forces.sum(0), 0, atol=1e-5)
    assert len({structure.source for structure in chunk.structures}) == len(chunk.structures)


@pytest.mark.parametrize("domain", DOMAINS)
def test_draws_are_a_function_of_seed_and_index(domain):
    settings = DomainSettings(domain=domain, structures=1, max_atoms=30)
    one, again, other = ([sources.sample_molecule(settings, (seed, 0), i) for i in range(8)] for seed in (0, 0, 1))
    assert [m.source for m in one] == [m.source for m in again]
    assert [m.source for m in one] != [m.source for m in other]
    for a, b in zip(one, again, strict=True):
        assert (a.charge, a.spin) == (b.charge, b.spin)
        if isinstance(a, Cluster):
            assert (a.positions == b.positions).all()


@pytest.mark.parametrize("domain", ["elytes", "metal_complexes"])
def test_assembled_molecules_have_possible_spins_and_no_overlap(domain):
    settings = DomainSettings(domain=domain, structures=1, max_atoms=40)
    molecules = [sources.sample_molecule(settings, (0, 0), i) for i in range(60)]
    for molecule in molecules:
        check_parity(molecule.numbers.tolist(), molecule.charge, molecule.spin, molecule.source)
        distances = np.linalg.norm(molecule.positions[:, None] - molecule.positions, axis=-1)
        assert distances[np.triu_indices(len(molecule), 1)].min() > 0.7
    charges = Counter(molecule.charge for molecule in molecules)
    assert min(charges) < 0 < max(charges)


def test_complexes_come_in_low_and_high_spin():
    assert complexes.unpaired(6, "octahedral", light=True) == [0, 4]
    assert complexes.unpaired(5, "octahedral", light=True) == [1, 5]
    assert complexes.unpaired(8, "square planar", light=True) == [0]
    assert complexes.unpaired(8, "octahedral", light=True) == [2]
    assert complexes.unpaired(6, "octahedral", light=False) == [0]
    assert complexes.unpaired(7, "tetrahedral", light=True) == [3]


def test_a_solvent_molecule_touches_its_ion_and_faces_it():
    rng = np.random.default_rng(0)
    ion, water = fragment("[Na+]"), fragment("O")
    placed = electrolytes._solvating(ion, water, rng)
    assert 0 <= gap(ion, placed) < 0.1
    distances = np.linalg.norm(placed.positions, axis=1)
    assert distances[0] == distances.min()  # the oxygen


def test_peptides_take_several_protonation_states():
    rng = np.random.default_rng(0)
    molecules = [peptides.sample_biomolecule(rng, 100) for _ in range(60)]
    states = Counter(molecule.charge for molecule in molecules)
    assert {-1, 0, 1} <= set(states)
    assert any("[NH3+]" in m.source and "[O-]" in m.source and m.charge == 0 for m in molecules)  # a zwitterion
    for molecule in molecules:
        assert sum(atom.GetNumRadicalElectrons() for atom in molecule.rdkit_mol.GetAtoms()) == 0


def test_reactivity_has_radicals_ions_and_both_spins_of_breaking_bonds():
    settings = DomainSettings(domain="reactivity", structures=1, max_atoms=20)
    seen = {(m.charge, m.spin) for m in (sources.sample_molecule(settings, (0, 0), i) for i in range(120))}
    assert seen == {(0, 1), (0, 3), (0, 2), (1, 1), (-1, 1), (1, 2), (-1, 2)}


def test_organics_are_what_they_say():
    molecules = molecules_up_to(12)
    assert len(molecules) > 100
    for _, bonds in molecules:
        assert bonds.GetNumAtoms() <= 12
        assert {atom.GetAtomicNum() for atom in bonds.GetAtoms()} <= ELEMENTS


def test_a_pass_over_the_organics_meets_each_molecule_once():
    number = len(molecules_up_to(8))
    settings = DomainSettings(domain="neutral_organics", structures=1, max_atoms=8)
    first, second = (
        [sources.sample_molecule(settings, (0, 0), t * number + i).source for i in range(number)] for t in (0, 1)
    )
    assert len(set(first)) == number
    assert set(first) == set(second)
    assert first != second


def test_the_hessian_is_the_derivative_of_the_force_field():
    _, bonds = molecules_up_to(12)[7]
    (field,) = geometries.conformers(bonds, 1, seed=3)
    field.Minimize(maxIts=500)
    minimum, hessian = np.array(field.Positions()).reshape(-1, 3), geometries.hessian(field)
    step = 0.01 * np.random.default_rng(0).normal(size=minimum.shape)
    energies = [field.CalcEnergy((minimum + s * step).ravel().tolist()) for s in (-1, 0, 1)]
    curvature = (energies[0] - 2 * energies[1] + energies[2]) * 0.0433641
    assert curvature == pytest.approx(step.ravel() @ hessian @ step.ravel(), rel=0.01)
    stiffness = np.linalg.eigvalsh(hessian)
    assert np.abs(stiffness[:6]).max() < 0.05  # translations and rotations
    assert stiffness[6] > -0.01


def test_thermal_displacements_follow_equipartition_and_are_not_rigid():
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(5, 3))
    rigid = rigid_body_modes(positions)
    inside = np.eye(15) - rigid @ rigid.T
    root = inside @ rng.normal(size=(15, 15))
    hessian = root @ root.T + 5 * inside
    drawn = np.array([geometries.thermal(hessian, positions, 300.0, rng).ravel() for _ in range(3000)])
    energy = np.einsum("si,ij,sj->s", drawn, hessian, drawn).mean() / 2
    assert energy == pytest.approx(9 / 2 * 8.617333e-5 * 300, rel=0.05)
    assert np.abs(drawn @ rigid).max() < 1e-3


@pytest.mark.parametrize("domain", ["neutral_organics", "elytes"])
def test_forces_grow_with_temperature(domain):
    def force(temperature):
        found = label_chunk(campaign(domain, chunk=8, temperatures=(temperature,), max_atoms=10), 0, 0).structures
        return np.sqrt(np.mean(np.concatenate([s.forces.ravel() for s in found]) ** 2))

    assert force(30.0) < force(300.0) < force(2000.0)


def test_gaussian_displacement_grows_with_sigma_and_is_cut_at_max_force():
    weak, strong = (
        label_chunk(
            campaign("neutral_organics", displacement="gaussian", sigmas=(sigma,), max_force=limit, chunk=12),
            0,
            0,
        )
        for sigma, limit in ((0.02, 50.0), (0.15, 4.0))
    )
    assert not weak.failures
    assert strong.failures["force above max_force"] > 0
    for structure in strong.structures:
        assert np.linalg.norm(structure.forces, axis=1).max() <= 4.0


def test_a_domain_without_molecules_small_enough_says_so():
    for domain in ("neutral_organics", "metal_complexes"):
        with pytest.raises(InputError, match="max_atoms"):
            label_chunk(campaign(domain, max_atoms=1), 0, 0)


def test_molecules_of_ones_own_in_the_place_of_the_domains():
    own = {"smiles": ("OB(O)C=C", "C[NH3+]", "[CH2]C"), "max_atoms": 12, "conformers": 1}
    chunk = label_chunk(campaign("biomolecules", chunk=6, **own), 0, 0)
    found = {s.source.split()[0]: (s.formula, s.charge, s.spin, s.domain) for s in chunk.structures}
    assert found == {
        "OB(O)C=C": ("C2H5BO2", 0, 1, "biomolecules"),
        "C[NH3+]": ("CH6N", 1, 1, "biomolecules"),
        "[CH2]C": ("C2H5", 0, 2, "biomolecules"),
    }
    assert len(chunk.structures) == 6


def test_smiles_that_cannot_be_used_are_named():
    with pytest.raises(InputError, match="'C1CC' is no SMILES"):
        label_chunk(campaign("neutral_organics", smiles=("CC", "C1CC")), 0, 0)
    with pytest.raises(InputError, match="max_atoms"):
        label_chunk(campaign("neutral_organics", smiles=("CC",), max_atoms=7), 0, 0)


def test_what_cannot_be_embedded_is_a_counted_failure():
    from rdkit import Chem

    impossible = Chem.AddHs(Chem.MolFromSmiles("C1CC2CCC1=C2"))  # a bridgehead double bond: no conformer
    with pytest.raises(LabelingError, match="embedding failed"):
        list(geometries.conformers(impossible, 1, seed=0))
