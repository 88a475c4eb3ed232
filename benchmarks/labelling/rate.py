"""Labels per second, start-up included, and the size of the forces, per domain.

Neutral organics of at most 26 atoms are what the rate is stated for; the other domains show that their forces
have the size of OMol25's (about 1 eV/Å per atom, few above 10). The record `rate` goes into `results.jsonl`:

    python -m benchmarks.labelling.rate
"""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common.records import argument_parser, provenance, results_file, save_results
from transip.config import LabelSettings
from transip.labels.campaign import run_campaign
from transip.labels.chunks import label_chunk

DOMAINS = (
    {"domain": "neutral_organics", "structures": 3000, "max_atoms": 26},
    {"domain": "biomolecules", "structures": 300, "max_atoms": 26},
    {"domain": "reactivity", "structures": 300, "max_atoms": 26, "temperatures": [50, 100]},
    {"domain": "elytes", "structures": 120, "max_atoms": 26, "conformers": 8},
    {"domain": "metal_complexes", "structures": 120, "max_atoms": 26, "conformers": 8},
)


def core_seconds(settings):
    """Of one label, without start-up: what the rate would be made of on a machine that does nothing else."""
    label_chunk(settings, 0, 0)
    started = time.process_time()
    chunks = [label_chunk(settings, 0, number) for number in (1, 2, 3)]
    return (time.process_time() - started) / sum(len(chunk.structures) for chunk in chunks)


def measure(domain, seed, workers, folder):
    settings = LabelSettings(domains=[domain], seed=seed, workers=workers, chunk=16)
    started = time.perf_counter()
    pack = run_campaign(settings, Path(folder) / f"{domain['domain']}.pack", progress=False)
    seconds = time.perf_counter() - started
    structures = [pack[i] for i in range(len(pack))]
    forces = np.concatenate([np.linalg.norm(s.forces, axis=1) for s in structures])
    return {
        **domain,
        "seconds": seconds,
        "labels_per_second": len(pack) / seconds,
        "core_seconds_per_label": core_seconds(settings),
        "mean_atoms": float(np.mean([len(s) for s in structures])),
        "force_rms_ev_per_angstrom": float(np.sqrt((forces**2).mean())),
        "share_of_atoms_above_10_ev_per_angstrom": float((forces > 10).mean()),
        "failures": pack.meta["provenance"]["failures"][0]["failures"],
    }


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(domain, arguments.seed, arguments.workers, folder) for domain in DOMAINS]
    atoms = np.array([row["structures"] * row["mean_atoms"] for row in found])
    squares = np.array([row["force_rms_ev_per_angstrom"] ** 2 for row in found])
    result = {
        "name": "rate",
        **provenance("tblite", "rdkit", "joblib"),
        "workers": arguments.workers,
        "load_before": load,
        "seed": arguments.seed,
        "force_rms_ev_per_angstrom": float(np.sqrt((atoms * squares).sum() / atoms.sum())),
        "domains": found,
    }
    save_results(results_file(__file__), [result])
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
