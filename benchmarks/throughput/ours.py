"""One row of ours: a model of random weights, what is called, and how many operations that takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.common.hardware import measure, measure_moving
from benchmarks.throughput.cases import LIQUIDS, structures_of
from transip.batch import Batch
from transip.config import ModelSettings, ObjectiveSettings, OptimizerSettings
from transip.inference.ase import TransIPCalculator
from transip.model.compiled import compile_network
from transip.model.potential import Potential
from transip.rotations import random_rotations
from transip.structure import MAX_ATOMIC_NUMBER, Structure
from transip.training.objective import Objective
from transip.training.optim import Optimizers
from transip.training.terms import Energy, Forces
from transip.training.training_batch import Normalizer, TrainingBatch, Views

MODELS: dict[str, dict[str, Any]] = {
    "transip-XS": {"size": "XS"},  # organics.yaml
    "transip-S": {},
}
CUTOFF = 6.0  # Å, of attention in liquids
WAYS = {"calculator": 2.0, "dynamics": 0.01}  # Å that atoms move: too far for a list of neighbours, and hardly
Call = Callable[[], object]


def measure_ours(entry: str, case: str, forces: str, compiled: bool, repeats: int, seconds: float) -> dict[str, Any]:
    """One row; see run.py for what is in it."""
    structures = structures_of(case)
    batch = Batch.collate(structures)
    model = model_of(entry, forces, CUTOFF if case in LIQUIDS else None)
    run, useful = prepared(case, model, structures, batch, compiled)
    found = measure(run, repeats, seconds)
    if case in LIQUIDS:
        atoms = structures[0].to_atoms()
        atoms.calc = TransIPCalculator(model, unseen="ignore", compile=compiled)
        for way, distance in WAYS.items():
            measured = measure_moving(atoms, distance, repeats=repeats, seconds=seconds)
            found |= {f"{way}_{key}": value for key, value in measured.items()}
    flops = None if case in LIQUIDS else flops_of(useful)
    peak = 2 * 1024**3 / measure(product_of(1024), repeats=10)["milliseconds"]
    return {
        "entry": entry,
        "kind": "ours",
        "case": case,
        "atoms": batch.num_atoms,
        "forces": forces,
        "compiled": compiled,
        "atoms_per_second": 1e3 * batch.num_atoms / found["milliseconds"],
        **found,
        "matmul_peak_share": None if flops is None else flops / found["milliseconds"] / peak,
        "matmul_peak_gflops": peak / 1e6,
        "flops": flops,
    }


def model_of(entry: str, forces: str, cutoff: float | None = None) -> Potential:
    """A model of random weights, also where training begins with zeros."""
    torch.manual_seed(0)
    given = {} if cutoff is None else {"cutoff": cutoff}
    settings = ModelSettings.model_validate({"forces": forces, **MODELS[entry], **given})
    model = Potential(settings, torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64), 1.0)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def prepared(
    case: str, model: Potential, structures: list[Structure], batch: Batch, compiled: bool
) -> tuple[Call, Call]:
    """What is timed, and what does the same useful operations without compilation."""
    if case.startswith("train"):
        return training_step(model, batch, compiled, case.endswith("bf16"))
    model.eval().requires_grad_(False)
    plain = torch.no_grad()(lambda: model(batch))
    if case != "calculator20":
        own = model_of_same_weights(model) if compiled else model
        return torch.no_grad()(lambda: own(batch)), plain
    calculator = TransIPCalculator(model, unseen="ignore", compile=compiled)
    atoms = structures[0].to_atoms()
    atoms.calc = calculator

    def step() -> object:
        atoms.positions[0] += 1e-4  # Å, or nothing would be calculated again
        return atoms.get_forces()

    return step, plain


def model_of_same_weights(model: Potential) -> Potential:
    """A compiled copy."""
    own = Potential(model.settings, model.references, model.scale).eval().requires_grad_(False)
    own.load_state_dict(model.state_dict())
    compile_network(own, torch.device("cpu"))
    return own


def training_step(model: Potential, batch: Batch, compiled: bool, bf16: bool) -> tuple[Call, Call]:
    """Forward, backward and optimiser on one random orientation; and that without the optimiser."""
    settings = ObjectiveSettings()
    objective = Objective(model, [Energy(settings.energy_weight), Forces(settings.force_weight)], bf16)
    optimizers = Optimizers(objective, OptimizerSettings())
    labelled = Batch(**{**vars(batch), "energy": torch.zeros(len(batch)).double(), "forces": batch.positions})
    turns = random_rotations(len(batch), torch.Generator().manual_seed(0))[None]
    training_batch = TrainingBatch(Views(labelled, turns), Normalizer(len(batch), batch.num_atoms))

    def backward() -> None:
        torch.stack(list(objective(training_batch, 0.5).values())).sum().backward()

    def step() -> None:
        backward()
        optimizers.step(0.5)
        optimizers.zero_grad()

    if compiled:
        compile_network(model, torch.device("cpu"))
    return step, backward


def flops_of(run: Call) -> int:
    """Operations of all matrix products, two for a product and a sum."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    known = {attention: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return counter.get_total_flops()


def product_of(size: int) -> Call:
    a, b = torch.randn(size, size), torch.randn(size, size)
    return lambda: a @ b
