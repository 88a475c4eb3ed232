"""Inter-atomic potentials from a generic Transformer that learns SO(3)-equivariance.

The public names are imported when they are first used; importing the package does nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from transip.version import __version__

if TYPE_CHECKING:
    from transip.batch import Batch, Prediction
    from transip.config import ModelSettings, Recipe
    from transip.data.dataset import Dataset
    from transip.data.store import Pack
    from transip.errors import InputError
    from transip.inference.ase import TransIPCalculator
    from transip.model.files import load_model, save_model
    from transip.model.hub import from_pretrained, push_to_hub
    from transip.model.potential import Potential
    from transip.structure import Structure
    from transip.training.trainer import train

_HOMES = {
    "Batch": "batch",
    "Dataset": "data.dataset",
    "InputError": "errors",
    "ModelSettings": "config",
    "Pack": "data.store",
    "Potential": "model.potential",
    "Prediction": "batch",
    "Recipe": "config",
    "Structure": "structure",
    "TransIPCalculator": "inference.ase",
    "from_pretrained": "model.hub",
    "load_model": "model.files",
    "push_to_hub": "model.hub",
    "save_model": "model.files",
    "train": "training.trainer",
}
__all__ = [
    "Batch",
    "Dataset",
    "InputError",
    "ModelSettings",
    "Pack",
    "Potential",
    "Prediction",
    "Recipe",
    "Structure",
    "TransIPCalculator",
    "__version__",
    "from_pretrained",
    "load_model",
    "push_to_hub",
    "save_model",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'transip' has no attribute {name!r}")
    return getattr(import_module(f"transip.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
