"""Every format gives the same structures, and every kind of bad file says what is wrong with it."""

import sqlite3
import subprocess
import sys
import warnings
from dataclasses import replace

import ase.db
import ase.io
import ase.units
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from random_molecules import real

from transip.config import KeySettings, UnitSettings
from transip.data.read import inspect_keys, read_structures
from transip.data.store import write_pack
from transip.errors import InputError, InputWarning

FORMATS = ("x.extxyz", "x.xyz", "x.db", "x.json", "x.aselmdb", "shards", "x.pack")
HARTREE = 1 / ase.units.Hartree
DFT = KeySettings(energy="REF_energy", forces="REF_forces")


def to_labelled_atoms(structure, energy="energy", forces="forces"):
    """Labels in the calculator under their usual names, otherwise in info and arrays."""
    atoms = structure.to_atoms()
    results = {"energy": structure.energy, "forces": structure.forces}
    if (energy, forces) == ("energy", "forces"):
        atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in results.items() if v is not None})
    else:
        atoms.info[energy], atoms.arrays[forces] = results["energy"], results["forces"]
    return atoms


def write(path, structures):
    """Write `structures` in the format that the name stands for."""
    if path.suffix == ".pack":
        write_pack(path, structures, level_of_theory="test")
    elif path.suffix in (".xyz", ".extxyz"):
        ase.io.write(path, [to_labelled_atoms(s) for s in structures], format="extxyz")
    elif path.suffix == "":
        path.mkdir()
        half = len(structures) // 2
        write(path / "data0010.aselmdb", structures[half:])
        write(path / "data0002.aselmdb", structures[:half])
    else:
        with ase.db.connect(path, type=path.suffix[1:], use_lock_file=False) as database:
            for structure in structures:
                atoms = to_labelled_atoms(structure)
                database.write(atoms, data=atoms.info)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_structures_back(tmp_path, name):
    structures = [*real(20), replace(real(1)[0], charge=-1, spin=2)]
    found = list(read_structures(write(tmp_path / name, structures)))
    assert len(found) == len(structures)
    for a, b in zip(found, structures, strict=True):
        assert np.array_equal(a.numbers, b.numbers)
        assert np.allclose(a.positions, b.positions, atol=1e-6)
        assert np.allclose(a.forces, b.forces, atol=1e-6)
        assert a.energy == pytest.approx(b.energy, abs=1e-7)
        assert (a.charge, a.spin, a.domain, a.source) == (b.charge, b.spin, b.domain, b.source)


@pytest.mark.parametrize("name", FORMATS)
def test_reading_changes_no_file(tmp_path, name):
    path = write(tmp_path / name, real(4))
    files = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    list(read_structures(path))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == files


def test_units_are_converted(tmp_path):
    structures = real(8)
    scaled = [
        replace(
            s,
            positions=s.positions / ase.units.Bohr,
            energy=s.energy * HARTREE,
            forces=s.forces * HARTREE * ase.units.Bohr,
        )
        for s in structures
    ]
    path = write(tmp_path / "x.extxyz", scaled)
    for a, b in zip(
        read_structures(path, units=UnitSettings(energy="hartree", length="bohr")), structures, strict=True
    ):
        assert np.allclose(a.positions, b.positions, atol=1e-6)
        assert np.allclose(a.forces, b.forces, atol=1e-5)
        assert a.energy == pytest.approx(b.energy, rel=1e-6)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("eV/angstrom", 1.0),
        ("hartree/bohr", HARTREE * ase.units.Bohr),
        ("kcal/mol/angstrom", 23.060548),
        ("kJ/mol/angstrom", 96.485332),
    ],
)
def test_forces_may_have_a_unit_of_their_own(tmp_path, unit, factor):
    """As quantum chemistry programs often write them: energies in hartree, positions in Å."""
    structures = real(8)
    path = write(
        tmp_path / "x.extxyz", [replace(s, energy=s.energy * HARTREE, forces=s.forces * factor) for s in structures]
    )
    units = UnitSettings(energy="hartree", forces=unit)
    for a, b in zip(read_structures(path, units=units), structures, strict=True):
        assert np.allclose(a.forces, b.forces, atol=1e-5)
        assert a.energy == pytest.approx(b.energy, rel=1e-6)


# ---------------------------------------------------------------------------------------------- labels


def test_aliases_and_mapped_keys(tmp_path):
    structure = real(1)[0]
    for energy, forces, keys in (
        ("REF_energy", "REF_forces", KeySettings()),
        ("dft_e", "dft_f", KeySettings(energy="dft_e", forces="dft_f")),
    ):
        path = tmp_path / f"{energy}.extxyz"
        ase.io.write(path, to_labelled_atoms(structure, energy, forces), format="extxyz")
        found = next(read_structures(path, keys))
        assert found.energy == pytest.approx(structure.energy)
        assert np.allclose(found.forces, structure.forces, atol=1e-6)
        assert inspect_keys(path, keys)["energy"] == [energy]


