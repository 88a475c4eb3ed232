"""A small labelled dataset of real molecules, a stand-in potential with known errors, and runs made of both."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from toy import toy_structure
from transip.batch import Batch, Prediction, segment_sum
from transip.config import BatchSettings, Recipe
from transip.data.dataset import Dataset
from transip.data.store import write_pack
from transip.evaluation.saved import evaluate

DOMAINS = ("neutral_organics", "elytes", "reactivity")
BATCH = BatchSettings(batch_size=5, max_atoms=60)


class Noisy(torch.nn.Module):
    """The labels plus an error that depends on orientation, as that of a learned symmetry does."""

    def __init__(self, noise: float = 0.1, depth: int = 3):
        super().__init__()
        self.settings = SimpleNamespace(depth=depth)
        self.noise = torch.nn.Parameter(torch.tensor(noise))
        self.waves = torch.nn.Parameter(torch.tensor([[2.0, -0.7, 0.4], [0.3, 1.9, 1.1], [-1.3, 0.8, 2.2]]))

    def forward(self, batch: Batch, layers: tuple[int, ...] = ()) -> Prediction:
        assert batch.energy is not None and batch.forces is not None
        noise = self.noise * torch.sin(batch.positions @ self.waves)
        share = noise.sum(-1).double() / 10
        energies = (batch.energy / batch.atom_counts)[batch.structure_index] + share
        distance = batch.positions.norm(dim=-1, keepdim=True)
        latents = tuple(torch.cat([batch.positions, (1 + layer) * distance], -1) for layer in layers)
        energy = batch.energy + segment_sum(share, batch)
        more = {} if batch.charges is None else {"charges": batch.charges + 0.02}
        more |= {} if batch.dipole is None else {"dipole": batch.dipole + torch.tensor([0.3, 0.0, -0.4])}
        return Prediction(energy, energies, batch.forces + noise, latents, **more)


def make_dataset(path: Path, structures: int, charged: str = "") -> Dataset:
    """`structures` toy structures in three domains, of which `charged` has charges and dipoles."""
    chosen = [replace(toy_structure(i), domain=DOMAINS[i % 3]) for i in range(structures)]
    labels = {"dipole": np.ones(3)}
    chosen = [replace(s, charges=np.ones(len(s)), **labels) if s.domain == charged else s for s in chosen]
    write_pack(path, chosen, level_of_theory="toy pairs")
    return Dataset.open([path])


def make_run(folder: Path, dataset: Dataset | None, noise: float, objective: dict, passes: int = 16) -> Path:
    """A run folder as training leaves it; evaluated if there is a dataset."""
    folder.mkdir(parents=True)
    recipe = Recipe.model_validate(
        {
            "name": folder.name,
            "data": {"train": ["molecules.pack"]},
            "objective": objective,
            "training": {"steps": 1000},
        }
    )
    # JSON is YAML, and keeps the tests free of a second writer
    (folder / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json"), indent=2))
    lines = [line for step in range(20, 1001, 20) for line in _log_lines(step, noise, passes, objective)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if dataset is not None:
        evaluate(Noisy(noise), dataset, batch=BATCH, progress=False).write(folder)
    return folder


def _log_lines(step: int, noise: float, passes: int, objective: dict) -> list[dict]:
    generator = np.random.default_rng(step)
    decay = (0.06 + np.exp(-step / 180)) * noise
    spent = {
        "step": step,
        "time_s": 0.12 * step,
        "forward_passes": passes * step,
        "atoms_processed": 20 * passes * step,
    }
    losses = {name: float(k * decay * generator.lognormal(0, 0.2)) for k, name in enumerate(("latent_loss",), 1)}
    latent = losses["latent_loss"] if objective.get("latent") else 0.0
    energy, force = (float(w * decay * generator.lognormal(0, 0.2)) for w in (4, 9))
    train = {
        "kind": "train",
        **spent,
        "loss": energy + force + latent,
        "energy_loss": energy,
        "force_loss": force,
    }
    train |= {"latent_loss": latent, "equigrad_loss": 0.0, "gradient_norm": 1.0, "learning_rate": 1e-3}
    train |= {"atoms_per_second": 2600.0, "memory_mb": 812.0}
    lines = [train]
    if step % 100 == 0:
        errors = {
            "force_mae": 4 * decay,
            "energy_mae_per_atom": 0.3 * decay,
            "energy_mae": 2 * decay,
            "force_rotation_error": 3.1 * decay,
            "energy_rotation_spread_per_atom": 0.1 * decay,
        }
        lines.append({"kind": "evaluation", **spent, **{key: float(value) for key, value in errors.items()}})
    return lines
