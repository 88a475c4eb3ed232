"""Remake what the golden tests compare with: `python tests/golden/make.py`.

Only when a change of the numbers is intended: say in the commit why they changed. There is a model folder for each
format that has been released, with what that model predicts, and a pack and a run folder (checkpoint, log, evaluation)
of their first formats; those of older formats are never remade and stay loadable for ever.
"""

import contextlib
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from toy import read_metrics, toy_crystal, toy_recipe, toy_settings, toy_structure, write_toy_pack  # noqa: E402
from transip import config  # noqa: E402
from transip.batch import Batch  # noqa: E402
from transip.config import Recipe  # noqa: E402
from transip.evaluation.saved import evaluate_checkpoint  # noqa: E402
from transip.files import write_json  # noqa: E402
from transip.model.files import FORMAT, load_model  # noqa: E402
from transip.training.trainer import train  # noqa: E402

CURVE = HERE / "curve.json"
MODELS = [HERE / f"model-format-{number}" for number in range(1, FORMAT + 1)]
PREDICTIONS = "predictions.json"  # inside a model's folder
# The first pack and the first run folder, killed after step 4 of 6: never remade once they have been released.
PACK, RUN = HERE / "pack-format-1", HERE / "run-format-1"
SMALL = {
    "training.steps": 4,
    "training.checkpoint_every": 2,
    "training.evaluate_every": 2,
    "training.optimizer": {"name": "adamw"},
    "model": {"width": 8, "depth": 1, "heads": 2, "num_local_layers": 1},
    "objective.views": 2,
    "objective.latent": {"weight": 1.0, "hidden": 4},
}
CHANGES = {
    "training.steps": 30,
    "training.evaluate_every": 30,
    # Muon iterates in bfloat16, where kernels of different machines differ in the third digit
    "training.optimizer": {"name": "adamw", "learning_rate": 3e-3},
    "model.width": 24,
    "model.heads": 2,
    "training.batch.batch_size": 10,
    "objective.views": 2,
    "objective.latent": {"weight": 1.0, "hidden": 16},
}
LOSSES = ("step", "loss", "energy_loss", "force_loss", "latent_loss", "learning_rate", "atoms_processed")


def curve(folder: Path, changes: dict[str, object] = CHANGES) -> list[dict[str, float]]:
    """Thirty steps of a seeded run in `folder`: losses step by step."""
    packs = write_toy_pack(folder / "train.pack", 43), write_toy_pack(folder / "validation.pack", 12, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the molecules of the toy world are few
        train(toy_recipe(packs, changes), folder / "run", progress=False)
    return [{name: line[name] for name in LOSSES} for line in read_metrics(folder / "run", "train")]


@torch.no_grad()
def predictions(model: Path) -> list[dict[str, object]]:
    """Energies (eV) and forces (eV/Å) of ten molecules and, if it can see them, three crystals."""
    potential = load_model(model).double()
    structures = [toy_structure(i, seed=2) for i in range(10)]
    if potential.settings.cutoff is not None:
        structures += [toy_crystal(i) for i in range(3)]
    found = []
    for structure in structures:
        prediction = potential(Batch.collate([structure], torch.float64))
        found.append({"energy": prediction.energy.item(), "forces": prediction.forces.tolist()})
    return found


def make_run() -> None:
    """`PACK`, and `RUN` trained and evaluated on it; the recipe names the pack relative to the folder with both."""
    shutil.rmtree(PACK, ignore_errors=True)
    shutil.rmtree(RUN, ignore_errors=True)
    write_toy_pack(PACK, 20)
    settings = toy_settings((PACK, PACK), SMALL) | {"data": {"train": [PACK.name], "validation_fraction": 0.2}}
    with contextlib.chdir(HERE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(config.parse(Recipe, settings, "golden"), RUN, progress=False)
        evaluate_checkpoint(RUN).write(RUN)
    (RUN / "checkpoints/00000002.safetensors").unlink()  # small, please


def main() -> None:
    """Train the tiny model anew and write everything down."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        write_json(CURVE, curve(Path(first)))
        curve(Path(second), CHANGES | {"model.cutoff": 6.0})
        MODELS[-1].mkdir(exist_ok=True)
        for path in (Path(second) / "run/model").iterdir():
            (MODELS[-1] / path.name).write_bytes(path.read_bytes())
    (MODELS[-1] / PREDICTIONS).write_text(json.dumps(predictions(MODELS[-1])) + "\n")


if __name__ == "__main__":
    main()
