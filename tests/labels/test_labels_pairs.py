"""Pairs: near and far, in every orientation, with their members; never those that benchmarks test; whole charges."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from transip.config import DomainSettings
from transip.labels import pairs, sources
from transip.labels.geometries import BondedMolecule
from transip.labels.molecules import LabelingError, atomic_numbers
from transip.structure import check_parity

pytest.importorskip("tblite")
chem = pytest.importorskip("rdkit.Chem")

SETTINGS = DomainSettings(domain="pairs", structures=1, max_atoms=30, conformers=10)


def pair(first: str, second: str) -> pairs.Pair:
    members = [pairs._cluster(smiles) for smiles in (first, second)]
    return pairs.Pair("pairs", f"{first}.{second}", sum(member.charge for member in members), 1, *members)


def nearest(structure, num_first: int) -> float:
    return cdist(structure.positions[:num_first], structure.positions[num_first:]).min()


def test_pairs_are_of_every_kind_and_have_possible_electrons():
    drawn = [sources.sample_molecule(SETTINGS, (0, 0), i) for i in range(150)]
    kinds = {(np.sign(p.first.charge), np.sign(p.second.charge)) for p in drawn}
    assert {(0, 0), (1, 0), (-1, 0), (1, -1), (1, 1), (-1, -1)} >= kinds >= {(0, 0), (1, 0), (-1, 0), (1, -1)}
    assert {p.spin for p in drawn} == {1, 2}
    for p in drawn:
        numbers = [*atomic_numbers_of(p.first), *atomic_numbers_of(p.second)]
        check_parity(numbers, p.charge, p.spin, p.source)
        assert len(numbers) == len(p) <= 30
    assert len({p.source for p in drawn}) > 130


def atomic_numbers_of(member) -> list[int]:
    of_molecule = isinstance(member, BondedMolecule)
    return (atomic_numbers(member.rdkit_mol) if of_molecule else member.numbers).tolist()


@pytest.mark.parametrize("domain", ["pairs", "elytes"])
def test_a_pair_of_the_benchmark_is_drawn_again(domain, monkeypatch):
    offered = iter([pair("O", "O"), pair("CC(=O)[O-]", "[Na+]"), pair("[Na+]", "O")])
    monkeypatch.setitem(sources._DRAW, domain, lambda rng, max_atoms: next(offered))
    settings = DomainSettings(domain=domain, structures=1)
    assert sources.sample_molecule(settings, (0, 0), 0).source == "[Na+].O"


def test_held_out_pairs_are_spelled_as_they_are_drawn():
    held_out = {smiles for pair in sources.HELD_OUT_PAIRS for smiles in pair}
    species = (*pairs.METAL_CATIONS, *pairs.OTHER_CATIONS, *pairs.ANIONS, *pairs.ORGANIC_ANIONS, *pairs.MOLECULES)
    for smiles in (*species, *held_out):
        canonical = chem.CanonSmiles(smiles)
        assert (canonical in held_out) == (smiles in held_out)
    assert held_out <= set(species)


def test_distances_reach_from_inside_contact_to_twelve_angstrom_and_are_dense_there():
    settings = SETTINGS.model_copy(update={"conformers": 302})
    found = list(pair("N", "O").geometries(settings, np.random.default_rng(0)))
    distances = np.array([nearest(structure, 4) for structure in found[:300]])
    assert distances.min() < 1.9
    assert 11 < distances.max() < 12.5
    assert (distances < 3.5).mean() > 0.35  # uniform ones: 0.15
    assert (distances > 6).mean() > 0.2
    directions = np.array([s.positions[4:].mean(0) - s.positions[:4].mean(0) for s in found[:300]])
    assert np.abs((directions / np.linalg.norm(directions, axis=1, keepdims=True)).mean(0)).max() < 0.15
    assert [(s.formula, s.domain, s.charge) for s in found[300:]] == [("H3N", "pairs", 0), ("H2O", "pairs", 0)]


def test_a_pair_and_its_members_have_the_same_geometries():
    *together, first, second = pair("[NH4+]", "O").geometries(SETTINGS, np.random.default_rng(1))
    assert (first.charge, second.charge, together[0].charge) == (1, 0, 1)
    assert first.energy is not None  # of dynamics
    for structure in together:
        for alone, atoms in ((first, slice(0, 5)), (second, slice(5, 8))):
            inside = cdist(structure.positions[atoms], structure.positions[atoms])
            np.testing.assert_allclose(inside, cdist(alone.positions, alone.positions), atol=1e-9)


def test_metal_cations_stay_near():
    settings = SETTINGS.model_copy(update={"conformers": 60})
    *together, _, _ = pair("[K+]", "O").geometries(settings, np.random.default_rng(0))
    assert 4 < max(nearest(structure, 1) for structure in together) < 5.5


def test_separated_members_keep_their_charges_or_are_dropped():
    ammonium_water = pair("[NH4+]", "O")
    *together, first, _ = ammonium_water.geometries(
        SETTINGS.model_copy(update={"conformers": 30}), np.random.default_rng(0)
    )
    near, far = (pick(together, key=lambda s: nearest(s, 5)) for pick in (min, max))
    assert nearest(near, 5) < pairs.SEPARATED < nearest(far, 5)
    whole, shared = (np.append(np.full(5, q / 5), np.full(3, (1 - q) / 3)) for q in (0.95, 0.85))
    for geometry, charges in ((near, whole), (near, shared), (far, whole), (far, None)):
        labelled = replace(geometry, charges=charges)
        assert ammonium_water.check_labels(labelled) is labelled
    assert ammonium_water.check_labels(first) is first
    with pytest.raises(LabelingError, match="delocalised"):
        ammonium_water.check_labels(replace(far, charges=shared))
