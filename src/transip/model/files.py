"""Models as data: a folder with model.safetensors, config.json and a README; nothing is ever unpickled."""

from __future__ import annotations

import math
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from transip.config import ModelSettings, Settings, parse
from transip.config.migrate import MODEL_MIGRATIONS, migrate
from transip.errors import InputError
from transip.files import atomic_path, read_json, write_json, write_text
from transip.model.backbone import BuildBackbone
from transip.model.calibration import Calibration
from transip.model.card import model_card
from transip.model.potential import REFERENCES, Potential
from transip.model.released import CARD, CHECKSUMS, CONFIG, WEIGHTS, builtin_models, resolve_pretrained, write_checksums
from transip.structure import ELEMENTS, MAX_ATOMIC_NUMBER

FORMAT = 1 + len(MODEL_MIGRATIONS)
CUSTOM = "custom"  # in the place of a backbone's name: code is passed, never named in a file
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".model", ".bin")


def save_model(model: Potential, folder: str | Path) -> None:
    """Write `model` to `folder`; config.json comes last, so a folder that has one is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(model.state_dict(), folder / WEIGHTS)
    _describe(model, folder)


def update_metadata(path: str | Path, **entries: Any) -> None:
    """Set `entries` of the card of the model in a folder; its weights stay as they are.

    Raises:
        InputError: there is no such model, or its folder cannot be written.
    """
    folder = resolve_model_folder(path)
    model = load_model(folder)
    model.card |= entries
    _describe(model, folder)
    if (folder / CHECKSUMS).is_file():
        write_checksums(folder)


def _describe(model: Potential, folder: Path) -> None:
    write_text(folder / CARD, model_card(model))
    config = {
        "format": FORMAT,
        **({"backbone": CUSTOM} if model.has_custom_backbone else {}),
        "model": model.settings.model_dump(mode="json"),
        "scale": model.scale,
        "parameters": model.num_parameters,
        **model.card,
    }
    write_json(folder / CONFIG, config)


def load_model(
    path: str | Path, device: torch.device | str = "cpu", *, backbone: BuildBackbone | None = None
) -> Potential:
    """Load a model, ready for inference.

    Args:
        path: a model folder, a file in it, or a run folder; the name of a shipped model (`transip models` lists
            them); or a repository of the Hugging Face Hub, ``"owner/name"`` or ``"owner/name@revision"``.
        device: a torch device.
        backbone: builds the backbone of a model that was saved with one of your own, from the model's settings.

    Raises:
        InputError: nothing there, a pickled checkpoint, a truncated file, a format newer than this transip, a
            repository that cannot be had, or a backbone that is missing or is not what was saved.
    """
    folder = resolve_model_folder(path)
    source = folder / CONFIG
    try:
        config = read_json(source)
    except RecursionError:
        config = {}
    if not isinstance(config, dict) or "format" not in config:
        raise InputError("is not the description of a transip model", where=str(source))
    config = migrate(config, config.pop("format"), MODEL_MIGRATIONS, str(source))
    try:
        settings, scale = config.pop("model"), float(config.pop("scale"))
        config.pop("parameters", None)
        custom = config.pop("backbone", None)
        if not (math.isfinite(scale) and isinstance(settings, dict)):
            raise ValueError("'model' or 'scale'")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"lacks or misstates {error}", where=str(source)) from error
    parse(_Card, config, str(source))
    architecture = parse(ModelSettings, settings, str(source))
    _check_backbone(custom, backbone, folder)
    tensors = load_tensors(folder / WEIGHTS)
    _check_tensors(None if custom else architecture, tensors, folder / WEIGHTS)
    references = torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
    model = Potential(architecture, references, scale, config, None if backbone is None else backbone(architecture))
    saved = {tensor.dtype for name, tensor in tensors.items() if name not in REFERENCES}
    # A model saved in float64 stays one, half a precision does not.
    model.to(reduce(torch.promote_types, saved, torch.float32))
    load_state(model, tensors, folder / WEIGHTS)
    return model.to(device).eval().requires_grad_(False)


class _Measured(Settings):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    structures: float = 0
    energy_mae_per_atom: float = 0
    force_mae: float = 0
    force_cosine: float = 0
    force_rotation_error: float = 0
    energy_rotation_spread_per_atom: float = 0


class _Trained(Settings):
    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    step: float
    forward_passes: float


class _Card(Settings):
    """What is read of a model's card, if it is there; more may be."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str = ""
    level_of_theory: str = ""
    started_from: str = ""
    elements: list[Literal[tuple(ELEMENTS[1 : MAX_ATOMIC_NUMBER + 1])]] = Field(default=[])  # pyright: ignore[reportInvalidTypeForm]
    charges: list[int] = Field(default=[])
    spins: list[int] = Field(default=[])
    sizes: list[int] = Field(default=[], min_length=2, max_length=2, description="least and largest number of atoms")
    data: _Measured = _Measured()
    training: _Trained = _Trained(step=0, forward_passes=0)
    validation: _Measured = _Measured()
    domains: dict[str, _Measured] = Field(default={})
    conservation: dict[str, str] = Field(default={})
    not_for: list[str] = Field(default=[])
    calibrations: list[Calibration] = Field(default=[])


