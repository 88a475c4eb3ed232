"""Latent equivariance: embeddings of a rotated molecule must follow from the unrotated one's and the rotation.

With two views x₀, x₁ = r x₀ of each structure and their embeddings u₀, u₁, an action T(u₀, r) is trained together
with the encoder to minimise dist(T(u₀, r), u₁) (TransIP, arXiv 2510.00027). Any module that returns per-atom
embeddings can be trained with it.
"""

from collections.abc import Sequence
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
from transip.model.heads import split_representation
from transip.rotations import Rotations, matrices_to_quaternions

# An item is an atom (level "atoms") or a structure (level "pooled").
Latents = Float[Tensor, "items width"]
ItemRotations = Float[Tensor, "items 3 3"]

WEIGHTS, SETTINGS = "latent.safetensors", "latent.json"
NEGATIVES = 1024  # InfoNCE compares within blocks of this many items, so memory stays linear


class LatentEquivariance(nn.Module):
    """The latent-equivariance loss with its learned (or fixed) action, one action per layer."""

    def __init__(self, settings: LatentSettings, width: int):
        super().__init__()
        self.settings, self.width = settings, width
        kinds = {"mlp": lambda: LearnedAction(width, settings), "fixed": FixedAction}
        self.actions = nn.ModuleList(kinds[settings.action]() for _ in settings.layers)

    def forward(
        self, first: Sequence[Latents], second: Sequence[Latents], rotations: Rotations, batch: Batch
    ) -> Float[Tensor, "structures"]:
        """Loss of each structure, mean over the layers.

        Args:
            first: per-atom embeddings of the first view, one tensor per layer.
            second: of the second view, in which each structure is turned by `rotations` relative to the first.
            rotations: (structures, 3, 3).
            batch: says which atoms belong together.
        """
        losses = [
            self._layer_loss(action, u, v, rotations, batch)
            for action, u, v in zip(self.actions, first, second, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def _layer_loss(
        self, action: nn.Module, first: Latents, second: Latents, rotations: Rotations, batch: Batch
    ) -> Float[Tensor, "structures"]:
        if self.settings.level == "pooled":
            predicted = action(segment_mean(first, batch), rotations)
            return self._distance(predicted, segment_mean(second, batch))
        predicted = action(first, rotations[batch.structure_index])
        return segment_mean(self._distance(predicted, second), batch)

    def _distance(self, predicted: Latents, found: Latents) -> Float[Tensor, "items"]:
        if self.settings.stop_gradient:
            found = found.detach()
        match self.settings.distance:
            case "mse":
                return (predicted - found).square().mean(-1)
            case "cosine":
                return 1 - functional.cosine_similarity(predicted, found, dim=-1)
            case "infonce":
                return info_nce(predicted, found, self.settings.temperature)


class LearnedAction(nn.Module):
    """u + MLP(u, rotation): the learned action of a rotation on embeddings; starts as the identity."""

    def __init__(self, width: int, settings: LatentSettings):
        super().__init__()
        self.encoding = settings.rotation
        numbers = {"matrix": 9, "6d": 6, "quaternion": 4}[self.encoding]
        self.enter = nn.Linear(width + numbers, settings.hidden)
        self.leave = nn.Linear(settings.hidden, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, latents: Latents, rotations: ItemRotations) -> Latents:
        """Predicted embeddings after each item is turned by its rotation."""
        encoded = encode_rotations(rotations, self.encoding).to(latents.dtype)
        return latents + self.leave(functional.silu(self.enter(torch.cat([latents, encoded], -1))))


class FixedAction(nn.Module):
    """A fixed representation: the first quarter of the channels stays, the rest are vectors and turn.

    It is a homomorphism by construction and cannot collapse to the identity, unlike a learned action.
    """

    def forward(self, latents: Latents, rotations: ItemRotations) -> Latents:
        """Embeddings after each item is turned by its rotation."""
        scalars, vectors = split_representation(latents)
        turned = torch.einsum("iab,ivb->iva", rotations.to(latents.dtype), vectors)
        return torch.cat([scalars, turned.flatten(1)], -1)


def save_latent(latent: LatentEquivariance, folder: Path) -> None:
    """Write the trained action beside its model, for later measurements; the potential does not need it."""
    save_tensors(latent.state_dict(), folder / WEIGHTS)
    write_json(folder / SETTINGS, {"width": latent.width, **latent.settings.model_dump(mode="json")})


def load_latent(folder: Path, model: ModelSettings | None = None) -> LatentEquivariance | None:
    """The action saved beside a model, or None if it was trained without one.

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
    latent = _empty_action(settings, width, model, tensors)
    if latent is None:
        raise InputError(
            f"does not fit {WEIGHTS}, or not the model",
            where=str(source),
            remedy="all files must come from the same training; the model predicts without these two",
        )
    load_state(latent.to_empty(device="cpu"), tensors, folder / WEIGHTS)
    return latent.eval().requires_grad_(False)


def _empty_action(
    settings: LatentSettings, width: int, model: ModelSettings | None, tensors: dict[str, Tensor]
) -> LatentEquivariance | None:
    """The action without memory for its weights; None if `tensors` are not its weights or `model` is not its model."""
    if model is not None and (
        width != model.width
        or len(settings.layers) > model.depth
        or (settings.action == "fixed" and not model.fixed_representation)
    ):
        return None
    try:
        with torch.device("meta"):
            latent = LatentEquivariance(settings, width)
    except (RuntimeError, TypeError, OverflowError):  # sizes below zero, or beyond what a tensor can count
        return None
    expected, found = ({k: v.shape for k, v in state.items()} for state in (latent.state_dict(), tensors))
    return latent if expected == found else None


def encode_rotations(rotations: ItemRotations, encoding: str) -> Float[Tensor, "items numbers"]:
    """Rotations as 9 matrix entries, their first two columns (arXiv 1812.07035), or a quaternion with w ≥ 0."""
    match encoding:
        case "matrix":
            return rotations.flatten(1)
        case "6d":
            return rotations[:, :, :2].transpose(1, 2).flatten(1)
        case _:
            return matrices_to_quaternions(rotations)


def info_nce(predicted: Latents, found: Latents, temperature: float) -> Float[Tensor, "items"]:
    """Cross-entropy of picking each item's own rotated embedding among the others of its block."""
    a, b = functional.normalize(predicted, dim=-1), functional.normalize(found, dim=-1)
    losses = []
    for x, y in zip(a.split(NEGATIVES), b.split(NEGATIVES), strict=True):
        own = torch.arange(len(x), device=x.device)
        losses.append(functional.cross_entropy(x @ y.T / temperature, own, reduction="none"))
    return torch.cat(losses)
