"""A compiled calculator predicts what one predicts that is not."""

import os
import shutil
import subprocess
import sys

import pytest

from transip.model.compiled import torch_supported

SCRIPT = """
import numpy as np
import torch
from ase.build import molecule

from transip import TransIPCalculator
from transip.config import ModelSettings
from transip import blocks
from transip.model.potential import Potential

torch.set_num_threads(1)
torch.manual_seed(0)
settings = ModelSettings(size="XS", depth=1, num_local_layers=1, forces="conservative", cutoff=5.0)
model = Potential(settings, torch.zeros(87).double(), 1.0)
for parameter in model.parameters():
    if not parameter.any():
        torch.nn.init.normal_(parameter, std=0.1)
known = {"charge": 0, "spin": 1, "unseen": "ignore"}
calculators = [TransIPCalculator(model, **known, compile=compile) for compile in (False, True)]
# at last, molecules that are cut into blocks
for name, blocks.MAX_DENSE_ATOMS in (("CH3OH", 64), ("C6H6", 64), ("C6H6", 4), ("isobutane", 4)):
    blocks.BLOCK_SIZE = 5
    found = []
    for calculator in calculators:
        atoms = molecule(name)
        atoms.calc = calculator
        found.append((atoms.get_potential_energy(), atoms.get_forces()))
    (energy, forces), (compiled_energy, compiled_forces) = found
    assert np.abs(forces).max() > 0.01
    np.testing.assert_allclose(compiled_energy, energy, rtol=1e-6)
    np.testing.assert_allclose(compiled_forces, forces, atol=1e-5 * np.abs(forces).max())
assert calculators[1].model.graph is not None
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
@pytest.mark.skipif(not torch_supported(), reason="PyTorch is too old to compile")
def test_the_same_energies_and_forces():
    """In a process of its own: the shape checks that all tests run under cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
