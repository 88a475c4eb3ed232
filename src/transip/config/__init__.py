"""Every setting of transip, declared once with its default and its explanation.

Unknown keys fail before any data are read. The settings reference in the docs is generated from this package.
"""

from transip.config.base import Settings
from transip.config.data import BatchSettings, DataSettings, KeySettings, ReferenceSettings, ReferenceTerm, UnitSettings
from transip.config.labels import Domain, DomainSettings, LabelSettings
from transip.config.loading import dump, load, parse
from transip.config.model import PRESETS, SIZES, ModelSettings
from transip.config.objective import LatentSettings, ObjectiveSettings
from transip.config.recipe import Recipe
from transip.config.training import FineTuningSettings, OptimizerSettings, TrainingSettings

__all__ = [
    "PRESETS",
    "SIZES",
    "BatchSettings",
    "DataSettings",
    "Domain",
    "DomainSettings",
    "FineTuningSettings",
    "KeySettings",
    "LabelSettings",
    "LatentSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "OptimizerSettings",
    "Recipe",
    "ReferenceSettings",
    "ReferenceTerm",
    "Settings",
    "TrainingSettings",
    "UnitSettings",
    "dump",
    "load",
    "parse",
]
