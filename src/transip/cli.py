"""The command line: each verb parses, calls one function and prints what came back."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from transip.errors import InputError, InputWarning
from transip.extras import check_name_clash
from transip.memory import tune_malloc
from transip.version import __version__

if TYPE_CHECKING:
    from transip.inference.ase import TransIPCalculator

app = typer.Typer(
    name="transip",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make and inspect packed datasets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(__version__)
        raise typer.Exit
    return wanted


@app.callback(epilog="Try: transip relax transip-s-gfn2 examples/fluorotoluene.extxyz -o relaxed.extxyz")
def about(
    _: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, evaluate and use inter-atomic potentials whose rotation symmetry is learned."""


console = Console()

Model = Annotated[
    Path, typer.Argument(help="model or run folder, a shipped model's name, or owner/name[@revision] on the Hub")
]
Input = Annotated[Path, typer.Argument(help="structures: extxyz, ASE database, .aselmdb or .pack")]
Output = Annotated[Path, typer.Option("--output", "-o", help="where to write")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override a setting: a.b=c (repeatable)")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, xpu, …")]
Charge = Annotated[int | None, typer.Option(help="total charge in e of every structure, instead of the file's")]
Spin = Annotated[int | None, typer.Option(help="multiplicity 2S+1 of every structure, instead of the file's")]


class EnergyUnit(StrEnum):
    """Units of energy that files come in."""

    EV = "eV"
    HARTREE = "hartree"
    KCAL = "kcal/mol"
    KJ = "kJ/mol"


class LengthUnit(StrEnum):
    """Units of length that files come in."""

    ANGSTROM = "angstrom"
    BOHR = "bohr"


class ForceUnit(StrEnum):
    """Units of forces that files come in."""

    EV_ANGSTROM = "eV/angstrom"
    HARTREE_BOHR = "hartree/bohr"
    KCAL_ANGSTROM = "kcal/mol/angstrom"
    KJ_ANGSTROM = "kJ/mol/angstrom"


class Ensemble(StrEnum):
    """What molecular dynamics keeps constant."""

    NVE = "nve"
    NVT = "nvt"


class UnseenChoice(StrEnum):
    """What to do about elements, charges and multiplicities that a model was not trained on."""

    WARN = "warn"
    REFUSE = "refuse"
    IGNORE = "ignore"


class UncertainChoice(StrEnum):
    """What to do about predictions beyond a bound of their uncertainty."""

    WARN = "warn"
    REFUSE = "refuse"


class Precision(StrEnum):
    """Precision of the network; total energies are summed in float64 either way."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


class Relaxer(StrEnum):
    """ASE optimisers."""

    LBFGS = "LBFGS"
    FIRE = "FIRE"


Unseen = Annotated[
    UnseenChoice, typer.Option(help="elements, charges, multiplicities, sizes that the model was not trained on")
]
Dtype = Annotated[Precision, typer.Option(help="precision of the network")]
Compile = Annotated[
    bool, typer.Option("--compile", help="fuse the network's operations: a minute or two at first, then faster")
]
Average = Annotated[
    int | None, typer.Option(help="average over this many rotations: 12, 24, 60 (groups) or another number (random)")
]
Committee = Annotated[
    list[Path] | None, typer.Option(help="another model: results are the mean of MODEL and all of these (repeatable)")
]
MaxUncertainty = Annotated[
    float | None, typer.Option(help="bound on the uncertainty of forces, eV/Å; needs a calibration")
]
Uncertain = Annotated[UncertainChoice, typer.Option(help="what to do beyond --max-uncertainty")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad input ends with one message and exit code 2."""
    # Threads that spin while they wait starve each other on a busy machine (measured: 35 × slower training).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tune_malloc()
    warnings.showwarning = _show_warning
    try:
        check_name_clash()
        app(arguments)
    except InputError as error:
        Console(stderr=True).print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, InputWarning):
        Console(stderr=True).print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------- data


@data_app.command("build")
def data_build(
    recipe: Annotated[Path, typer.Argument(help="YAML: which molecules, how displaced, which method")],
    output: Output,
    overrides: Set = None,
) -> None:
    """Make molecules, displace their atoms, label them with a quantum method; resumes if it was killed."""
    from transip.config import LabelSettings, load
    from transip.data.pack import summarize
    from transip.labels.campaign import run_campaign

    run_campaign(load(LabelSettings, recipe, overrides), output)
    console.print(summarize(output).table())