def _check_backbone(custom: object, backbone: BuildBackbone | None, folder: Path) -> None:
    if custom not in (None, CUSTOM):
        raise InputError(
            f"names a backbone {str(custom)[:100]!r}", where=str(folder / CONFIG), remedy="upgrade transip"
        )
    if custom and backbone is None:
        raise InputError(
            "was saved with a backbone that is no part of transip",
            where=str(folder),
            remedy="pass the code that builds it: load_model(folder, backbone=...), then give the loaded model to "
            "whatever needs one",
        )
    if backbone is not None and not custom:
        raise InputError(
            "was saved with the built-in backbone", where=str(folder), remedy="load it without a backbone of your own"
        )


def _check_tensors(built_in: ModelSettings | None, tensors: dict[str, Tensor], source: Path) -> None:
    """Before any memory is taken for the built-in network: its settings may be anybody's."""
    for name, tensor in tensors.items():
        if (built_in is not None and tensor.dtype not in PRECISIONS) or not tensor.isfinite().all():
            raise InputError(
                f"{name} holds NaN, infinite numbers or no numbers of a usual precision",
                where=str(source),
                remedy="copy or train the model again",
            )
    num_parameters = sum(tensor.numel() for tensor in tensors.values())
    if built_in is not None and num_parameters < built_in.depth * built_in.width**2:
        raise InputError(
            f"does not fit the architecture in {CONFIG}: {num_parameters:,} numbers are too few",
            where=str(source),
            remedy="both files must come from the same training",
        )


def save_tensors(tensors: dict[str, Tensor], target: Path) -> None:
    """Write tensors to a safetensors file, atomically."""
    with atomic_path(target) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)


def load_tensors(source: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: missing, truncated or not safetensors.
    """
    try:
        with safe_open(source, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=str(source)) from error
    except SafetensorError as error:
        raise InputError(
            f"is truncated or corrupt ({error})", where=str(source), remedy="copy or train the model again"
        ) from error


def load_state(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Put `tensors` into `module`.

    Raises:
        InputError: names or shapes do not fit.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise InputError(
            f"does not fit the architecture in {CONFIG}: {detail}",
            where=str(source),
            remedy="both files must come from the same training",
        ) from error


def resolve_model_folder(path: str | Path) -> Path:
    """The folder with the model that `path` names: itself, its parent for a file in it, ``model/`` of a run folder.

    Where there is no such folder, `path` may be the name of a released model; see `resolve_pretrained`.

    Raises:
        InputError: there is no model, or `path` looks like a pickled checkpoint.
    """
    name, path = path, Path(path)
    if path.suffix.lower() in PICKLES:
        raise InputError(
            "looks like a pickled checkpoint, which could run code when loaded; refused",
            where=str(path),
            remedy=f"give a transip model folder ({WEIGHTS} and {CONFIG})",
        )
    folder = path.parent if path.name in (WEIGHTS, CONFIG) else path
    if (folder / "model" / CONFIG).is_file() and not (folder / CONFIG).is_file():
        folder = folder / "model"  # a run folder
    if not (folder / CONFIG).is_file() and (resolved := resolve_pretrained(name)):
        return resolved
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            named = f", or one of {', '.join(builtin_models())}" if builtin_models() else ""
            raise InputError(
                f"no transip model: {file} not found",
                where=str(path),
                remedy=f"a model is a folder with {WEIGHTS} and {CONFIG}, such as runs/NAME/model{named}",
            )
    return folder