def test_missing_labels_list_the_keys_that_exist(tmp_path):
    path = tmp_path / "x.extxyz"
    ase.io.write(path, to_labelled_atoms(real(1)[0], "dft_e", "dft_f"), format="extxyz")
    with pytest.raises(
        InputError, match=r"structure 0: has no energy(.|\n)*charge, data_id, dft_e, dft_f, source, spin"
    ):
        list(read_structures(path))
    with pytest.raises(InputError, match="has no forces: there is no 'f'"):
        list(read_structures(path, KeySettings(energy="dft_e", forces="f")))
    (found,) = read_structures(path, labels="optional")
    assert found.energy is None and found.forces is None
    assert {"dft_e", "dft_f"} <= set(inspect_keys(path)["unused"])


def test_two_different_labels_need_a_mapping(tmp_path):
    structure = real(1)[0]
    atoms = to_labelled_atoms(structure)
    atoms.info["REF_energy"], atoms.arrays["REF_forces"] = structure.energy, structure.forces + 1
    ase.io.write(tmp_path / "x.extxyz", atoms, format="extxyz")
    with pytest.raises(InputError, match="forces is ambiguous: 'forces' and 'REF_forces' differ"):
        list(read_structures(tmp_path / "x.extxyz"))
    (found,) = read_structures(tmp_path / "x.extxyz", DFT)
    assert np.allclose(found.forces, structure.forces + 1, atol=1e-6)


def test_label_of_the_wrong_shape(tmp_path):
    ase.io.write(tmp_path / "x.extxyz", to_labelled_atoms(real(1)[0]), format="extxyz")
    with pytest.raises(InputError, match="is not one number"):
        list(read_structures(tmp_path / "x.extxyz", KeySettings(energy="data_id")))
    with pytest.raises(InputError, match="is not three numbers per atom"):
        list(read_structures(tmp_path / "x.extxyz", KeySettings(forces="energy")))


def test_unlabelled_pack(tmp_path):
    write_pack(tmp_path / "x.pack", [replace(real(1)[0], energy=None, forces=None)], level_of_theory="")
    with pytest.raises(InputError, match="has no energies and forces"):
        list(read_structures(tmp_path / "x.pack"))
    assert len(list(read_structures(tmp_path / "x.pack", labels="optional"))) == 1


# ---------------------------------------------------------------------------------------------- bad structures


@pytest.mark.parametrize("name", ["x.extxyz", "x.pack"])
def test_charge_and_spin_that_are_given_come_first(tmp_path, name):
    structures = [replace(structure, charge=0, spin=1) for structure in real(3)]
    if name == "x.pack":
        write_pack(tmp_path / name, structures, level_of_theory="test")
    else:
        ase.io.write(tmp_path / name, [to_labelled_atoms(s) for s in structures], format="extxyz")
    found = list(read_structures(tmp_path / name, charge=-2, spin=3))
    assert [(s.charge, s.spin) for s in found] == 3 * [(-2, 3)]
    with pytest.raises(InputError, match="cannot have multiplicity 2"):
        list(read_structures(tmp_path / name, spin=2))


def spoil(atoms, **info):
    atoms.info.update(info)
    return atoms


def without(atoms, key):
    del atoms.info[key]
    return atoms


def set_forces_nan(atoms):
    atoms.calc.results["forces"][1, 2] = np.nan
    return atoms


def overlap(atoms):
    atoms.positions[1] = atoms.positions[0] + 0.1
    return atoms


def set_cell(atoms, *edges):
    atoms.pbc, atoms.cell = True, np.diag(edges)
    return atoms


def set_number(atoms, number):
    atoms.numbers[0] = number
    return atoms


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: without(a, "charge"), "charge is missing"),
        (lambda a: without(a, "spin"), "spin is missing"),
        (lambda a: spoil(a, charge=0.5), r"charge is .*0\.5.*, not a whole number"),
        (lambda a: spoil(a, spin=2), "cannot have multiplicity 2"),
        (lambda a: spoil(a, charge=1), "cannot have multiplicity 1"),
        (lambda a: spoil(a, energy=float("nan")), "energy"),
        (set_forces_nan, "forces hold NaN"),
        (overlap, "overlap"),
        (lambda a: set_cell(a, 9, 9, 0), "periodic along a lattice vector of no length"),
        (lambda a: set_cell(a, 9, 9, 0.1), "span .next to. nothing"),
        (lambda a: set_number(a, 92), "unknown atomic number 92"),
        (lambda a: set_number(a, 0), "unknown atomic number 0"),
    ],
)
@pytest.mark.parametrize("name", ["x.db", "x.extxyz"])
def test_bad_structures_are_named(tmp_path, name, change, problem):
    good, path = to_labelled_atoms(real(1)[0]), tmp_path / name
    bad = to_labelled_atoms(real(2)[1])
    calculator = bad.calc
    bad = change(bad)
    bad.calc = calculator
    calculator.atoms = bad.copy()
    if name == "x.db":
        with ase.db.connect(path) as database:
            for atoms in (good, bad):
                database.write(atoms, data=atoms.info)
    else:
        if "energy" in bad.info:
            calculator.results["energy"] = bad.info.pop("energy")
        ase.io.write(path, [good, bad], format="extxyz")
    with pytest.raises(InputError, match=rf"{name}, structure 1(.|\n)*{problem}(.|\n)*→"):
        list(read_structures(path))