@data_app.command("pack")
def data_pack(
    inputs: Annotated[
        list[Path], typer.Argument(help="extxyz files, ASE databases, .aselmdb shards or folders of them")
    ],
    output: Output,
    level_of_theory: Annotated[str, typer.Option(help="of the labels, e.g. 'ωB97M-V/def2-TZVPD'")] = "unknown",
    energy_key: Annotated[str | None, typer.Option(help="key of the total energy")] = None,
    forces_key: Annotated[str | None, typer.Option(help="key of the forces")] = None,
    stress_key: Annotated[str | None, typer.Option(help="key of the stress, in periodic cells")] = None,
    charge_key: Annotated[str, typer.Option(help="key of the total charge in atoms.info")] = "charge",
    spin_key: Annotated[str, typer.Option(help="key of the multiplicity in atoms.info")] = "spin",
    domain_key: Annotated[str, typer.Option(help="key of the chemical domain in atoms.info")] = "data_id",
    energy_unit: Annotated[EnergyUnit, typer.Option(help="unit of energies in the files")] = EnergyUnit.EV,
    length_unit: Annotated[LengthUnit, typer.Option(help="unit of positions in the files")] = LengthUnit.ANGSTROM,
    force_unit: Annotated[
        ForceUnit | None, typer.Option(help="unit of forces in the files  [default: energy unit / length unit]")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="replace an existing pack")] = False,
) -> None:
    """Pack labelled structures for training, and report what was found in the files."""
    from transip.config import KeySettings, UnitSettings
    from transip.data.pack import pack_files

    labels = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    conditions = {"charge": charge_key, "spin": spin_key, "domain": domain_key}
    keys = KeySettings.model_validate(labels | conditions)
    units = UnitSettings.model_validate({"energy": energy_unit, "length": length_unit, "forces": force_unit})
    report = pack_files(inputs, output, keys=keys, units=units, level_of_theory=level_of_theory, overwrite=overwrite)
    console.print(report.table())


@data_app.command("info")
def data_info(
    path: Input, verify: Annotated[bool, typer.Option("--verify", help="compare a pack's checksums first")] = False
) -> None:
    """Say what a pack or a file of structures holds."""
    from transip.data.pack import summarize
    from transip.data.store import Pack

    if verify:
        Pack.open(path).verify()
    console.print(summarize(path).table())


# ---------------------------------------------------------------------------------------------- train, evaluate


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML: data, model, objective, training")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="run folder  [default: runs/NAME]")] = None,
    overrides: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the last checkpoint; begin, if there is none")
    ] = False,
) -> None:
    """Train a potential. Start with `torchrun --nproc-per-node N -m transip train …` for several processes."""
    from transip.config import Recipe, load
    from transip.training.trainer import train as run

    settings = load(Recipe, recipe, overrides)
    model = run(settings, output or Path("runs") / settings.name, resume=resume)
    console.print(f"model: {model}")


@app.command()
def evaluate(
    model: Model,
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="labelled packs; none: what the recipe of the run MODEL held out"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="folder for evaluation.json, predictions.npz  [default: MODEL, or runs/NAME for a model by name; "
            "average-N or committee-N in it with --average or --committee]",
        ),
    ] = None,
    device: Device = "cpu",
    average: Average = None,
    committee: Committee = None,
) -> None:
    """Errors per domain, symmetry and cost on labelled structures: table, JSON and predictions."""
    from transip.evaluation.saved import evaluate_checkpoint

    if model.is_dir():
        home = model
    elif model.exists():  # its model.safetensors
        home = model.parent
    else:  # the name of a released model
        home = Path("runs") / model.name
    means = {"committee": len(committee) + 1 if committee else None, "average": average}
    named = "-".join(f"{kind}-{number}" for kind, number in means.items() if number)
    found = evaluate_checkpoint(model, data or [], committee=committee or [], device=device, average=average)
    folder = output or home / named
    console.print(found.table())
    found.write(folder)
    console.print(f"written to {folder}")


@app.command()
def calibrate(
    model: Model,
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="labelled packs of molecules not trained on; none: what the recipe of MODEL held out"),
    ] = None,
    average: Average = None,
    committee: Committee = None,
    seed: Annotated[int, typer.Option(help="of the split: half of the compositions to fit, half to test")] = 0,
    device: Device = "cpu",
) -> None:
    """Measure what the spread over rotations or models says about errors, and keep it with MODEL.

    From then on predictions made just so (the same models, the same --average) come with uncertainties.
    """
    from transip.evaluation import calibrate as calibration

    found = calibration.calibrate(
        model, data or [], committee=committee or [], average=average, device=device, seed=seed
    )
    console.print(calibration.table(found))
    console.print(f"kept in {model}")


