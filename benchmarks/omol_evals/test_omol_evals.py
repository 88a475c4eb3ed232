"""OMol25's evaluation tasks: inputs read without running code in them, results laid out as the official evaluator's."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT

from benchmarks.omol_evals import run
from transip.errors import InputError


class Counted(EMT):
    """EMT that labels many molecules at once, and stops after so many."""

    left = 10**6

    def predict(self, structures):
        copies = [atoms.copy() for atoms in structures]
        for atoms in copies:
            atoms.calc = EMT()
        return copies

    def calculate(self, *arguments, **names):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        super().calculate(*arguments, **names)


def water(spin: int = 1, charge: int = 0):
    return molecule("H2O", info={"charge": charge, "spin": spin, "source": np.str_("w")})


INPUTS = {
    "conformers": {"family": [{"sid": "a", "initial_atoms": water()}, {"sid": "b", "initial_atoms": water()}]},
    "distance_scaling": {"elytes": {"pair": {"short_range_1": water(), "long_range_9": water()}}},
    "ieea": {"x": {c: {"2" if c else "1": {"atoms": water(2 if c else 1, c)}} for c in (-1, 0, 1)}},
    "ligand_pocket": {"x": {"ligand": water(), "pocket": water(), "ligand_pocket": water(), "note": "more"}},
    "ligand_strain": {"x": {"bioactive_conf": water(), "conformers": [water(), water()]}},
    "protonation": {"x": {"x_0_1": {"initial_atoms": water()}, "x_1_1": {"initial_atoms": water()}}},
    "spin_gap": {"x": {"1": {"atoms": water()}, "3": {"atoms": water(3)}}},
}
STATE = {"atoms", "energy", "forces"}
PLACES = {  # where a result must be, and of which kind
    "conformers": [("family", "a"), ("family", "b")],
    "distance_scaling": [("elytes", "pair", "short_range_1"), ("elytes", "pair", "long_range_9")],
    "ieea": [("x", "-1", "2"), ("x", "0", "1"), ("x", "1", "2")],
    "ligand_pocket": [("x", "ligand"), ("x", "pocket"), ("x", "ligand_pocket")],
    "ligand_strain": [("x", "bioactive"), ("x", "gas_phase", "0"), ("x", "gas_phase", "1")],
    "protonation": [("x", "x_0_1"), ("x", "x_1_1")],
    "spin_gap": [("x", "1"), ("x", "3")],
}


def stored(tmp_path: Path, task: str) -> Path:
    (tmp_path / "in.pkl").write_bytes(pickle.dumps(INPUTS[task]))
    return tmp_path / "in.pkl"


@pytest.mark.parametrize("task", INPUTS)
def test_results_are_where_the_evaluator_looks(task, tmp_path):
    run.run(task, Counted(), stored(tmp_path, task), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    for place in PLACES[task]:
        result = found
        for key in place:
            result = result[key]
        if "bioactive" in place or task not in ("conformers", "protonation", "ligand_strain"):
            result = {"final": result}
        else:
            assert result["final"]["energy"] < result["initial"]["energy"]  # relaxed
            assert np.abs(result["final"]["forces"]).max() < 0.01
        final = result["final"]
        assert set(final) == STATE and np.shape(final["forces"]) == (3, 3)
        assert set(final["atoms"]) == {"@module", "@class", "atoms_json", "atoms_info"}
        assert json.loads(final["atoms"]["atoms_json"])["__ase_objtype__"] == "atoms"
        assert final["atoms"]["atoms_info"].keys() >= {"charge", "spin"}


def test_a_killed_run_goes_on(tmp_path):
    source, calculator = stored(tmp_path, "ligand_strain"), Counted()
    run.run("ligand_strain", calculator, source, tmp_path / "whole.json")
    calculator.left = 3 * (Counted.left - calculator.left) // 4  # in the middle of the second relaxation
    calculator.reset()
    with pytest.raises(KeyboardInterrupt):
        run.run("ligand_strain", calculator, source, tmp_path / "out.json")
    (part,) = (tmp_path / "out.json.parts").iterdir()
    before = part.read_text()
    part.write_text(before + '[["x", "gas_phase", "1"], {"fin')  # and of a write
    run.run("ligand_strain", Counted(), source, tmp_path / "out.json")
    assert part.read_text().startswith(before) and '"bioactive"' in before
    assert (tmp_path / "out.json").read_text() == (tmp_path / "whole.json").read_text()


def test_processes_share_a_task(tmp_path):
    source = stored(tmp_path, "spin_gap")
    run.run("spin_gap", Counted(), source, tmp_path / "out.json", 1, 2)
    assert not (tmp_path / "out.json").exists()
    run.run("spin_gap", Counted(), source, tmp_path / "out.json", 0, 2)
    run.run("spin_gap", Counted(), source, tmp_path / "whole.json")
    assert (tmp_path / "out.json").read_text() == (tmp_path / "whole.json").read_text()


class Harmful:
    def __reduce__(self):
        return (print, ("harm",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"x": Harmful()}), r"it asks for builtins.print, which is refused"),
        (b"no pickle", "is no input of an OMol25 evaluation"),
        (pickle.dumps(INPUTS["ieea"]), "is no input of the task conformers"),
        (pickle.dumps({"x": [{"sid": "a", "initial_atoms": 5}]}), "is no input of the task conformers"),
    ],
)
def test_other_files_are_refused(tmp_path, capsys, content, message):
    (tmp_path / "in.pkl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        run.run("conformers", Counted(), tmp_path / "in.pkl", tmp_path / "out.json")
    assert "harm" not in capsys.readouterr().out and not (tmp_path / "out.json").exists()
    with pytest.raises(InputError, match="cannot be read"):
        run.read_inputs(tmp_path / "none.pkl")
