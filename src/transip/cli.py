"""The command line: each verb parses, calls one function and prints what came back."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperGroup

from transip.cli_options import (
    Average,
    Committee,
    Device,
    InferenceOptions,
    Input,
    Model,
    Output,
    Overwrite,
    Set,
    SkipBad,
    with_inference_options,
)
from transip.errors import InputError, InputWarning
from transip.extras import check_name_clash
from transip.memory import tune_malloc
from transip.version import __version__


class _Verbs(TyperGroup):
    """Says what is kept when a verb is stopped with Ctrl-C, as the `KeyboardInterrupt` tells it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            _complain(str(stop) or "stopped", "yellow")
            raise typer.Exit(130) from None


app = typer.Typer(
    name="transip",
    cls=_Verbs,
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
        _complain(f"error: {error}", "bold red")
        sys.exit(2)


def _complain(message: str, style: str) -> None:
    Console(stderr=True).print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, InputWarning):
        _complain(f"warning: {message}", "yellow")


def _list_skipped(skipped: Iterable[InputError]) -> None:
    for error in skipped:
        _complain(f"skipped: {error.where}: {error.problem}", "yellow")


# ---------------------------------------------------------------------------------------------- data


@data_app.command("build", epilog="Example: transip data build recipes/data-demo.yaml -o demo.pack")
def data_build(
    recipe: Annotated[Path, typer.Argument(help="YAML: which molecules, how displaced, which method")],
    output: Output,
    overrides: Set = None,
) -> None:
    """Make molecules, displace their atoms, label them with a quantum method; resumes if it was killed."""
    from transip.config import LabelSettings, load
    from transip.data.info import summarize
    from transip.labels.campaign import run_campaign

    run_campaign(load(LabelSettings, recipe, overrides), output)
    console.print(summarize(output).table())


@data_app.command(
    "pack", epilog="Example: transip data pack molecules.extxyz -o molecules.pack --level-of-theory GFN2-xTB"
)
def data_pack(
    inputs: Annotated[
        list[Path], typer.Argument(help="extxyz files, ASE databases, .aselmdb shards or folders of them")
    ],
    output: Output,
    level_of_theory: Annotated[str, typer.Option(help="of the labels, e.g. 'ωB97M-V/def2-TZVPD'")] = "unknown",
    energy_key: Annotated[str | None, typer.Option(help="key of the total energy")] = None,
    forces_key: Annotated[str | None, typer.Option(help="key of the forces")] = None,
    stress_key: Annotated[str | None, typer.Option(help="key of the stress, in periodic cells")] = None,
    charges_key: Annotated[
        str | None, typer.Option(help="key of the partial charges of the atoms; '' leaves them out")
    ] = None,
    spin_populations_key: Annotated[
        str | None, typer.Option(help="key of the unpaired electrons of the atoms, likewise")
    ] = None,
    dipole_key: Annotated[str | None, typer.Option(help="key of the dipole moment, likewise")] = None,
    charge_key: Annotated[str, typer.Option(help="key of the total charge in atoms.info")] = "charge",
    spin_key: Annotated[str, typer.Option(help="key of the multiplicity in atoms.info")] = "spin",
    domain_key: Annotated[str, typer.Option(help="key of the chemical domain in atoms.info")] = "data_id",
    energy_unit: Annotated[
        Literal["eV", "hartree", "kcal/mol", "kJ/mol"], typer.Option(help="unit of energies in the files")
    ] = "eV",
    length_unit: Annotated[
        Literal["angstrom", "bohr"], typer.Option(help="unit of positions in the files")
    ] = "angstrom",
    force_unit: Annotated[
        Literal["eV/angstrom", "hartree/bohr", "kcal/mol/angstrom", "kJ/mol/angstrom"] | None,
        typer.Option(help="unit of forces in the files  [default: energy unit / length unit]"),
    ] = None,
    dipole_unit: Annotated[
        Literal["e*angstrom", "e*bohr", "debye"] | None,
        typer.Option(help="unit of dipole moments in the files  [default: e × length unit]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="replace an existing pack")] = False,
) -> None:
    """Pack labelled structures for training, and report what was found in the files."""
    from transip.config import KeySettings, UnitSettings
    from transip.data.pack import pack_files

    labels = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    labels |= {"charges": charges_key, "spin_populations": spin_populations_key, "dipole": dipole_key}
    conditions = {"charge": charge_key, "spin": spin_key, "domain": domain_key}
    keys = KeySettings.model_validate(labels | conditions)
    given = {"energy": energy_unit, "length": length_unit, "forces": force_unit, "dipole": dipole_unit}
    units = UnitSettings.model_validate(given)
    report = pack_files(inputs, output, keys=keys, units=units, level_of_theory=level_of_theory, overwrite=overwrite)
    console.print(report.table())


@data_app.command("info", epilog="Example: transip data info molecules.pack")
def data_info(
    path: Input, verify: Annotated[bool, typer.Option("--verify", help="compare a pack's checksums first")] = False
) -> None:
    """Say what a pack or a file of structures holds."""
    from transip.data.info import summarize
    from transip.data.store import Pack

    if verify:
        Pack.open(path).verify()
    console.print(summarize(path).table())


# ---------------------------------------------------------------------------------------------- train, evaluate


@app.command(epilog="Example: transip train recipes/demo.yaml -o runs/demo")
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML: data, model, objective, training")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="run folder  [default: runs/NAME]")] = None,
    overrides: Set = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue from the last checkpoint; start if there is none")
    ] = False,
) -> None:
    """Train a potential. Start with `torchrun --nproc-per-node N -m transip train …` for several processes."""
    from transip.config import Recipe, load
    from transip.training.interrupt import Interrupted
    from transip.training.trainer import train as run

    settings = load(Recipe, recipe, overrides)
    try:
        model = run(settings, output or Path("runs") / settings.name, resume=resume)
    except Interrupted as interrupted:
        Console(stderr=True).print(str(interrupted), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None  # what shells say of a command that Ctrl-C has ended
    console.print(f"model: {model}")


@app.command(epilog="Example: transip evaluate runs/demo test.pack")
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
    device: Device = "auto",
    average: Average = None,
    committee: Committee = None,
) -> None:
    """Errors per domain, symmetry and cost on labelled structures: table, JSON and predictions."""
    from transip.evaluation.saved import default_folder, evaluate_checkpoint

    result = evaluate_checkpoint(model, data or [], committee=committee or [], device=device, average=average)
    folder = output or default_folder(model, committee or [], average)
    console.print(result.table())
    result.write(folder)
    console.print(f"written to {folder}")