@app.command()
def symmetry(
    model: Model,
    data: Annotated[list[Path], typer.Argument(help="packs, labelled or not")],
    structures: Annotated[int, typer.Option(min=1, help="how many structures to turn")] = 64,
    rotations: Annotated[int, typer.Option(min=2, help="orientations of each")] = 8,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file")] = None,
    device: Device = "cpu",
) -> None:
    """Rotation errors of energy and forces, and what each layer's embedding knows of orientation."""
    from transip.evaluation.symmetry import evaluate_symmetry

    found = evaluate_symmetry(model, data, structures=structures, rotations=rotations, device=device)
    console.print(found.table())
    if output is not None:
        found.write(output)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, shown side by side")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="HTML  [default: RUN/report.html]")] = None,
) -> None:
    """Compare runs: a table here, and one self-contained HTML page."""
    from transip.report.page import write_report
    from transip.report.runs import read_runs
    from transip.report.tables import comparison

    console.print(comparison(read_runs(runs)))
    console.print(f"report: {write_report(runs, output or runs[0] / 'report.html')}")


# ---------------------------------------------------------------------------------------------- use


def _calculator(
    model: Path,
    committee: list[Path] | None,
    charge: int | None,
    spin: int | None,
    unseen: UnseenChoice,
    device: str,
    dtype: Precision,
    average: int | None,
    compile: bool = False,
    max_uncertainty: float | None = None,
    uncertain: UncertainChoice = UncertainChoice.WARN,
) -> TransIPCalculator:
    """What the options that all verbs here share stand for."""
    from transip.inference.ase import TransIPCalculator

    return TransIPCalculator(
        [model, *(committee or [])], charge=charge, spin=spin, unseen=unseen.value, device=device, dtype=dtype.value,
        average=average, compile=compile, max_uncertainty=max_uncertainty, uncertain=uncertain.value,
    )  # fmt: skip


@app.command()
def predict(
    model: Model,
    structures: Input,
    output: Output,
    charge: Charge = None,
    spin: Spin = None,
    unseen: Unseen = UnseenChoice.WARN,
    device: Device = "cpu",
    dtype: Dtype = Precision.FLOAT32,
    average: Average = None,
    committee: Committee = None,
    compile: Compile = False,
    max_uncertainty: MaxUncertainty = None,
    uncertain: Uncertain = UncertainChoice.WARN,
) -> None:
    """Energies and forces of every structure of a file, in batches; written to extxyz."""
    from transip.inference.predict import predict_file

    calculator = _calculator(
        model, committee, charge, spin, unseen, device, dtype, average, compile, max_uncertainty, uncertain
    )
    found = predict_file(calculator, structures, output)
    console.print(
        f"{found['structures']:,} structures, {found['atoms']:,} atoms in {found['seconds']:.1f} s: {found['output']}"
    )


@app.command()
def relax(
    model: Model,
    structures: Input,
    output: Output,
    fmax: Annotated[float, typer.Option(help="converged when no atom's force is larger, eV/Å")] = 0.05,
    steps: Annotated[int, typer.Option(help="per structure, at most")] = 500,
    optimizer: Annotated[Relaxer | None, typer.Option(help="of ASE  [default: LBFGS, FIRE for direct forces]")] = None,
    cell: Annotated[
        bool,
        typer.Option(
            "--cell", help="relax lattice vectors, too, to zero pressure; needs conservative forces and a cutoff"
        ),
    ] = False,
    charge: Charge = None,
    spin: Spin = None,
    unseen: Unseen = UnseenChoice.WARN,
    device: Device = "cpu",
    dtype: Dtype = Precision.FLOAT32,
    average: Average = None,
    committee: Committee = None,
    compile: Compile = False,
    max_uncertainty: MaxUncertainty = None,
    uncertain: Uncertain = UncertainChoice.WARN,
) -> None:
    """Relax every structure of a file to its nearest minimum; the final ones are written to extxyz."""
    from transip.inference.relax import relax_file

    calculator = _calculator(
        model, committee, charge, spin, unseen, device, dtype, average, compile, max_uncertainty, uncertain
    )
    method = optimizer.value if optimizer else None
    found = relax_file(calculator, structures, output, fmax=fmax, steps=steps, optimizer=method, cell=cell)
    for row in found["rows"]:
        console.print(
            f"{row['source'] or row['formula']}: {row['final_energy'] - row['initial_energy']:+.3f} eV, largest force "
            f"{row['initial_fmax']:.2f} → {row['final_fmax']:.2f} eV/Å in {row['steps']} steps"
            + ("" if row["converged"] else f", not converged {row['note']}".rstrip()),
            highlight=False,
        )
    console.print(f"{found['converged']} of {found['structures']} converged: {found['output']}")


