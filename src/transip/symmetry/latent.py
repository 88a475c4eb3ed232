"""Latent equivariance: embeddings of a rotated molecule must follow from the unrotated one's and the rotation.

With two views x₀, x₁ = r x₀ of each structure and their embeddings u₀, u₁, an action T(u₀, r) is trained together
with the encoder to minimise ‖T(u₀, r) − u₁‖² (TransIP, arXiv 2510.00027). Any module that returns per-atom embeddings
can be trained with it.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from transip.batch import Batch, segment_mean
from transip.config import LatentSettings, ModelSettings, parse
from transip.errors import InputError
from transip.files import read_json, write_json
from transip.model.files import load_state, load_tensors, save_tensors
from transip.rotations import Rotations

AtomEmbeddings = Float[Tensor, "atoms width"]
# An item is an atom (level "atoms") or a structure (level "pooled").
Embeddings = Float[Tensor, "items width"]
ItemRotations = Float[Tensor, "items 3 3"]

WEIGHTS, SETTINGS = "latent.safetensors", "latent.json"


class LatentEquivariance(nn.Module):
    """The latent-equivariance loss with its learned action."""

    def __init__(self, settings: LatentSettings, width: int):
        super().__init__()
        self.settings, self.width = settings, width
        self.action = LearnedAction(width, settings.hidden)

    def forward(
        self, first: AtomEmbeddings, second: AtomEmbeddings, rotations: Rotations, batch: Batch
    ) -> Float[Tensor, "structures"]:
        """Mean squared error of the action's prediction, of each structure.

        Args:
            first: embeddings of the atoms in the first view.
            second: in the second view, in which each structure is rotated by `rotations` relative to the first.
            rotations: (structures, 3, 3).
            batch: says which atoms belong together.
        """
        predicted, target = self.predict(first, second, rotations, batch)
        distance = (predicted - target).square().mean(-1)
        return distance if self.settings.level == "pooled" else segment_mean(distance, batch)

    def predict(
        self, first: AtomEmbeddings, second: AtomEmbeddings, rotations: Rotations, batch: Batch
    ) -> tuple[Embeddings, Embeddings]:
        """T(u₀, r) and u₁: of each structure (level "pooled") or atom."""
        if self.settings.level == "pooled":
            return self.action(segment_mean(first, batch), rotations), segment_mean(second, batch)
        return self.action(first, rotations[batch.structure_index]), second


class LearnedAction(nn.Module):
    """u + MLP(u, rotation matrix): the learned action of a rotation on embeddings; starts as the identity."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc_in = nn.Linear(width + 9, hidden)
        self.fc_out = nn.Linear(hidden, width)
        nn.init.zeros_(self.fc_out.weight)
        nn.init.zeros_(self.fc_out.bias)

    def forward(self, embeddings: Embeddings, rotations: ItemRotations) -> Embeddings:
        """Predicted embeddings after each item is rotated by its rotation."""
        inputs = torch.cat([embeddings, rotations.flatten(1).to(embeddings.dtype)], -1)
        return embeddings + self.fc_out(functional.silu(self.fc_in(inputs)))


def save_latent(latent: LatentEquivariance, folder: Path) -> None:
    """Write the trained action next to its model, for later measurements; the potential does not need it."""
    save_tensors(latent.state_dict(), folder / WEIGHTS)
    write_json(folder / SETTINGS, {"width": latent.width, **latent.settings.model_dump(mode="json")})


def load_latent(folder: Path, model: ModelSettings | None = None) -> LatentEquivariance | None:
    """The action saved next to a model, or None if it was trained without one.

    Args:
        folder: of the model.
        model: settings of the model whose embeddings it must fit.

    Raises:
        InputError: the files are damaged, or do not fit each other or `model`.
    """
    source = folder / SETTINGS
    if not source.is_file():
        return None
    try:
        values = read_json(source)
    except RecursionError:
        values = None
    if not isinstance(values, dict) or type(values.get("width")) is not int:
        raise InputError("is not the description of a latent action", where=str(source))
    width = values.pop("width")
    settings = parse(LatentSettings, values, str(source))
    tensors = load_tensors(folder / WEIGHTS)
    latent = _empty_action(settings, width, tensors)
    if latent is None or (model is not None and width != model.width):
        raise InputError(
            f"does not fit {WEIGHTS}, or not the model",
            where=str(source),
            remedy="all files must come from the same training; the model predicts without these two",
        )
    load_state(latent.to_empty(device="cpu"), tensors, folder / WEIGHTS)
    return latent.eval().requires_grad_(False)


def _empty_action(settings: LatentSettings, width: int, tensors: dict[str, Tensor]) -> LatentEquivariance | None:
    """The action without memory for its weights; None if `tensors` are not its weights."""
    try:
        with torch.device("meta"):
            latent = LatentEquivariance(settings, width)
    except (RuntimeError, TypeError, OverflowError):  # sizes below zero, or beyond what a tensor can count
        return None
    expected, loaded = ({k: v.shape for k, v in state.items()} for state in (latent.state_dict(), tensors))
    return latent if expected == loaded else None
