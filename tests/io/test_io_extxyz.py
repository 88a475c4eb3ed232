"""Extended XYZ: what is written comes back, frames are read as ASE reads them, and odd comments are understood."""

import io
from dataclasses import replace

import ase.build
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transip.data.read import read_structures
from transip.errors import InputError
from transip.io.extxyz import format_frame
from transip.io.files import read_frames
from transip.structure import Structure

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=12)
WATER = Structure.from_atoms(ase.build.molecule("H2O"), charge=0, spin=1)
FLOATS = st.floats(-1e5, 1e5, width=32)


@st.composite
def structures(draw) -> Structure:
    """Molecules, slabs and crystals of atoms too heavy for checks of units, with and without labels and names."""
    count = draw(st.integers(1, 6))
    numbers = np.array(draw(st.lists(st.integers(36, 86), min_size=count, max_size=count)), dtype=np.int64)
    points = draw(st.permutations(range(27)))[:count]
    positions = 2.0 * np.array(np.unravel_index(points, (3, 3, 3)), dtype=np.float64).T
    charge = draw(st.integers(-5, 5))
    assume(numbers.sum() - charge >= 1)
    periodic = np.array(draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    cell = np.where(periodic[:, None], np.array([[6.5, 0.5, 0], [0, 7.25, 1], [-1, 0, 8.125]]), 0.0)
    labelled, tensor = draw(st.booleans()), np.array(draw(st.lists(FLOATS, min_size=6, max_size=6)))
    return Structure(
        numbers=numbers,
        positions=positions + draw(st.floats(0, 1)),
        charge=charge,
        spin=1 + (int(numbers.sum()) - charge) % 2,
        energy=draw(st.floats(-1e6, 1e6)) if labelled else None,
        forces=np.array(draw(st.lists(FLOATS, min_size=3 * count, max_size=3 * count))).reshape(-1, 3)
        if labelled
        else None,
        cell=cell if periodic.any() else None,
        stress=tensor[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3) if labelled and periodic.all() else None,
        charges=(charge + tensor[0] * (2 * np.arange(count) + 1 - count)) / count
        if labelled and draw(st.booleans())
        else None,
        spin_populations=tensor[1] - np.arange(count) if labelled and draw(st.booleans()) else None,
        dipole=tensor[:3] if labelled and not periodic.any() and draw(st.booleans()) else None,
        domain=draw(NAMES),
        source=draw(NAMES),
    )


@settings(max_examples=100, deadline=None)
@given(written=st.lists(structures(), min_size=1, max_size=3))
def test_what_is_written_comes_back(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("round") / "x.extxyz"
    path.write_text("".join(map(format_frame, written)), encoding="utf-8")
    for found, expected in zip(read_structures(path, labels="optional"), written, strict=True):
        assert (found.charge, found.spin, found.energy) == (expected.charge, expected.spin, expected.energy)
        assert found.domain == expected.domain
        assert found.source == (expected.source or path.name + found.source[len(path.name) :])
        for name in ("numbers", "positions", "forces", "cell", "stress", "charges", "spin_populations", "dipole"):
            a, b = getattr(found, name), getattr(expected, name)
            assert (a is None) == (b is None)
            if b is not None:
                moved = 5 if name == "dipole" else 0  # times the charge of an ion
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=5.1e-9 * (1 + moved))  # columns have eight decimals


@settings(max_examples=50, deadline=None)
@given(structure=structures())
def test_frames_are_written_as_ase_writes_them(structure):
    atoms, results = structure.to_atoms(), {"charges": structure.charges, "magmoms": structure.spin_populations}
    results |= {"forces": structure.forces, "energy": structure.energy}
    if structure.dipole is not None:  # of ions, about the origin
        results["dipole"] = structure.dipole + structure.charge * atoms.get_center_of_mass()
    names = structure.source + structure.domain
    assume(structure.energy is not None and not {"\\", "="} & {*names})  # which ASE garbles
    if structure.stress is not None:
        results["stress"] = structure.stress
    results["free_energy"] = structure.energy
    expected = io.StringIO()
    atoms.calc = SinglePointCalculator(atoms, **{name: x for name, x in results.items() if name != "stress"})
    atoms.calc.results |= {name: x for name, x in results.items() if name == "stress"}
    write_extxyz(expected, [atoms])
    assert sorted(format_frame(structure).split()) == sorted(expected.getvalue().split())


@pytest.mark.parametrize(
    "name",
    ["C/C=C\\C", 'C=C "a" \\ 0', "ends\\", "F", "T", "007", "1e5", "1 2 3", "true", "ä=[1]", "'", "=", "a\\=", '"'],
)
def test_names_come_back_to_the_letter(tmp_path, name):
    text = format_frame(replace(WATER, source=name, domain=name))
    (tmp_path / "in.xyz").write_text(2 * text, encoding="utf-8")
    found = [(s.source, s.domain, len(s)) for s in read_structures(tmp_path / "in.xyz", labels="ignored")]
    assert found == 2 * [(name, name, 3)]


def test_a_mark_of_the_byte_order_is_no_part_of_the_file(tmp_path):
    (tmp_path / "in.xyz").write_text(format_frame(WATER), encoding="utf-8-sig")
    assert [len(found) for found in read_structures(tmp_path / "in.xyz", labels="ignored")] == [3]


def test_more_values_and_columns(tmp_path):
    structure = replace(WATER, energy=-1.0, forces=np.ones((3, 3)))
    text = format_frame(structure, {"energy_std": 0.25}, {"charges": np.array([-0.5, 0.25, 0.25])})
    (tmp_path / "in.xyz").write_text(text)
    ((_, frame),) = read_frames(tmp_path / "in.xyz")
    assert frame.info["energy_std"] == 0.25
    ((_, charges),) = frame.lookup("charges")
    assert np.ravel(charges).tolist() == [-0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("comment", "info"),
    [
        ('name= pbc="F F F"', {}),
        ("name= energy=-138.0", {"energy": -138.0}),
        ("energy=-138.0 name= ", {"energy": -138.0}),
        ('note="a= b=3" name= charge=1', {"note": "a= b=3", "charge": 1}),
    ],
)
def test_a_key_without_a_value_takes_no_other_pair(tmp_path, comment, info):
    """As ASE writes `info["name"] = ""`; its own reader takes the next pair for the value."""
    for lattice in ("", 'Lattice="9 0 0 0 9 0 0 0 9" '):  # our parser, ASE's
        (tmp_path / "in.xyz").write_text(f"1\n{lattice}{comment}\nH 0 0 0\n")
        ((_, frame),) = read_frames(tmp_path / "in.xyz")
        assert frame.info | frame.results == info
        assert np.any(frame.pbc) == (bool(lattice) and "pbc" not in comment)


@pytest.mark.parametrize("key", ["stress", "REF_stress"])
@pytest.mark.parametrize("numbers", ["1 2 3 4 5 6", "1 6 5 6 2 4 5 4 3"])
def test_a_stress_of_six_or_nine_numbers(tmp_path, key, numbers):
    """Six: xx, yy, zz, yz, xz, xy."""
    pairs = f'Lattice="9 0 0 0 9 0 0 0 9" charge=0 spin=2 energy=-1 {key}="{numbers}"'
    (tmp_path / "in.xyz").write_text(f"1\n{pairs} Properties=species:S:1:pos:R:3:forces:R:3\nH 0 0 0 0 0 0\n")
    (found,) = read_structures(tmp_path / "in.xyz")
    assert found.stress.tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]


