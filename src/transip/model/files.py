"""Models as data: a folder with model.safetensors, config.json and a README; nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from transip.config import ModelSettings, parse
from transip.errors import InputError
from transip.files import atomic_path, read_json, write_json, write_text
from transip.model.potential import Potential

FORMAT = 3
# What a format has that the one before it had not: settings of the architecture, as they were in effect until then.
NEW_SETTINGS = {2: {"convolutions": 0}, 3: {"pair_forces": False}}
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".model", ".bin")


def save_model(model: Potential, folder: str | Path) -> None:
    """Write `model` to `folder`; config.json comes last, so a folder that has one is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(model.state_dict(), folder / WEIGHTS)
    write_text(folder / CARD, model_card(model))
    config = {
        "format": FORMAT,
        "model": model.settings.model_dump(mode="json"),
        "scale": model.scale,
        "parameters": model.num_parameters,
        **model.card,
    }
    write_json(folder / CONFIG, config)


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Potential:
    """Load a model folder (or the folder's model.safetensors); ready for inference.

    Raises:
        InputError: nothing there, a pickled checkpoint, a truncated file, or a format newer than this transip.
    """
    folder = model_folder(path)
    config = read_json(folder / CONFIG)
    version = config.pop("format", None) if isinstance(config, dict) else None
    if not isinstance(version, int):
        raise InputError("is not the description of a transip model", where=str(folder / CONFIG))
    if version > FORMAT:
        raise InputError(
            f"has format {version}, newer than format {FORMAT} that this transip reads",
            where=str(folder),
            remedy="upgrade transip (pip install --upgrade transip)",
        )
    try:
        settings, scale = config.pop("model"), float(config.pop("scale"))
        config.pop("parameters", None)
        for number, added in NEW_SETTINGS.items():
            settings = settings if version >= number else {**added, **settings}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"lacks or misstates {error}", where=str(folder / CONFIG)) from error
    tensors = load_tensors(folder / WEIGHTS)
    references = tensors.get("references", torch.zeros(87, dtype=torch.float64))
    model = Potential(parse(ModelSettings, settings, str(folder / CONFIG)), references, scale, config)
    element = tensors.get("embed.element.weight")
    model.to(torch.float32 if element is None else element.dtype)  # a model saved in float64 stays one
    load_state(model, tensors, folder / WEIGHTS)
    return model.to(device).eval().requires_grad_(False)


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


def model_folder(path: str | Path) -> Path:
    """The folder with the model that `path` names: itself, its parent for a file in it, ``model/`` of a run folder.

    Raises:
        InputError: there is no model, or `path` looks like a pickled checkpoint.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise InputError(
            "looks like a pickled checkpoint, which could run code when loaded; refused",
            where=str(path),
            remedy=f"give a transip model folder ({WEIGHTS} and {CONFIG})",
        )
    folder = path.parent if path.name in (WEIGHTS, CONFIG) else path
    if (folder / "model" / CONFIG).is_file() and not (folder / CONFIG).is_file():
        folder = folder / "model"  # a run folder
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"no transip model: {name} not found",
                where=str(path),
                remedy=f"a model is a folder with {WEIGHTS} and {CONFIG}, such as runs/NAME/model",
            )
    return folder


def model_card(model: Potential) -> str:
    """The README of a model folder: what it is, on what it was trained, how equivariant it is."""
    card: dict[str, Any] = model.card
    settings = model.settings
    lines = [
        "# A transip potential",
        "",
        f"- {model.num_parameters:,} parameters (width {settings.width}, depth {settings.depth}, "
        f"heads {settings.heads}), {settings.forces} forces, preset `{settings.preset}`",
        f"- level of theory: {card.get('level_of_theory', 'unknown')}",
        f"- elements seen in training: {', '.join(card.get('elements', [])) or 'unknown'}",
        f"- charges: {card.get('charges', 'unknown')}; multiplicities: {card.get('spins', 'unknown')}",
        "- units: eV, Å, eV/Å; energies are totals at the level of theory",
        "",
        "Rotation symmetry is learned, not built in: the errors below say how well.",
        "",
        "```json",
        json.dumps({key: card.get(key) for key in ("training", "validation") if key in card}, indent=2),
        "```",
        "",
        'Use: `TransIPCalculator("path/to/this/folder")`, or `transip predict`, `relax`, `md`.',
        "Do not use it for elements, charges or multiplicities that it has not seen, nor for periodic systems.",
    ]
    return "\n".join(lines) + "\n"
