"""
Train a network of your own
===========================

A potential is a backbone, which encodes atoms, and heads, which read energies and forces from the embeddings. The
backbone is passed to ``train`` as code; data, losses, budgets, logs, checkpoints, evaluation, the ASE calculator and
the report work with it as with the built-in Transformer. The backbone of this example is a message-passing network of
forty lines that uses distances only; its energies are exactly invariant under rotation, and its conservative forces are
exactly equivariant.

It needs the extra ``labels`` and takes about a minute on one core. It writes the folder ``example-02``.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from ase.build import molecule
from torch import Tensor, nn

from transip import Batch, InputError, ModelSettings, Recipe, TransIPCalculator, load_model, train
from transip.config import LabelSettings, parse
from transip.labels.campaign import run_campaign
from transip.model.backbone import Encoded
from transip.testing import assert_conforms

SHORT = "TRANSIP_SHORT" in os.environ  # as the tests run it
FOLDER = Path("example-02")
FOLDER.mkdir(exist_ok=True)
CUTOFF, NUM_RBF = 5.0, 24

# %%
# The network
# -----------
#
# The atoms of a batch come one after another; ``batch.structure_index`` says to which structure each belongs. Positions
# are an argument of their own, because forces are derivatives with respect to them. ``layers`` are those after which
# the latent loss wants embeddings.


class MessagePassing(nn.Module):
    """h_i ← h_i + update(Σ_j W(r_ij) · send(h_j)), the sum over the atoms within the cutoff (as in SchNet)."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.width, self.depth = width, depth
        self.embedding = nn.Embedding(100, width)
        self.filters = nn.ModuleList(nn.Linear(NUM_RBF, width, bias=False) for _ in range(depth))
        self.send = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.update = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.register_buffer("centers", torch.linspace(0, CUTOFF, NUM_RBF))

    def forward(self, batch: Batch, positions: Tensor, cell: Tensor | None, layers: Sequence[int]) -> Encoded:
        if cell is not None:
            raise InputError("this backbone has no periodic images", remedy="give it molecules")
        receiver, sender = edges(batch, positions)
        lengths = (positions[sender] - positions[receiver]).norm(dim=-1, keepdim=True)
        envelope = 0.5 + 0.5 * (lengths * (torch.pi / CUTOFF)).cos()
        rbf = envelope * (-((lengths - self.centers) * (NUM_RBF / CUTOFF)).square()).exp()
        hidden = self.embedding(batch.numbers) + 0.1 * batch.charge[batch.structure_index, None]
        states = []
        for filters, send, update in zip(self.filters, self.send, self.update, strict=True):
            messages = filters(rbf) * send(hidden)[sender]
            hidden = hidden + update(torch.zeros_like(hidden).index_add(0, receiver, messages))
            states.append(hidden)
        return Encoded(hidden, tuple(states[layer] for layer in layers))

    def muon_parameters(self) -> Iterable[nn.Parameter]:
        return [layer.weight for layer in self.send]


def edges(batch: Batch, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(receiver, sender) of all pairs of atoms of one molecule that are nearer than the cutoff."""
    near = torch.cdist(positions.detach(), positions.detach()) < CUTOFF
    near &= batch.structure_index[:, None] == batch.structure_index
    return near.fill_diagonal_(False).nonzero().unbind(1)


def build_backbone(settings: ModelSettings) -> MessagePassing:
    return MessagePassing(settings.width, settings.depth)


# %%
# Train
# -----

campaign = {
    "method": "gfn2-xtb",
    "workers": 1,
    "chunk": 10,
    "domains": [
        {
            "domain": "neutral_organics",
            "smiles": ["CO", "CCO", "COC", "CC=O", "CC(C)=O", "CC#N", "CN", "CNC", "CC(=O)O", "C=CC"],
            "structures": 30 if SHORT else 200,
        },
    ],
}
pack = FOLDER / "molecules.pack"
run_campaign(parse(LabelSettings, campaign, "the campaign"), pack, progress=False)
recipe = {
    "name": "schnet",
    "data": {"train": [str(pack)], "validation_fraction": 0.2},
    "model": {"width": 64, "depth": 3, "heads": 4},
    "training": {"steps": 5} if SHORT else {"minutes": 0.5},
}
folder = train(parse(Recipe, recipe, "the recipe"), FOLDER / "run", backbone=build_backbone, progress=False)

# %%
# Load
# ----
#
# The folder holds weights and settings, never code. Loading it takes the same function; without it, the error says so.

try:
    load_model(folder)
except InputError as error:
    print(error)
model = load_model(folder, backbone=build_backbone)
methanol = molecule("CH3OH", info={"charge": 0, "spin": 1})
methanol.calc = TransIPCalculator(model)
print(f"{methanol.get_potential_energy():.3f} eV")

# %%
# Does it obey physics?
# ---------------------
#
# The conformance kit checks permutations, translations, batches, the derivative of the energy and more. It also
# measures the rotation error, which is zero up to rounding for this network.

report = assert_conforms(model, conservative=True, cutoffs=[CUTOFF], seeds=1 if SHORT else 3)
print(report)