@pytest.mark.parametrize(
    "columns",
    [  # per atom; the first three are what ASE is not asked about
        {},
        {"forces": (3,)},
        {"dft_forces": (3,)},
        {"forces": (3,), "forces_std": ()},
        {"spins": (), "forces": (3,)},
    ],
)
@pytest.mark.parametrize(
    "comment", [{"temperature": 300.5}, {"weights": [1, 2, 3], "done": True, "note": 'a "b" = {c}'}]
)
def test_frames_are_read_as_ase_reads_them(make_structure, tmp_path, columns, comment):
    path, generator = tmp_path / "in.xyz", np.random.default_rng(0)
    frames = [make_structure(n, source="a b").to_atoms() for n in (1, 2, 9)]
    for atoms in frames:
        atoms.info |= comment
        for name, shape in columns.items():
            atoms.arrays[name] = generator.normal(size=(len(atoms), *shape))
    ase.io.write(path, frames, format="extxyz")
    expected = ase.io.read(path, ":")
    for (_, frame), atoms in zip(read_frames(path), expected, strict=True):
        assert {key: str(frame.info[key]) for key in atoms.info} == {key: str(x) for key, x in atoms.info.items()}
    for found, atoms in zip(read_structures(path, labels="optional"), expected, strict=True):
        assert (found.numbers == atoms.numbers).all() and (found.positions == atoms.positions).all()
        assert (found.charge, found.spin, found.source) == (0, atoms.info["spin"], "a b")
        assert (found.forces is None) == ("forces" not in columns)
        if found.forces is not None:
            assert (found.forces == atoms.get_forces()).all()


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ('1\nLattice="9 0 0 0 8 0 0 0 7" charge=0 spin=2\nH 0 0 0\n', [9, 8, 7]),
        ('1\nLattice="9 0 0 0 8 0 0 0 7" pbc="T F T" charge=0 spin=2\nH 0 0 0\n', [9, 0, 7]),
        ("1\n\nH 0 0 0\nVEC1 9 0 0\nVEC2 0 8 0\nVEC3 0 0 7\n", [9, 8, 7]),
    ],
)
def test_cells_are_found_however_a_file_says_it(tmp_path, text, cell):
    (tmp_path / "in.xyz").write_text(text)
    (structure,) = read_structures(tmp_path / "in.xyz", labels="optional", charge=0, spin=2)
    assert (structure.cell == np.diag(cell)).all()


def test_periodic_without_a_cell_is_an_error(tmp_path):
    (tmp_path / "in.xyz").write_text('1\npbc="T F F" charge=0 spin=2\nH 0 0 0\n')
    with pytest.raises(InputError, match="periodic along a lattice vector of no length"):
        list(read_structures(tmp_path / "in.xyz", labels="optional"))


@pytest.mark.parametrize("text", ["2\ncharge=0 spin=2\nH 0 0 0\n", "1\ncharge=0 spin=2\nH 0 0\n"])
def test_lines_that_are_not_there(tmp_path, text):
    (tmp_path / "in.xyz").write_text(text)
    with pytest.raises(InputError, match="truncated or corrupt"):
        list(read_structures(tmp_path / "in.xyz", labels="optional"))
