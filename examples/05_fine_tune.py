"""
Fine-tune a model on molecules of your own
==========================================

A trained model is a better start than random weights: with sixty structures of a few molecules it becomes better for
these, where training from scratch could not begin to learn. The smallest model in the package, which has seen few ions,
is fine-tuned here to organic ones, with labels of the method that it was trained on. The how-to guide on fine-tuning
goes to another level of theory.

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
# ``init_from`` names a trained model, whose architecture is taken over. The learning rates are an eighth of those of a
# new model: larger steps forget more. Low-rank adapters (``fine_tuning.lora_rank``) or frozen blocks train less, and
# ``data.replay`` mixes in what the model was trained on.

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
# What it was worth
# -----------------

for name, model in {"before": "transip-xs-gfn2", "after": FOLDER / "run"}.items():
    errors = evaluate_checkpoint(model, [test]).overall
    print(f"{name:7} {1000 * errors['force_mae']:6.1f} meV/Å, {1000 * errors['energy_mae_per_atom']:6.2f} meV/atom")
