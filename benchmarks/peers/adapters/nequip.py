"""NequIP of nequip: forces are the energy's gradient.

l 1 with parity and 32 features are the package's defaults, three layers its recommendation ("3-5 to work best").
"""

import sys
from functools import partial
from pathlib import Path

import torch
from ase.data import chemical_symbols
from ase.lattice.cubic import FaceCenteredCubic
from nequip.data import AtomicDataDict
from nequip.integrations.ase import NequIPCalculator
from nequip.integrations.utils import basic_transforms
from nequip.model import NequIPGNNModel
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import get_latest_global_state, set_global_state

from benchmarks.peers.structures import CUTOFF, Batch

PACKAGE = "nequip"
FORCES = "conservative"
OPTIMIZER = partial(torch.optim.Adam, lr=0.01)


class NequIP(torch.nn.Module):
    def __init__(self, elements: list[int], neighbours: float, width: int, compile_mode: str) -> None:
        super().__init__()
        self.register_buffer("elements", torch.tensor(elements))
        self.model = graph(elements, neighbours, width, compile_mode)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        results = self.model(
            {
                AtomicDataDict.POSITIONS_KEY: batch.positions.clone(),
                AtomicDataDict.ATOM_TYPE_KEY: torch.searchsorted(self.elements, batch.numbers),
                AtomicDataDict.EDGE_INDEX_KEY: batch.edges,
                AtomicDataDict.BATCH_KEY: batch.structure,
                AtomicDataDict.NUM_NODES_KEY: batch.counts,
            }
        )
        return results[AtomicDataDict.TOTAL_ENERGY_KEY].squeeze(-1), results[AtomicDataDict.FORCE_KEY]


def build(elements: list[int], neighbours: float, width: int = 32, compile_mode: str = "eager") -> torch.nn.Module:
    set_global_state()
    return NequIP(elements, neighbours, width, compile_mode)


def graph(elements: list[int], neighbours: float, width: int = 32, compile_mode: str = "eager") -> torch.nn.Module:
    """The package's own model of its dictionaries of tensors."""
    return NequIPGNNModel(
        seed=torch.initial_seed() % 2**32,
        model_dtype="float32",
        type_names=[chemical_symbols[z] for z in elements],
        r_max=CUTOFF,
        num_layers=3,
        l_max=1,
        num_features=width,
        avg_num_neighbors=neighbours,
        per_type_energy_scales=1.0,
        per_type_energy_shifts=0.0,
        compile_mode=compile_mode,
    )


def deployed(elements: list[int], neighbours: float = 40.0) -> NequIPCalculator:
    """The calculator of a model of random weights, compiled as `nequip-compile --mode aotinductor --target ase` does.

    That command needs a trained checkpoint, so its export is called here. Compiling takes minutes; the result stays in
    the environment, and every later process loads it. (TorchScript is refused beside PyTorch 2.10 and later.)
    """
    set_global_state()
    compiled = Path(sys.prefix) / f"{'-'.join(map(str, elements))}.nequip.pt2"
    if not compiled.exists():
        compile_ahead(graph(elements, neighbours).eval(), elements, compiled)
    return NequIPCalculator.from_compiled_model(compiled, "cpu", chemical_species_to_atom_type_map=True)


def compile_ahead(model: torch.nn.Module, elements: list[int], path: Path) -> None:
    """Write the compiled `model` to `path`; what it is traced with is a small crystal, of dynamic shape."""
    symbols, target = [chemical_symbols[z] for z in elements], COMPILE_TARGET_DICT["ase"]
    crystal = FaceCenteredCubic("Cu", size=(2, 2, 2), latticeconstant=4.0)
    crystal.symbols = [symbols[k % len(symbols)] for k in range(len(crystal))]
    transforms = basic_transforms(model.metadata, CUTOFF, symbols, {symbol: symbol for symbol in symbols})
    data = NequIPCalculator(model, "cpu", transforms=transforms).atoms_to_data(crystal)
    many = partial(torch.export.dynamic_shapes.Dim, min=2, max=torch.inf)
    sizes = {"graph": many("num_frames"), "node": many("num_nodes"), "edge": many("num_edges")}
    metadata = {**model.metadata, **get_latest_global_state(only_metadata_related=True)}
    metadata = {key: str(int(value)) if isinstance(value, bool) else value for key, value in metadata.items()}
    aot_export_model(
        model=model,
        device="cpu",
        input_fields=target["input"],
        output_fields=target["output"],
        data=target["data_settings"](data),
        batch_map=target["batch_map_settings"](sizes),
        output_path=str(path),
        inductor_configs={"aot_inductor.metadata": metadata},
    )
