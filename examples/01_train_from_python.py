"""
Train a potential from Python
=============================

This example labels molecules with GFN2-xTB, trains a small model on them for half a minute, and compares the model with
GFN2-xTB on held-out molecules. The same steps from the shell are ``transip data build``, ``transip train`` and
``transip evaluate``.

It needs the extra ``labels`` (``pip install ".[labels]"``) and takes about a minute on one core. It writes the folder
``example-01``.
"""

import os
from pathlib import Path

import rich
from ase.build import molecule
from ase.optimize import LBFGS

from transip import InputError, Recipe, TransIPCalculator, train
from transip.config import LabelSettings, parse
from transip.evaluation.saved import evaluate_checkpoint
from transip.labels.campaign import run_campaign

SHORT = "TRANSIP_SHORT" in os.environ  # as the tests run it
FOLDER = Path("example-01")
FOLDER.mkdir(exist_ok=True)

# %%
# Label
# -----
#
# A labelling campaign generates molecules, displaces their atoms by thermal vibrations, and computes energies and
# forces. You can name your own molecules as SMILES. If you have labelled structures already, ``transip data pack FILE
# -o NAME.pack`` reads them from extxyz files and ASE databases.

smiles = [
    "CO",
    "CCO",
    "COC",
    "CC=O",
    "CC(C)=O",
    "CC#N",
    "CN",
    "CNC",
    "CC(=O)O",
    "CC(N)=O",
    "C=CC",
    "CCC",
    "OCCO",
    "NCCO",
]
campaign = {
    "method": "gfn2-xtb",
    "workers": 1,
    "chunk": 10,
    "domains": [
        {
            "domain": "neutral_organics",
            "smiles": smiles,
            "structures": 30 if SHORT else 300,
            "temperatures": [150, 300],
        },
    ],
}
pack = FOLDER / "molecules.pack"
run_campaign(parse(LabelSettings, campaign, "the campaign"), pack, progress=False)

# %%
# Train
# -----
#
# A recipe has the same content as a YAML file. Settings that are left out have defaults, and a setting that does not
# exist is an error with a suggestion. Whole compositions are held out for validation, so that conformers of one
# molecule are never on both sides of the split.

recipe = {
    "name": "first",
    "data": {"train": [str(pack)], "validation_fraction": 0.2},
    "model": {"size": "XS"},
    "training": {"steps": 5} if SHORT else {"minutes": 0.5},
}
try:
    parse(Recipe, recipe | {"modle": {}}, "the recipe")
except InputError as error:
    print(error)

model = train(parse(Recipe, recipe, "the recipe"), FOLDER / "run", progress=False)
print(f"The model is in {model}: {', '.join(sorted(path.name for path in model.iterdir()))}.")

# %%
# Evaluate
# --------
#
# The table has the errors of energies and forces on the held-out compositions. The force rotation error below it says
# how much predicted forces change when a molecule is rotated. Rotational symmetry is learned, so this error is never
# zero; it should be well below the force error.

rich.print(evaluate_checkpoint(FOLDER / "run").table())

# %%
# Use
# ---
#
# The run folder can be used wherever a model is needed: in ASE, and in every command (``transip relax``, ``md``,
# ``vibrations``).

ethanol = molecule("CH3CH2OH", info={"charge": 0, "spin": 1})
ethanol.calc = TransIPCalculator(FOLDER / "run")
LBFGS(ethanol, logfile=None).run(fmax=0.05, steps=5 if SHORT else 100)
print(f"Ethanol relaxed: {ethanol.get_potential_energy():.3f} eV, C–O {ethanol.get_distance(1, 2):.3f} Å")
