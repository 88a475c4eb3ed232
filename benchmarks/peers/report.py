"""Where a number comes from: command, processor, versions."""

import shlex
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from hardware import processor

ROOT = Path(__file__).resolve().parents[2]


def provenance(package: str) -> dict[str, object]:
    return {
        "command": shlex.join(["python", *sys.argv]).replace(f"{ROOT}/", ""),
        "hardware": f"one core of {processor()}",
        "versions": {name: version(name) for name in (package, "torch", "numpy")},
    }
