"""The commands that are killed: small inputs, the command, how it is resumed, and what equal results are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.io import write

from transip.config import ModelSettings
from transip.data.store import Pack, write_pack
from transip.model.files import load_model, save_model
from transip.model.potential import Potential
from transip.structure import Structure
from transip.training.checkpoint import FORMAT, checkpoints
from transip.training.checkpoint import _read as read_checkpoint

CLOCK = {"time_s", "seconds", "atoms_per_second", "memory_mb"}  # what two equal trainings may differ in
NAMES = ("H2O", "NH3", "CH4", "CH3OH", "C2H6", "HCN", "C2H4", "H2CO", "C2H2", "CO2")
Contents = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """A command on the inputs in a folder.

    Attributes:
        arguments: of `transip`, without the output.
        output: name of what it writes.
        resume: arguments that are added to go on after a kill.
        overwrites: whether the output is there from the start, as an older result.
        whole: raises unless a finished output can be used.
        unfinished: names, beside the output, under which the documentation lets unfinished work be seen.
    """

    arguments: Callable[[Path], list[str]]
    output: str
    whole: Callable[[Path], object]
    resume: tuple[str, ...] = ()
    overwrites: bool = False
    unfinished: tuple[str, ...] = ()


def labelled(count: int) -> list[Structure]:
    """Rattled molecules of ten compositions, labelled by ASE's EMT."""
    generator, structures = np.random.default_rng(0), []
    for i in range(count):
        atoms = molecule(NAMES[i % len(NAMES)])
        atoms.positions += generator.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = float(atoms.get_potential_energy()), atoms.get_forces()
        numbers = atoms.numbers.astype(np.int64)
        structures.append(Structure(numbers, atoms.positions, 0, 1, energy, forces, source=f"emt-{i}"))
    return structures


def write_inputs(folder: Path, size: int) -> None:
    """Everything that the commands read; `size` scales how long they take."""
    folder.mkdir(parents=True)
    structures = labelled(20 * size)
    write(folder / "labelled.extxyz", [_with_labels(s) for s in structures], format="extxyz")
    write(folder / "structures.extxyz", [s.to_atoms() for s in structures[: 4 * size]], format="extxyz")
    write_pack(folder / "train.pack", structures, level_of_theory="EMT")
    write_pack(folder / "old.pack", structures[:3], level_of_theory="EMT")
    save_model(random_model(), folder / "model")
    domain = {"structures": 8 * size, "max_atoms": 8, "conformers": 2, "displacement": "gaussian"}
    campaign = {"chunk": 4, "workers": 1, "domains": [{"domain": "neutral_organics", **domain}]}
    (folder / "labels.yaml").write_text(yaml.safe_dump(campaign))
    training = {"batch": {"batch_size": 8}, "steps": 6 * size, "log_every": 1, "evaluate_every": 3}
    recipe = {
        "name": "kill",
        "data": {"train": [str(folder / "train.pack")], "validation_fraction": 0.2},
        "model": {"width": 16, "depth": 2, "heads": 2},
        "objective": {"views": 2, "latent": {"weight": 1.0, "hidden": 8}},
        "training": {**training, "checkpoint_every": 2},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(recipe))


def _with_labels(structure: Structure) -> Any:
    atoms = structure.to_atoms()
    atoms.info["REF_energy"] = structure.energy
    atoms.arrays["REF_forces"] = structure.forces
    return atoms


def random_model(forces: str = "conservative") -> Potential:
    """A small model with gentle random weights, also where training would start from zero."""
    torch.manual_seed(0)
    settings = ModelSettings.model_validate({"width": 16, "depth": 2, "heads": 2, "forces": forces})
    model = Potential(settings, torch.zeros(87, dtype=torch.float64), 0.1)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def commands(size: int) -> dict[str, Command]:
    """The commands by name."""
    steps = str(50 * size)
    return {
        "data build": Command(lambda at: ["data", "build", f"{at}/labels.yaml"], "built.pack", _whole_pack),
        "data pack": Command(
            lambda at: ["data", "pack", f"{at}/labelled.extxyz", "--level-of-theory", "EMT", "--overwrite"],
            "packed.pack",
            _whole_pack,
            overwrites=True,
        ),
        "train": Command(lambda at: ["train", f"{at}/train.yaml"], "run", _whole_run, resume=("--resume",)),
        "predict": Command(
            lambda at: ["predict", f"{at}/model", f"{at}/structures.extxyz"],
            "out.extxyz",
            _whole_file,
            resume=("--overwrite",),
        ),
        "relax": Command(
            lambda at: ["relax", f"{at}/model", f"{at}/structures.extxyz", "--fmax", "1e-4", "--steps", "20"],
            "out.extxyz",
            _whole_file,
            resume=("--resume", "--overwrite"),
            unfinished=("out.partial.xyz",),
        ),
        "md": Command(
            lambda at: ["md", f"{at}/model", f"{at}/structures.extxyz", "--steps", steps, "--interval", "1"],
            "out.extxyz",
            _whole_file,
            resume=("--overwrite",),  # begins anew, hence to the same frames
            unfinished=("out.partial.xyz",),
        ),
    }


# ------------------------------------------------------------------------------------------ what is there


def visible(folder: Path, command: Command) -> list[str]:
    """Names that a user sees, other than the output and unfinished work that is documented; there should be none."""
    return [
        p.name for p in folder.iterdir() if p.name[0] != "." and p.name not in (command.output, *command.unfinished)
    ]


def contents(folder: Path) -> Contents:
    """Every file in `folder`, hidden ones included, without what depends on the clock."""
    return {str(p.relative_to(folder)): _content(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def _content(path: Path) -> Any:
    if path.parent.name == "checkpoints" and not path.name.startswith("."):
        progress, groups = read_checkpoint(path)
        tensors = {f"{g}:{n}": (str(v.dtype), v.tolist()) for g, values in groups.items() for n, v in values.items()}
        return {"format": FORMAT, "progress": _timeless(vars(progress)), "tensors": tensors}
    if path.name == "metrics.jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.parent.name == "model" and path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.parent.name == "model" and path.suffix == ".md":  # the same numbers, for people
        return [line for line in path.read_text().splitlines() if "time_s" not in line]
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(entry) for key, entry in value.items() if key not in CLOCK}
    return value


def _whole_pack(path: Path) -> None:
    Pack.open(path).verify()


def _whole_file(path: Path) -> None:
    """Nothing can be said of half a file: it is compared with the uninterrupted one."""


def _whole_run(path: Path) -> None:
    """Whatever has its final name in a run folder is whole, whenever the run was killed."""
    for checkpoint in checkpoints(path / "checkpoints"):
        read_checkpoint(checkpoint)
    if (path / "metrics.jsonl").exists():
        steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(steps), "metrics.jsonl: steps out of order"
    if (path / "model" / "config.json").exists():
        load_model(path / "model")
    if (path / "recipe.yaml").exists():
        yaml.safe_load((path / "recipe.yaml").read_text())


def fresh(folder: Path, inputs: Path, command: Command) -> Path:
    """An empty folder for the output; with an older result in it, if the command is to replace one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if command.overwrites:
        shutil.copytree(inputs / "old.pack", folder / command.output)
    return folder
