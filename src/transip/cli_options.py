"""Options that several verbs of the command line share, and the shell's completion of model names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

if TYPE_CHECKING:
    from transip.inference.ase import TransIPCalculator


def _complete_model(incomplete: str) -> list[str]:
    """Names of shipped models, and folders here, for the shell's completion."""
    from transip.model.released import builtin_models

    names = list(builtin_models())
    here = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    folders = [f"{path}/" for path in here.glob("*/") if not path.name.startswith(".")]
    return sorted(name for name in names + folders if name.startswith(incomplete))


Model = Annotated[
    Path,
    typer.Argument(
        help="model or run folder, a shipped model's name (see `transip models`), or owner/name[@revision] on the Hub",
        autocompletion=_complete_model,
    ),
]
Input = Annotated[Path, typer.Argument(help="structures: extxyz, ASE database, .aselmdb or .pack")]
Output = Annotated[Path, typer.Option("--output", "-o", help="where to write, in a folder that exists")]
Set = Annotated[list[str] | None, typer.Option("--set", help="override a setting: a.b=c (repeatable)")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace an output that exists")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave out, and list, structures that cannot be used")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, xpu, …; auto: a GPU if there is one", rich_help_panel="Computing")
]
Average = Annotated[
    int | None,
    typer.Option(
        help="average over this many rotations: 12, 24, 60 (groups) or another number (random)",
        rich_help_panel="Model and accuracy",
    ),
]
Committee = Annotated[
    list[Path] | None,
    typer.Option(
        help="another model: results are the mean of MODEL and all of these (repeatable)",
        rich_help_panel="Model and accuracy",
    ),
]


@dataclass(frozen=True)
class InferenceOptions:
    """Options of all verbs that run a model on structures."""

    charge: Annotated[
        int | None,
        typer.Option(help="total charge in e of every structure, instead of the file's", rich_help_panel="Structures"),
    ] = None
    spin: Annotated[
        int | None,
        typer.Option(help="multiplicity 2S+1 of every structure, instead of the file's", rich_help_panel="Structures"),
    ] = None
    average: Average = None
    committee: Committee = None
    unseen: Annotated[
        Literal["warn", "refuse", "ignore"],
        typer.Option(
            help="elements, charges, multiplicities, sizes that the model was not trained on",
            rich_help_panel="Model and accuracy",
        ),
    ] = "warn"
    max_uncertainty: Annotated[
        float | None,
        typer.Option(
            help="bound on the uncertainty of forces, eV/Å; needs a calibrated way to predict",
            rich_help_panel="Model and accuracy",
        ),
    ] = None
    uncertain: Annotated[
        Literal["warn", "refuse"],
        typer.Option(help="what to do beyond --max-uncertainty", rich_help_panel="Model and accuracy"),
    ] = "warn"
    device: Device = "auto"
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        typer.Option(
            help="precision of the network  [default: float32; of vibrations float64]", rich_help_panel="Computing"
        ),
    ] = None
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="fuse the network's operations: a minute or two at first, then faster",
            rich_help_panel="Computing",
        ),
    ] = False

    def calculator(self, model: Path, dtype: str = "float32") -> TransIPCalculator:
        """The calculator that these options describe; `dtype` where they leave it open."""
        from transip.inference.ase import TransIPCalculator

        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        models = [model, *(given.pop("committee") or [])]
        given["dtype"] = self.dtype or dtype
        return TransIPCalculator(models, **given)


def with_inference_options(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `InferenceOptions` in the place of its last parameter, `options`."""
    hints = get_type_hints(InferenceOptions, include_extras=True)
    *own, _ = inspect.signature(verb, eval_str=True).parameters.values()
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in fields(InferenceOptions)
    ]

    @functools.wraps(verb)
    def command(**given: Any) -> None:
        options = InferenceOptions(**{parameter.name: given.pop(parameter.name) for parameter in shared})
        verb(**given, options=options)

    command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return command
