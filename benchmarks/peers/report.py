"""Where a number comes from: command, processor, versions."""

import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def provenance(package: str) -> dict[str, object]:
    return {
        "command": shlex.join(["python", *sys.argv]).replace(f"{ROOT}/", ""),
        "hardware": f"one core of {_processor()}",
        "versions": {name: version(name) for name in (package, "torch", "numpy")},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor()
