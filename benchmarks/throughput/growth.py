"""How time and memory grow with the atoms of a liquid: the rows of `run.py growth nequip`, beside each other.

    python -m benchmarks.throughput.growth

One line is one entry in one system. Milliseconds are of the model on a prepared batch or list of neighbours, of its
calculator with a new list, and, where lists are used again, of a step of dynamics. Exponents are fitted to all sizes.
"""

from pathlib import Path

import numpy as np

from benchmarks.common.records import Record, argument_parser, read_results, results_file
from benchmarks.throughput.cases import LIQUIDS, SHAPES

COLUMNS = {  # head → key of a row
    "model, ms": "milliseconds",
    "calculator, ms": "calculator_milliseconds",
    "dynamics, ms": "dynamics_milliseconds",
    "median, ms": "wall_milliseconds",
    "memory, MB": "memory_mb",
    "with list, MB": "calculator_memory_mb",
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--results", type=Path, default=results_file(__file__))
    for (entry, shape), rows in grown(parser.parse_args().results).items():
        print(f"\n{entry}, {shape}\n{'atoms':>16} {'atoms/s':>10}", *(f"{head:>15}" for head in COLUMNS))
        for row in rows:
            values = (f"{row[key]:15,.1f}" if key in row else f"{'–':>15}" for key in COLUMNS.values())
            print(f"{row['atoms']:16,} {row['atoms_per_second']:10,.0f}", *values)
        powers = (exponent(rows, key) for key in COLUMNS.values())
        print(f"{'exponent':>16} {'':10}", *(f"{'–' if power is None else f'{power:.2f}':>15}" for power in powers))


def grown(results: Path) -> dict[tuple[str, str], list[Record]]:
    """Rows of each entry and shape, the smallest first, with the memory that calls took."""
    found: dict[tuple[str, str], list[Record]] = {}
    for row in read_results(results).values():
        if row.get("case") in LIQUIDS:
            shape = next(shape for shape in SHAPES if row["case"].startswith(shape))
            memory = {  # of the calculator at least that of the model, which was called before
                f"{way}memory_mb": row[f"{way}peak_memory_mb"] - row["memory_before_mb"]
                for way in ("", "calculator_")
                if f"{way}peak_memory_mb" in row
            }
            found.setdefault((row["entry"], shape), []).append(row | memory)
    return {key: sorted(rows, key=lambda row: row["atoms"]) for key, rows in sorted(found.items())}


def exponent(rows: list[Record], key: str) -> float | None:
    """The power of the number of atoms by which `key` grows; None of fewer than two sizes."""
    if len(rows) < 2 or any(key not in row for row in rows):
        return None
    atoms, values = (np.log([row[name] for row in rows]) for name in ("atoms", key))
    return float(np.polyfit(atoms, values, 1)[0])


if __name__ == "__main__":
    main()