@app.command(epilog="Example: transip calibrate runs/demo --average 12")
def calibrate(
    model: Model,
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="labelled packs of molecules not trained on; none: what the recipe of MODEL held out"),
    ] = None,
    average: Average = None,
    committee: Committee = None,
    seed: Annotated[int, typer.Option(help="of the split: half of the compositions to fit, half to test")] = 0,
    device: Device = "auto",
) -> None:
    """Measure what the spread over rotations or models says about errors, and keep it with MODEL.

    From then on predictions made just so (the same models, the same --average) come with uncertainties.
    """
    from transip.evaluation import calibrate as calibration

    fitted = calibration.calibrate(
        model, data or [], committee=committee or [], average=average, device=device, seed=seed
    )
    console.print(calibration.calibration_table(fitted))
    console.print(f"kept in {model}")


@app.command(epilog="Example: transip symmetry transip-s-gfn2 test.pack")
def symmetry(
    model: Model,
    data: Annotated[list[Path], typer.Argument(help="packs, labelled or not")],
    structures: Annotated[int, typer.Option(min=1, help="number of structures to rotate")] = 64,
    rotations: Annotated[int, typer.Option(min=2, help="orientations of each")] = 8,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file")] = None,
    device: Device = "auto",
) -> None:
    """Rotation errors of energy and forces, and what each layer's embedding knows of orientation."""
    from transip.evaluation.symmetry import evaluate_symmetry, symmetry_table
    from transip.files import write_json

    values = evaluate_symmetry(model, data, structures=structures, rotations=rotations, device=device)
    console.print(symmetry_table(values))
    if output is not None:
        write_json(output, values)


@app.command(epilog="Example: transip report runs/demo runs/other -o report.html")
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


@app.command(epilog="Example: transip predict transip-s-gfn2 molecules.extxyz -o predicted.extxyz --average 12")
@with_inference_options
def predict(
    model: Model,
    structures: Input,
    output: Output,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    *,
    options: InferenceOptions,
) -> None:
    """Energies and forces of every structure of a file, in batches; written to extxyz."""
    from transip.inference.predict import predict_file

    done = predict_file(options.calculator(model), structures, output, overwrite=overwrite, skip_bad=skip_bad)
    _list_skipped(done["skipped"])
    console.print(
        f"{done['structures']:,} structures, {done['atoms']:,} atoms in {done['seconds']:.1f} s: {done['output']}"
    )