@app.command()
def md(
    model: Model,
    structures: Annotated[Path, typer.Argument(help="extxyz or another file of structures; the first is simulated")],
    output: Output,
    steps: Annotated[int, typer.Option(help="of the integration")] = 1000,
    temperature: Annotated[float, typer.Option(help="K")] = 300.0,
    timestep: Annotated[float, typer.Option(help="fs")] = 0.5,
    ensemble: Annotated[
        Ensemble, typer.Option(help="nve: velocity Verlet; nvt: Langevin, friction 0.01/fs")
    ] = Ensemble.NVT,
    interval: Annotated[int, typer.Option(help="steps between frames")] = 10,
    seed: Annotated[int, typer.Option(help="of velocities and thermostat")] = 0,
    charge: Charge = None,
    spin: Spin = None,
    unseen: Unseen = UnseenChoice.WARN,
    device: Device = "cpu",
    dtype: Dtype = Precision.FLOAT32,
    average: Average = None,
    committee: Committee = None,
    compile: Compile = False,
    max_uncertainty: MaxUncertainty = None,
    uncertain: Uncertain = UncertainChoice.WARN,
) -> None:
    """Molecular dynamics of one molecule; the trajectory is written to extxyz."""
    from transip.inference.md import run_md

    calculator = _calculator(
        model, committee, charge, spin, unseen, device, dtype, average, compile, max_uncertainty, uncertain
    )
    found = run_md(
        calculator, structures, output,
        steps=steps, temperature=temperature, timestep=timestep, ensemble=ensemble.value, interval=interval, seed=seed,
    )  # fmt: skip
    drift = found["energy_drift"]
    console.print(
        f"{found['time']:g} fs, mean temperature {found['mean_temperature']:.0f} K"
        + ("" if drift is None else f", energy drift {drift:.1f} meV/atom/ps")
        + f", {found['frames']} frames: {found['output']}"
    )


@app.command()
def vibrations(
    model: Model,
    structures: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON: frequencies, modes, Hessians")],
    step: Annotated[float, typer.Option(help="displacement of the finite differences, Å")] = 0.005,
    charge: Charge = None,
    spin: Spin = None,
    unseen: Unseen = UnseenChoice.WARN,
    device: Device = "cpu",
    dtype: Dtype = Precision.FLOAT64,
    average: Average = None,
    committee: Committee = None,
) -> None:
    """Vibrational frequencies and zero-point energies of relaxed structures; best with conservative forces."""
    from transip.inference.vibrations import vibrations_file

    calculator = _calculator(model, committee, charge, spin, unseen, device, dtype, average)
    rows = vibrations_file(calculator, structures, output, step=step)
    for row in rows:
        imaginary = sum(frequency < 0 for frequency in row["frequencies"])
        shown = " ".join(f"{frequency:.0f}" for frequency in row["frequencies"])
        console.print(
            f"{row['source'] or row['formula']}: zero-point energy {row['zero_point_energy']:.3f} eV, "
            f"{imaginary} imaginary of {len(row['frequencies'])} frequencies (cm⁻¹): {shown}",
            highlight=False,
        )
    console.print(f"{len(rows)} structures: {output}")


@app.command()
def models() -> None:
    """List the models inside the package: give their names wherever a MODEL is asked for."""
    from transip.model.card import models_table

    console.print(models_table())


@app.command()
def info(
    model: Annotated[Path | None, typer.Argument(help="model, as elsewhere; nothing: this installation")] = None,
) -> None:
    """What a model is and was trained on; without MODEL, versions, devices and extras."""
    from transip.report.describe import describe_installation, describe_model

    console.print(describe_installation() if model is None else describe_model(model))


if __name__ == "__main__":
    main()
