"""Commands killed at renames, removals and random moments, resumed, and compared: the benchmark, on a small scale."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common.records import ROOT, read_results


@pytest.mark.parametrize(("commands", "stride"), [(["data pack", "predict", "relax", "md"], 1), (["train"], 4)])
def test_kills_are_survived(tmp_path, commands, stride):
    survived(tmp_path, commands, stride)


def test_kills_of_a_labelling_campaign_are_survived(tmp_path):
    pytest.importorskip("tblite")
    pytest.importorskip("rdkit")
    survived(tmp_path, ["data build"], 4)


def survived(folder: Path, commands: list[str], stride: int) -> None:
    scale = ["--size", "1", "--kills", "1", "--stride", str(stride)]
    results = folder / "results.jsonl"
    options = [*scale, "--commands", *commands, "--results", results]
    command = [sys.executable, "-m", "benchmarks.robustness.kill", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = read_results(results)
    assert list(found) == [f"kill/{name}" for name in sorted(commands)]
    for result in found.values():
        assert result["failures"] == []
        assert result["survived"] == sum(result["kills"].values()) and min(result["kills"].values()) > 0