@app.command(epilog="Example: transip relax transip-s-gfn2 molecules.extxyz -o relaxed.extxyz --fmax 0.01")
@with_inference_options
def relax(
    model: Model,
    structures: Input,
    output: Output,
    fmax: Annotated[float, typer.Option(help="converged when no atom's force is larger, eV/Å")] = 0.05,
    steps: Annotated[int, typer.Option(help="per structure, at most")] = 500,
    optimizer: Annotated[
        Literal["LBFGS", "FIRE"] | None, typer.Option(help="of ASE  [default: LBFGS, FIRE for direct forces]")
    ] = None,
    cell: Annotated[
        bool,
        typer.Option(
            "--cell", help="relax lattice vectors, too, to zero pressure; needs conservative forces, a cutoff"
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue after the structures that a stopped run has finished")
    ] = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    *,
    options: InferenceOptions,
) -> None:
    """Relax every structure of a file to its nearest minimum; the final ones are written to extxyz."""
    from transip.inference.relax import relax_file

    done = relax_file(
        options.calculator(model), structures, output, fmax=fmax, steps=steps, optimizer=optimizer, cell=cell,
        resume=resume, overwrite=overwrite, skip_bad=skip_bad,
    )  # fmt: skip
    for row in done["rows"]:
        change = row["final_energy"] - row["initial_energy"]
        console.print(
            f"{row['source'] or row['formula']}: energy change {change:+.3f} eV in {row['steps']} steps, largest force "
            f"{row['initial_fmax']:.2f} → {row['final_fmax']:.3f} eV/Å"
            + ("" if row["converged"] else f", not converged {row['note']}".rstrip()),
            highlight=False,
        )
    _list_skipped(done["skipped"])
    console.print(f"{done['converged']} of {done['structures']} converged: {done['output']}")


@app.command(epilog="Example: transip md transip-s-gfn2 relaxed.extxyz -o trajectory.extxyz --steps 20000")
@with_inference_options
def md(
    model: Model,
    structures: Annotated[Path, typer.Argument(help="extxyz or another file of structures; the first is simulated")],
    output: Output,
    steps: Annotated[int, typer.Option(help="of the integration")] = 1000,
    temperature: Annotated[float, typer.Option(help="K, which nvt keeps")] = 300.0,
    initial_temperature: Annotated[
        float | None,
        typer.Option(help="K, of the velocities drawn  [default: --temperature; from a minimum, twice that]"),
    ] = None,
    timestep: Annotated[float, typer.Option(help="fs")] = 0.5,
    ensemble: Annotated[
        Literal["nve", "nvt"], typer.Option(help="nve: velocity Verlet; nvt: Langevin, friction 0.01/fs")
    ] = "nvt",
    interval: Annotated[int, typer.Option(help="steps between frames")] = 10,
    seed: Annotated[int, typer.Option(help="of velocities and thermostat")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="continue from the last frame of a stopped run")] = False,
    overwrite: Overwrite = False,
    *,
    options: InferenceOptions,
) -> None:
    """Molecular dynamics of one structure; the trajectory is written to extxyz."""
    from transip.inference.md import run_md

    done = run_md(
        options.calculator(model), structures, output, steps=steps, temperature=temperature,
        initial_temperature=initial_temperature, timestep=timestep, ensemble=ensemble, interval=interval, seed=seed,
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    if initial_temperature is None and done["initial_temperature"] not in (None, temperature):
        console.print(
            f"The start is a minimum: velocities were drawn at {done['initial_temperature']:g} K, of which half goes "
            "into the bonds.",
            highlight=False,
        )
    drift = done["energy_drift"]
    console.print(
        f"{done['time']:g} fs, mean temperature {done['mean_temperature']:.0f} K"
        + ("" if drift is None else f", energy drift {drift:.1f} meV/atom/ps")
        + f", {done['frames']} frames: {done['output']}"
    )


@app.command(epilog="Example: transip vibrations transip-s-gfn2 relaxed.extxyz -o vibrations.json")
@with_inference_options
def vibrations(
    model: Model,
    structures: Input,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON: frequencies, modes, Hessians")],
    step: Annotated[float, typer.Option(help="displacement of the finite differences, Å")] = 0.005,
    spectrum: Annotated[
        Path | None, typer.Option(help="picture of the infrared spectra: PNG, SVG or PDF; needs a model with charges")
    ] = None,
    width: Annotated[float, typer.Option(help="of its Lorentzian lines, full at half maximum, cm⁻¹")] = 15.0,
    overwrite: Overwrite = False,
    *,
    options: InferenceOptions,
) -> None:
    """Vibrational frequencies, infrared intensities and zero-point energies of relaxed structures.

    Best with conservative forces; intensities need a model with charges.
    """
    from transip.inference.predict import has_charges
    from transip.inference.vibrations import NO_CHARGES, intensities_table, vibrations_file

    calculator = options.calculator(model, "float64")
    rows = vibrations_file(
        calculator, structures, output, step=step, spectrum=spectrum, width=width, overwrite=overwrite
    )
    for row in rows:
        imaginary = sum(frequency < 0 for frequency in row["frequencies"])
        shown = " ".join(f"{frequency:.0f}" for frequency in row["frequencies"])
        console.print(
            f"{row['source'] or row['formula']}: zero-point energy {row['zero_point_energy']:.3f} eV, "
            f"{imaginary} imaginary of {len(row['frequencies'])} frequencies (cm⁻¹): {shown}",
            highlight=False,
        )
        if "infrared_intensities" in row:
            console.print(intensities_table(row))
    if not has_charges(calculator.model):
        console.print(f"No infrared intensities: {NO_CHARGES}.")
    console.print(f"{len(rows)} structures: {output}" + (f", {spectrum}" if spectrum else ""))


@app.command(epilog="Example: transip models")
def models() -> None:
    """List the models inside the package: give their names wherever a MODEL is asked for."""
    from transip.model.card import models_table

    console.print(models_table())


@app.command(epilog="Example: transip info transip-s-gfn2")
def info(
    model: Annotated[Path | None, typer.Argument(help="model, as elsewhere; nothing: this installation")] = None,
) -> None:
    """What a model is and was trained on; without MODEL, versions, devices and extras."""
    from transip.report.describe import describe_installation, describe_model

    console.print(describe_installation() if model is None else describe_model(model))


if __name__ == "__main__":
    main()