def test_unknown_symbol(tmp_path):
    (tmp_path / "x.xyz").write_text("1\ncharge=0 spin=1 energy=1\nQq 0 0 0\n")
    with pytest.raises(InputError, match="structure 0: has an unknown element or column type 'Qq'"):
        list(read_structures(tmp_path / "x.xyz", labels="optional"))


# ---------------------------------------------------------------------------------------------- wrong units


@pytest.mark.parametrize(
    ("scale", "declared", "problem"),
    [
        ({"length": 1 / ase.units.Bohr}, UnitSettings(), "units.length is probably bohr"),
        ({}, UnitSettings(length="bohr"), "probably angstrom|are the positions in Å"),
        ({"energy": HARTREE}, UnitSettings(), "declare units.energy: hartree"),
        ({}, UnitSettings(energy="hartree"), "declare units.energy: eV"),
        ({"energy": 23.06055}, UnitSettings(), "declare units.energy: kcal/mol"),
        ({"energy": 96.485}, UnitSettings(energy="kcal/mol"), "declare units.energy: kJ/mol"),
        ({"energy": 0.5}, UnitSettings(energy="hartree"), "13.7 × those of all electrons"),
    ],
)
def test_units_that_cannot_be_right(tmp_path, scale, declared, problem):
    structures = [
        replace(s, positions=s.positions * scale.get("length", 1), energy=s.energy * scale.get("energy", 1))
        for s in real(24)
    ]
    path = write(tmp_path / "x.extxyz", structures)
    with pytest.raises(InputError, match=problem):
        list(read_structures(path, units=declared))


@pytest.mark.parametrize("energy_per_electron", [-27.2, -7.0, -0.5, 0.0, 3.0])
def test_energies_of_any_zero_are_accepted(tmp_path, energy_per_electron):
    """Valence-only methods, formation energies and energies relative to atoms are all legitimate."""
    structures = [replace(s, energy=float(energy_per_electron * s.numbers.sum())) for s in real(24)]
    path = write(tmp_path / "x.extxyz", structures)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        assert len(list(read_structures(path))) == 24


def test_odd_but_possible_bonds_only_warn(tmp_path):
    stretched = [replace(s, positions=s.positions * 1.45) for s in real(2)]
    path = write(tmp_path / "x.extxyz", stretched)
    with pytest.warns(InputWarning, match="check the units"):
        assert len(list(read_structures(path))) == 2


def test_warnings_about_units_point_at_who_reads_the_file(tmp_path):
    """In a process of its own: here, the checks of types stand in between."""
    path = write(tmp_path / "x.extxyz", [replace(s, positions=s.positions * 1.45) for s in real(2)])
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom transip.data.read import read_structures\nfor _ in read_structures(sys.argv[1]):\n    pass\n"
    )
    finished = subprocess.run([sys.executable, script, path], check=True, capture_output=True, text=True)
    assert f"{script}:3: InputWarning: {path}" in finished.stderr


# ---------------------------------------------------------------------------------------------- bad files

FILES = [name for name in FORMATS if name not in ("shards", "x.pack")]


@pytest.mark.parametrize("name", FILES)
def test_truncated_file(tmp_path, name):
    path = write(tmp_path / name, real(60))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * 0.6)])
    with pytest.raises(InputError, match=rf"{name}: structure \d+ cannot be read: .* truncated or corrupt"):
        list(read_structures(path))


@pytest.mark.parametrize("name", FILES)
def test_corrupt_file(tmp_path, name):
    path = write(tmp_path / name, real(60))
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) * 3 // 4] = b"\xff" * (len(content) * 3 // 4 - len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(InputError, match="truncated or corrupt"):
        list(read_structures(path))


@pytest.mark.parametrize("name", FILES)
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match="is empty"):
        list(read_structures(tmp_path / name))


@pytest.mark.parametrize("name", ["x.db", "x.aselmdb"])
def test_database_without_rows(tmp_path, name):
    with ase.db.connect(tmp_path / name) as database:
        database.metadata = {"title": "nothing"}
    with pytest.raises(InputError, match="holds no structures"):
        list(read_structures(tmp_path / name))


def test_an_empty_line_does_not_end_a_file_silently(tmp_path):
    path = write(tmp_path / "x.xyz", real(2))
    path.write_text(path.read_text().replace("CH4", "") + "\n" + path.read_text())
    with pytest.raises(InputError, match="text follows an empty line"):
        list(read_structures(path))


def test_database_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE other (a INTEGER)")
    connection.close()
    before = (tmp_path / "x.db").read_bytes()
    with pytest.raises(InputError, match="is not an ASE database"):
        list(read_structures(tmp_path / "x.db"))
    assert (tmp_path / "x.db").read_bytes() == before


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        list(read_structures(tmp_path / "x.xyz"))
    with pytest.raises(InputError, match=r"is a folder without \.aselmdb files"):
        list(read_structures(tmp_path))
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match=r"is of unknown kind '\.pkl'"):
        list(read_structures(tmp_path / "x.pkl"))
