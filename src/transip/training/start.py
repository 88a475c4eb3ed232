"""Where training begins: a new potential, or a trained one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from transip.config import BatchSettings, Recipe, ReferenceTerm
from transip.data.dataset import Dataset
from transip.data.references import AtomicReferences, statistics
from transip.data.sampler import sorted_batches
from transip.data.store import UNKNOWN
from transip.errors import InputError, InputWarning
from transip.model.backbone import BuildBackbone
from transip.model.files import load_model
from transip.model.potential import REFERENCES, Potential
from transip.structure import ELEMENTS
from transip.training.adapters import NewSpecies, apply_adapters


def resolve_model_settings(recipe: Recipe, backbone: BuildBackbone | None = None) -> Recipe:
    """`recipe` with all of its `model` written out: with `init_from`, what it does not say is as in that model.

    Raises:
        InputError: that model cannot be loaded, or the recipe does not fit it.
    """
    if recipe.init_from is None:
        return recipe
    return recipe.resolve(load_model(recipe.init_from, backbone=backbone).settings)


def build_potential(
    recipe: Recipe, data: Dataset, replay: Dataset | None = None, backbone: BuildBackbone | None = None
) -> Potential:
    """A potential whose references and scale fit `data`, or that goes on from the trained model `recipe.init_from`.

    Raises:
        InputError: that model is of another architecture.
    """
    if recipe.init_from is None:
        references = AtomicReferences.from_settings(recipe.references, data)
        card = _card(data, None) | {"data": {"structures": len(data), **statistics(data, references)}}
        if references.terms.any():
            elements = recipe.references.model_copy(update={"terms": ()})
            left = statistics(data, AtomicReferences.from_settings(elements, data))
            card["data"]["element_reference_mae_per_atom"] = left["reference_mae_per_atom"]
        return _potential(recipe, references, card["data"]["force_rms"] or 1.0, card, backbone)
    start = load_model(recipe.init_from, backbone=backbone)
    _check_architecture(recipe, start)
    references = _references(recipe, start, data)
    card = _card(data, replay) | {"data": {"structures": len(data), **statistics(data, references)}}
    if replay is not None:
        card["data"]["replayed"] = len(replay)
    # The scale stays: what the network says in units of it keeps its meaning.
    card["started_from"] = recipe.init_from
    potential = _potential(recipe, references, start.scale, card, backbone)
    # direct → gradient leaves the force head behind, gradient → direct gets a new one
    own = potential.state_dict()
    weights = {name: value for name, value in start.state_dict().items() if name in own and name not in REFERENCES}
    potential.load_state_dict({**own, **weights})
    apply_adapters(potential, recipe.fine_tuning, _new_species(start, card))
    return potential


def _potential(
    recipe: Recipe, references: AtomicReferences, scale: float, card: dict[str, Any], backbone: BuildBackbone | None
) -> Potential:
    elements, terms = torch.from_numpy(references.values), torch.from_numpy(references.terms)
    return Potential(recipe.model, elements, scale, card, backbone and backbone(recipe.model), terms)


def _card(data: Dataset, replay: Dataset | None) -> dict[str, Any]:
    """What a model has seen when it has been trained on `data` and `replay`."""
    datasets = [data] if replay is None else [data, replay]
    return {
        "level_of_theory": data.level_of_theory,
        "elements": [ELEMENTS[z] for z in sorted({z for dataset in datasets for z in dataset.elements()})],
        "charges": sorted({int(q) for dataset in datasets for q in dataset.charge}),
        "spins": sorted({int(s) for dataset in datasets for s in dataset.spin}),
        "sizes": [
            int(min(dataset.atom_counts.min() for dataset in datasets)),
            int(max(dataset.atom_counts.max() for dataset in datasets)),
        ],
    }


def _new_species(start: Potential, card: dict[str, Any]) -> NewSpecies:
    """What `card` lists and `start` has not seen; nothing of what its card does not speak of."""

    def new(key: str) -> list[Any]:
        return sorted(set(card[key]) - set(start.card.get(key, card[key])))

    return NewSpecies(sorted(ELEMENTS.index(symbol) for symbol in new("elements")), new("charges"), new("spins"))


def _references(recipe: Recipe, start: Potential, data: Dataset) -> AtomicReferences:
    """References as `fine_tuning.references` asks: those of `start`, or changed to what its predictions leave.

    Fitting what the predictions leave, not the energies themselves, keeps what the network has learned: a few
    structures do not say how their energy is to be divided between elements and bonds.
    """
    rule, level = recipe.fine_tuning.references, start.card.get("level_of_theory", UNKNOWN)
    old = AtomicReferences(start.references.numpy(), start.charge_spin_references.numpy())
    terms = recipe.references.terms
    if rule == "keep" or (rule == "auto" and level == data.level_of_theory != UNKNOWN):
        card = _card(data, None)
        elements, terms = _new_species(start, card).elements, _new_terms(start, card, terms)
        if not elements and not terms:
            return old
        if not terms:
            data = data.with_elements(elements)  # the others say nothing about these
    else:
        elements = data.elements()
        trained = {ELEMENTS.index(symbol) for symbol in start.card.get("elements", ())}
        if left := [ELEMENTS[z] for z in sorted(trained - set(elements))]:
            warnings.warn(
                f"{', '.join(left)} do not occur in the new data: their energies stay those of {level}, not of "
                f"{data.level_of_theory}; do not use the new model for them",
                InputWarning,
                stacklevel=2,
            )
    change = AtomicReferences.fit(data, _energies(start, data, recipe.training.batch), elements, terms)
    return AtomicReferences(old.values + change.values, old.terms + change.terms)


def _new_terms(start: Potential, card: dict[str, Any], terms: Sequence[ReferenceTerm]) -> Sequence[ReferenceTerm]:
    """Those that are 0 for all that `start` was trained on, which was neutral or closed-shell; `card` lists more."""

    def is_new(key: str, zero: int) -> bool:
        return start.card.get(key) == [zero] != card[key]

    return [term for term in terms if (is_new("spins", 1) if term == "unpaired_electrons" else is_new("charges", 0))]


@torch.no_grad()
def _energies(model: Potential, data: Dataset, batch: BatchSettings) -> Float64[np.ndarray, "structures"]:
    """Predicted energies, eV."""
    energies = np.empty(len(data))
    for indices in sorted_batches(data.atom_counts, batch):
        energies[indices] = model(data.get_batch(indices)).energy.numpy()
    return energies


def _check_architecture(recipe: Recipe, start: Potential) -> None:
    same = {"preset", "size", "forces"}  # the first two only fill in others
    wanted, given = recipe.model.model_dump(exclude=same), start.settings.model_dump(exclude=same)
    different = [f"{key} {wanted[key]} (there {given[key]})" for key in wanted if wanted[key] != given[key]]
    if different:
        raise InputError(
            f"is of another architecture than the recipe's model: {', '.join(different)}",
            where=str(recipe.init_from),
            remedy="leave `model` out of the recipe, but for `forces`",
        )
