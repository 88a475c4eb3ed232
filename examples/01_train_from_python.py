"""
Train a potential from Python
=============================

Molecules are labelled with GFN2-xTB, a small model is trained on them for half a minute, and then it is compared with
GFN2-xTB on molecules whose composition it has not seen. The same steps from the shell are ``transip data build``,
``transip train`` and ``transip evaluate``.

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
# A labelling campaign draws molecules, displaces their atoms as heat would, and computes energies and forces.
# Molecules of your own are given as SMILES. If you have labelled structures already, ``transip data pack FILE -o
# NAME.pack`` reads them from extxyz files and ASE databases.

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
# A recipe is what a YAML file would hold. Whatever is left out has a default, and a setting that does not exist is an
# error with a suggestion. Whole compositions are held out for validation, so that conformers of one molecule are
# never on both sides.

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
# On the held-out compositions: errors of energies and forces, and how far the forces are from turning with the
# molecule. Rotations are learned here, so that the last number is never zero; it should be well below the force
# error.

rich.print(evaluate_checkpoint(FOLDER / "run").table())

# %%
# Use
# ---
#
# The folder of the run is a model wherever a model is asked for: in ASE, and in every command (``transip relax``,
# ``md``, ``vibrations``).

ethanol = molecule("CH3CH2OH", info={"charge": 0, "spin": 1})
ethanol.calc = TransIPCalculator(FOLDER / "run")
LBFGS(ethanol, logfile=None).run(fmax=0.05, steps=5 if SHORT else 100)
print(f"Ethanol relaxed: {ethanol.get_potential_energy():.3f} eV, C–O {ethanol.get_distance(1, 2):.3f} Å")
