"""
Fine-tune a model on molecules of your own
==========================================

Sixty structures of a few molecules are enough to improve a trained model for these molecules, but not to train a model
from scratch. This example fine-tunes the smallest packaged model, whose training data contain few ions, to organic
ions. The labels come from the method on which the model was trained; the how-to guide on fine-tuning uses another level
of theory.

It needs the extra ``labels`` and takes about a minute on one core. It writes the folder ``example-05``.
"""

import os
from pathlib import Path

from transip import Recipe, train
from transip.config import LabelSettings, parse
from transip.evaluation.saved import evaluate_checkpoint
from transip.labels.campaign import run_campaign

SHORT = "TRANSIP_SHORT" in os.environ  # as the tests run it
FOLDER = Path("example-05")
FOLDER.mkdir(exist_ok=True)

# %%
# Sixty structures to learn from, twenty other geometries to test on
# ------------------------------------------------------------------

IONS = ["C[NH3+]", "CC(=O)[O-]", "[NH3+]CC(=O)O", "NCC(=O)[O-]", "CC=[NH2+]"]


def label(name: str, structures: int, seed: int) -> Path:
    pack = FOLDER / f"{name}.pack"
    domain = {"domain": "biomolecules", "smiles": IONS, "structures": structures, "temperatures": [300]}
    campaign = {"method": "gfn2-xtb", "workers": 1, "chunk": 10, "seed": seed, "domains": [domain]}
    run_campaign(parse(LabelSettings, campaign, "the campaign"), pack, progress=False)
    return pack


training = label("training", 20 if SHORT else 60, seed=0)
test = label("test", 10 if SHORT else 20, seed=1)

# %%
# Fine-tune
# ---------
#
# ``init_from`` names a trained model, whose architecture is kept. The learning rates are an eighth of those for a new
# model, because larger steps forget more. Low-rank adapters (``fine_tuning.lora_rank``) or frozen blocks train fewer
# weights, and ``data.replay`` mixes in earlier training data.

recipe = {
    "name": "fine-tuned",
    "init_from": "transip-xs-gfn2",
    "data": {"train": [str(training)], "validation": [str(test)]},
    "training": {
        "batch": {"batch_size": 10},
        "optimizer": {"learning_rate": 2.5e-4, "muon_learning_rate": 2e-3},
    }
    | ({"steps": 4} if SHORT else {"steps": 200, "evaluate_every": 50}),
}
train(parse(Recipe, recipe, "the recipe"), FOLDER / "run", progress=False)

# %%
# Errors before and after
# -----------------------

for name, model in {"before": "transip-xs-gfn2", "after": FOLDER / "run"}.items():
    errors = evaluate_checkpoint(model, [test]).overall
    print(f"{name:7} {1000 * errors['force_mae']:6.1f} meV/Å, {1000 * errors['energy_mae_per_atom']:6.2f} meV/atom")
