"""What the template of pairs of molecules and ions may call."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common.records import Record
from docs.page_parts import figure, number, records, table

NAMES = {
    "Na+ acetate": "Na⁺ acetate⁻",
    "Li+ ethylene carbonate": "Li⁺ ethylene carbonate",
    "Na+ Cl-": "Na⁺ Cl⁻",
    "NH4+ PF6-": "NH₄⁺ PF₆⁻",
    "Mg2+ DMSO": "Mg²⁺ DMSO",
}
HEADS = (
    "pair", "labels up to, Å", "force error beyond 5 Å", "against Coulomb's law", "deviation from members",
    "from the farthest", "minimum", "of GFN2-xTB",
)  # fmt: skip


def pairs_table(model: Record) -> str:
    """Errors of a model on each pair."""
    rows = []
    for name, pair in model["pairs"].items():
        labels = zip(pair["distances"], pair["reference_interaction"], strict=True)
        rows.append(
            [
                NAMES.get(name, name),
                number(max(distance for distance, energy in labels if energy is not None)),
                number(pair["force_mae_separated"], 3),
                number(pair["force_mae_coulomb"], 3),
                number(pair["largest_deviation"], 3),
                number(pair["largest_deviation_from_far"], 3),
                *(_minimum(pair[key]) for key in ("minimum", "reference_minimum")),
            ]
        )
    return table(HEADS, rows)


def _minimum(found: dict[str, float]) -> str:
    return f"{found['energy']:.2f} at {found['distance']:.1f}"


def pairs_figure(caption: str) -> str:
    """Energies along the eight scans, by GFN2-xTB and by every model, relative to the farthest label."""
    drawing = Figure(figsize=(9, 4.6), layout="constrained")
    models = list(records("pairs").values())
    for axes, name in zip(drawing.subplots(2, 4).flat, models[0]["pairs"], strict=True):
        pair = models[0]["pairs"][name]
        distances = np.array(pair["distances"])
        reference = np.array(pair["reference_interaction"], dtype=float)
        far = np.flatnonzero(np.isfinite(reference))[-1]
        reference -= reference[far]
        depth = -np.nanmin(reference)
        axes.plot(distances, reference, "k.", ms=4, label="GFN2-xTB")
        for model in models:
            interaction = np.array(model["pairs"][name]["interaction"])
            axes.plot(distances, interaction - interaction[far], lw=1, label=model["name"])
        axes.set(title=NAMES.get(name, name), ylim=(-1.4 * depth, 0.6 * depth))
        axes.title.set_fontsize("medium")
        axes.grid(alpha=0.3)
    drawing.supxlabel("distance of the nearest atoms, Å", fontsize="medium")
    drawing.supylabel("energy, eV", fontsize="medium")
    drawing.legend(*drawing.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize="small")
    return figure("pairs", drawing, caption)


FUNCTIONS = {function.__name__: function for function in (pairs_table, pairs_figure)}
