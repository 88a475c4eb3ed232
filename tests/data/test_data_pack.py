"""Packing files, and the report of what is in them."""

from dataclasses import asdict, replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from random_molecules import real
from rich.console import Console

from transip.config import UnitSettings
from transip.data.info import summarize
from transip.data.pack import pack_files
from transip.data.store import Pack, write_pack
from transip.errors import InputError


def write_extxyz(path: Path, structures) -> Path:
    images = []
    for structure in structures:
        atoms = structure.to_atoms()
        if structure.energy is not None:
            atoms.calc = SinglePointCalculator(atoms, energy=structure.energy, forces=structure.forces)
        images.append(atoms)
    ase.io.write(path, images, format="extxyz")
    return path


def test_report_says_what_was_packed(tmp_path):
    structures = [*real(20), replace(real(1)[0], charge=-1, spin=2)]
    inputs = [
        write_extxyz(tmp_path / "a.extxyz", structures[:8]),
        write_extxyz(tmp_path / "b.xyz", structures[8:]),
    ]
    report = pack_files(inputs, tmp_path / "x.pack", level_of_theory="DFT")
    assert (report.structures, report.labelled) == (21, 21)
    assert report.atoms == sum(map(len, structures))
    assert (report.smallest, report.largest) == (min(map(len, structures)), max(map(len, structures)))
    energies = [s.energy for s in structures]
    assert (report.lowest, report.highest) == pytest.approx((min(energies), max(energies)))
    squares = np.concatenate([(s.forces**2).sum(1) for s in structures])
    assert report.force_rms == pytest.approx(np.sqrt(squares.mean()), rel=1e-5)
    assert report.force_max == pytest.approx(np.sqrt(squares.max()), rel=1e-5)
    assert report.elements["O"] == sum((s.numbers == 8).sum() for s in structures)
    assert report.charges == {-1: 1, 0: 20}
    assert report.spins == {1: 20, 2: 1}
    assert report.domains == {"neutral_organics": 11, "reactivity": 10}
    assert report.keys["energy"] == ["energy"]
    assert report.level_of_theory == "DFT"
    assert summarize(tmp_path / "x.pack") == report
    meta = Pack.open(tmp_path / "x.pack").meta
    assert meta["provenance"]["inputs"] == ["a.extxyz", "b.xyz"]


def test_a_file_and_its_pack_are_described_alike(tmp_path):
    path = write_extxyz(tmp_path / "a.extxyz", real(12))
    packed = asdict(pack_files([path], tmp_path / "a.pack", level_of_theory="DFT"))
    file = asdict(summarize(path))
    for key in file.keys() - {"path", "level_of_theory"}:
        rounded = key in ("lowest", "highest", "force_squares", "force_max")
        assert file[key] == (pytest.approx(packed[key]) if rounded else packed[key]), key


def test_a_file_without_charge_and_spin_is_described(tmp_path):
    """As most people's files are: what is there is shown, and what has to be done before it can be packed."""
    images = [structure.to_atoms() for structure in real(12)]
    for atoms in images:
        del atoms.info["charge"], atoms.info["spin"]
        atoms.info["REF_energy"] = -1.0
    ase.io.write(tmp_path / "mine.xyz", images, format="extxyz")
    summary = summarize(tmp_path / "mine.xyz")
    assert (summary.structures, summary.labelled, summary.atoms) == (12, 0, sum(map(len, images)))
    assert summary.elements["O"] == sum((atoms.numbers == 8).sum() for atoms in images)
    assert summary.keys["energy"] == ["REF_energy"] and summary.keys["charge"] == []
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(summary.table())
    shown = console.export_text()
    for expected in ("12", "charge is missing: add it", "--spin-key", "REF_energy"):
        assert expected in shown


def test_files_without_labels_can_be_described_but_not_packed(tmp_path):
    structures = real(6)
    mixed = [replace(s, energy=None, forces=None) if i % 2 else s for i, s in enumerate(structures)]
    path = write_extxyz(tmp_path / "a.extxyz", mixed)
    report = summarize(path)
    assert (report.structures, report.labelled) == (6, 3)
    with pytest.raises(InputError, match="structure 1: has no energy"):
        pack_files([path], tmp_path / "a.pack", level_of_theory="DFT")
    assert [file.name for file in tmp_path.iterdir()] == ["a.extxyz"]


def test_table_can_be_printed(tmp_path):
    path = write_extxyz(tmp_path / "a.extxyz", real(3))
    console = Console(width=100, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(summarize(path).table())
    text = console.export_text()
    for expected in ("3 (3 labelled)", "neutral_organics: 2", "eV/Å", "not stated"):
        assert expected in text


def test_packs_can_be_joined_if_they_are_of_one_level_of_theory(tmp_path):
    write_pack(tmp_path / "a.pack", real(4), level_of_theory="DFT")
    write_pack(tmp_path / "b.pack", real(3, seed=1), level_of_theory="DFT")
    inputs = [tmp_path / "a.pack", tmp_path / "b.pack"]
    assert pack_files(inputs, tmp_path / "c.pack", level_of_theory="DFT").structures == 7
    with pytest.raises(InputError, match="was labelled with 'DFT', not 'xTB'"):
        pack_files(inputs, tmp_path / "d.pack", level_of_theory="xTB")


def test_existing_output_and_no_input(tmp_path):
    path = write_extxyz(tmp_path / "a.extxyz", real(3))
    pack_files([path], tmp_path / "a.pack", level_of_theory="DFT")
    with pytest.raises(InputError, match="exists already"):
        pack_files([path], tmp_path / "a.pack", level_of_theory="DFT")
    with pytest.raises(InputError, match="no input files"):
        pack_files([], tmp_path / "b.pack", level_of_theory="DFT")


def test_wrong_units_leave_nothing_behind(tmp_path):
    path = write_extxyz(tmp_path / "a.extxyz", real(24))
    with pytest.raises(InputError, match=r"declare units\.energy: eV"):
        pack_files([path], tmp_path / "a.pack", level_of_theory="DFT", units=UnitSettings(energy="hartree"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.extxyz"]
