"""Runs train.py and speed.py inside a peer's own environment, which is made first if it is not there."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.records import ROOT

PEERS = Path(__file__).parent


def run_in_environment_of(
    peer: str, module: str, options: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Any:
    """What `python -m benchmarks.peers.MODULE PEER --NAME=VALUE …` writes to its `--output`.

    Options that are None or empty are left to the module; True stands for a flag.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    python = PEERS / ".venvs" / peer / "bin" / "python"
    if not python.exists():
        subprocess.run(["bash", PEERS / "environments.sh", peer], check=True)
    given = {name: value for name, value in options.items() if value not in (None, "", False)}
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [python, "-m", f"benchmarks.peers.{module}", peer, *flags, f"--output={output}"]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **(environment or {})})
        return json.loads(output.read_text(encoding="utf-8"))
