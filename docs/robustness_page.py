"""Writes the tables of explanation/promises.md from benchmarks/robustness/results: none of their figures is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.records import read_results

HERE = Path(__file__).parent
PAGES, RESULTS = HERE / "results", HERE.parent / "benchmarks" / "robustness" / "results.jsonl"

Result = dict[str, Any]


def write() -> None:
    """Write results/robustness-*.txt, which the page includes."""
    PAGES.mkdir(exist_ok=True)
    for name, lines in tables().items():
        (PAGES / f"robustness-{name}.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")


def tables() -> dict[str, list[str]]:
    """Lines of each table by the name of its results."""
    groups: dict[str, dict[str, Result]] = {"kill": {}, "fuzz": {}, "soak": {}}
    for name, result in read_results(RESULTS).items():
        group, _, entry = name.partition("/")
        groups[group][entry] = result
    return {
        "kill": kill_table(groups["kill"]),
        "fuzz": fuzz_table(list(groups["fuzz"].values())),
        "soak": soak_table(groups["soak"][""]),
    }


def kill_table(found: dict[str, Result]) -> list[str]:
    """A row per command."""
    rows = [
        "| command | its renames and removals | kills beside one | kills at random | survived |",
        "|---|---|---|---|---|",
    ]
    totals = [0, 0, 0]
    for name, result in found.items():
        kills, survived = result["kills"], result["survived"]
        random = kills["at a random moment"]
        counts = (sum(kills.values()) - random, random, survived)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        beside, random, survived = counts
        rows.append(f"| `{name}` | {result['renames_and_removals']} | {beside} | {random} | {survived} |")
    beside, random, survived = totals
    rows.append(f"| all | | {beside:,} | {random:,} | **{survived:,} of {beside + random:,}** |")
    runs = {result["command"]: result for result in found.values()}  # each once
    return [*rows, *(line for run in runs.values() for line in origin(run))]


def fuzz_table(runs: list[Result]) -> list[str]:
    """A row per format, all runs together."""
    rows = ["| format | inputs | read | refused | findings |", "|---|---|---|---|---|"]
    names = {
        "db": "ASE database, SQLite",
        "json": "ASE database, JSON",
        "recipe": "recipe, YAML",
        "model": "model folder",
    }
    totals = [0, 0, 0, 0]
    for name in runs[0]["formats"]:
        figures = [sum(column) for column in zip(*(outcomes(run["formats"][name]) for run in runs), strict=True)]
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        rows.append(f"| {names.get(name, name)} | " + " | ".join(f"{figure:,}" for figure in figures) + " |")
    inputs, read, refused, others = totals
    rows.append(f"| all | **{inputs:,}** | {read:,} | {refused:,} | **{others:,}** |")
    limits = runs[0]["limits"]
    rows += ["", f"An input may take {limits['seconds']:.0f} s of processor time and {limits['bytes'] >> 30} GiB."]
    return [*rows, *(line for run in runs for line in (*origin(run), stopped(run)))]


def stopped(run: Result) -> str:
    asked = int(run["command"].split("--inputs ")[1].split()[0]) * len(run["formats"])
    return f"This run was stopped; it was to be {asked:,} inputs." if run["inputs"] < asked else ""


def outcomes(result: Result) -> tuple[int, int, int, int]:
    """Inputs; those that were read, refused, and anything else."""
    found = result["outcomes"]
    read, refused = found.get("ok", 0), found.get("refused", 0)
    return result["inputs"], read, refused, result["inputs"] - read - refused


def soak_table(found: Result) -> list[str]:
    """What the two long processes have shown."""
    train, md = found["train"], found["md"]
    rows = [
        "| | training | dynamics |",
        "|---|---|---|",
        f"| length | {train['minutes']:g} minutes, {train['steps']:,} steps, killed at half of it and resumed "
        f"| {md['seconds'] / 60:.1f} minutes, {md['steps']:,} steps |",
        f"| memory, mean of the later half, MB | {memory(train, 'mean_mb', 0)} | {memory(md, 'mean_mb', 0)} |",
        f"| its slope, MB an hour | {memory(train, 'slope_mb_per_hour', 1)} | {memory(md, 'slope_mb_per_hour', 1)} |",
        f"| flat | {flat(train)} | {flat(md)} |",
        f"| written | {train['lines']:,} lines, {train['log_bytes_per_step']:.0f} bytes a step "
        f"| {md['frames']:,} of {md['frames_expected']:,} frames |",
        f"| missing, doubled, not finite | {train['missing_lines']}, {train['doubled_lines']}, "
        f"{train['numbers_not_finite']} | {md['frames_expected'] - md['frames']} missing |",
    ]
    return [*rows, *origin(found)]


def memory(found: Result, key: str, digits: int) -> str:
    """Of each process of a run."""
    return ", ".join(f"{process[key]:,.{digits}f}" for process in found["memory"])


def flat(found: Result) -> str:
    return "yes" if all(process["flat"] for process in found["memory"]) else "**no**"


def origin(found: Result) -> list[str]:
    """How the figures came about."""
    versions = found["versions"]
    on = f", {found['hardware']}" if "hardware" in found else ""
    return ["", f"`{found['command']}`; transip {versions['transip']}, torch {versions['torch']}{on}."]
