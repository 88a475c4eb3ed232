"""Takes a family of molecules out of labelled packs, so that a model can be trained that has never seen it.

    python -m benchmarks.fine_tuning.leave_out "[#16]~[#8]" data/gfn2-{organics,others,metals}.pack \\
        --known data/gfn2-without-so.pack --family data/fine-tuning-so.pack

    transip train recipes/gfn2-s.yaml --set name=gfn2-without-so --set data.train=[data/gfn2-without-so.pack] \\
        --set training.minutes=60
    python -m benchmarks.fine_tuning.run scratch replay --start runs/gfn2-without-so --family data/fine-tuning-so.pack

    cp -r runs/gfn2-without-so runs/gfn2-without-so-160   # once more, with a start model trained for longer
    transip train runs/gfn2-without-so/recipe.yaml -o runs/gfn2-without-so-160 --set training.minutes=160 --resume
    python -m benchmarks.fine_tuning.run replay --start runs/gfn2-without-so-160 --family data/fine-tuning-so.pack \\
        --group 160-minutes/fine-tuning-so

and likewise 255 minutes, from those of 160.

`--known` holds every structure none of whose molecules matches the SMARTS pattern, `--family` some of those of neutral
organics that do. Structures are matched by their SMILES, which campaigns store as `source`.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger

from benchmarks.common.records import argument_parser
from transip.data.dataset import Dataset
from transip.data.store import write_pack

DOMAIN = "neutral_organics"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("pattern", help="SMARTS")
    parser.add_argument("packs", nargs="+", type=Path)
    parser.add_argument("--known", type=Path, required=True, help="pack to write, without the family")
    parser.add_argument("--family", type=Path, required=True, help="pack to write, of the family alone")
    parser.add_argument("--structures", type=int, default=1000, help="of the family, drawn at random")
    arguments = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")  # words of a source that are no SMILES are tried, too
    pattern = Chem.MolFromSmarts(arguments.pattern)
    if pattern is None:
        parser.error(f"{arguments.pattern} is no SMARTS pattern")
    data = Dataset.open(arguments.packs)
    belongs = np.array([matches(data[i].source, pattern) for i in range(len(data))])
    candidates = np.flatnonzero(belongs & (data.domains == DOMAIN))
    family = np.random.default_rng(0).permutation(candidates)[: arguments.structures]
    write(arguments.known, data, np.flatnonzero(~belongs))
    write(arguments.family, data, np.sort(family))
    print(f"{len(data)} structures, {belongs.sum()} of the family, {len(family)} of them in {arguments.family}")


def matches(source: str, pattern: Chem.Mol) -> bool:
    """Whether any SMILES among the words of `source` has `pattern`; a metal complex's has several words."""
    molecules = (Chem.MolFromSmiles(word) for word in source.split())
    return any(molecule is not None and molecule.HasSubstructMatch(pattern) for molecule in molecules)


def write(path: Path, data: Dataset, chosen: Iterable[int]) -> None:
    write_pack(path, (data[int(i)] for i in chosen), level_of_theory=data.level_of_theory)


if __name__ == "__main__":
    main()
