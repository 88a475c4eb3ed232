"""A compiled network learns the same as one that is not, from one graph for batches of every shape."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from toy import TINY, toy_recipe, toy_structure
from transip.batch import Batch
from transip.config import ModelSettings
from transip.errors import InputError
from transip.model.compiled import compile_network, remove_truncated_library, torch_supported
from transip.model.potential import Potential
from transip.rotations import random_rotations
from transip.training.objective import Objective
from transip.training.run_folder import RunFolder
from transip.training.terms import Energy, Forces
from transip.training.trainer import Trainer
from transip.training.training_batch import Normalizer, TrainingBatch, Views

CPU = torch.device("cpu")
BATCHES = ([1, 2, 3, 0, 5], [0, 3, 7], [1, 11, 21, 31], [8, 3, 5, 7, 2, 0])  # the third: equally large, no padding


def objective(forces: str = "direct") -> Objective:
    torch.manual_seed(0)
    depth = 2 if forces == "conservative" else 1  # shapes get lost from one block's second derivatives to the next's
    settings = ModelSettings(**{**TINY, "depth": depth, "num_local_layers": 1, "forces": forces})
    model = Potential(settings, torch.zeros(87).double(), 1.0)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return Objective(model, [Energy(8.0), Forces(1.0)])


def learned(module: Objective, batch: Batch) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    rotations = random_rotations(len(batch), torch.Generator().manual_seed(0))[None]
    losses = module(TrainingBatch(Views(batch, rotations), Normalizer(len(batch), batch.num_atoms)), 1.0)
    loss = torch.stack(list(losses.values())).sum()
    return loss.detach(), list(torch.autograd.grad(loss, list(module.parameters()), allow_unused=True))


def compare(forces: str) -> None:
    """Compiled beside not compiled, on batches of several shapes."""
    torch.set_num_threads(1)
    eager, compiled = objective(forces), objective(forces)
    compile_network(compiled.potential, CPU)
    for numbers in BATCHES:
        batch = Batch.collate([toy_structure(number) for number in numbers])
        (loss, gradients), (expected, known) = learned(compiled, batch), learned(eager, batch)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        for gradient, other in zip(gradients, known, strict=True):
            assert (gradient is None) == (other is None)
            if gradient is not None and other is not None:
                torch.testing.assert_close(gradient, other, rtol=0, atol=1e-5 * max(float(other.abs().max()), 1.0))
    print(counters["stats"]["unique_graphs"], "graph", dict(counters["graph_break"]))


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
@pytest.mark.skipif(not torch_supported(), reason="PyTorch is too old to compile")
@pytest.mark.parametrize("forces", ["direct", "conservative"])
def test_the_same_loss_and_gradients_from_one_graph(forces):
    """In a process of its own: the shape checks that all tests run under cannot be compiled."""
    command = [sys.executable, "-c", f"import test_training_compiled; test_training_compiled.compare({forces!r})"]
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, [here, here.parent]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.stdout == "1 graph {}\n", done.stdout + done.stderr


def test_training_compiles_what_it_trains_and_not_what_it_evaluates(toy_packs, tmp_path, monkeypatch):
    compiled: list[Potential] = []
    monkeypatch.setattr(
        "transip.training.trainer.compile_network", lambda potential, _device: compiled.append(potential)
    )
    recipe = toy_recipe(toy_packs, {"training.compile": True})
    training = Trainer(recipe, RunFolder(tmp_path))
    assert compiled == [training.objective.potential] and training.potential is not compiled[0]
    Trainer(toy_recipe(toy_packs), RunFolder(tmp_path))
    assert len(compiled) == 1


def test_a_library_that_a_kill_left_truncated_is_made_again(tmp_path):
    """Its loader says so in these words; another error is none of ours."""
    library = tmp_path / "cbcr.main.so"
    library.write_bytes(b"")
    assert not remove_truncated_library(RuntimeError(f"ImportError: {library}: undefined symbol: x"))
    assert library.exists()
    with pytest.raises(ImportError) as caught:
        spec = importlib.util.spec_from_file_location("main", library)
        assert spec is not None
        importlib.util.module_from_spec(spec)
    assert remove_truncated_library(RuntimeError(f"ImportError: {caught.value}"))
    assert not library.exists() and not remove_truncated_library(RuntimeError(f"ImportError: {caught.value}"))


def test_an_old_pytorch_is_refused(monkeypatch):
    """Where it would have compiled wrong forces."""
    monkeypatch.setattr(torch, "__version__", "2.10.0+cpu")
    with pytest.raises(InputError, match=r"needs PyTorch 2\.13, and this is 2\.10\.0"):
        compile_network(objective().potential, CPU)


@pytest.mark.skipif(not torch_supported(), reason="PyTorch is too old to compile")
def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="no-such-compiler"):
        compile_network(objective().potential, CPU)
