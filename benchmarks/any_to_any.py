"""The shipped system of any to any, measured on the embedded world: ``python -m benchmarks.any_to_any``.

Writes results/scenes/any_to_any.md, from runs that are gone on with where they were stopped. Names of measurements make
these alone, and no page: on several cores they are made side by side, and the page by a last call without names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossflow import shipped
from crossflow.files.hashes import file_sha256
from crossflow_eval import report
from crossflow_eval.environment import hardware
from crossflow_eval.report.runs import entries
from crossflow_eval.runs.launch import Request, evaluate

MEASURED: Mapping[str, tuple[str, int, Mapping[str, Any]]] = {
    "matrix": ("scenes-any-matrix", 2_000, {}),
    "chain": ("scenes-any-matrix", 2_000, {"method": "chain"}),
    "others": ("scenes-any-joint", 2_000, {}),
    "independent": ("scenes-any-joint", 2_000, {"context": "none"}),
    "in-turn": ("scenes-any-joint", 2_000, {"method": "in-turn"}),
    "prompts": ("scenes-any-prompts", 950, {}),
    "trips": ("scenes-any-trips", 1_000, {}),
}
"""Measurement -> its suite, how many examples, and how outputs are sampled."""
RESULTS = Path("results/scenes/any_to_any.md")


def measure(name: str, runs: Path) -> Path:
    """Make one measurement, or take up what is there of it; returns the folder of its run."""
    suite, limit, options = MEASURED[name]
    result, folder = evaluate(Request(task="any", suite=suite, limit=limit, name=name, out=runs / name, **options))
    if result is None:
        raise SystemExit("The page is made by one process: run it without torchrun.")
    return folder


def page(folders: list[Path]) -> str:
    """The whole of results/scenes/any_to_any.md."""
    file = shipped("any")
    lines = [
        "# The shipped system of any to any on the embedded world",
        "",
        f"`python -m benchmarks.any_to_any`; seed 0, {hardware()}. The file is {file.name}, sha256",
        f"{file_sha256(file)[:12]}, of `crossflow train codi --seed 0`, rounded by `crossflow export --half`.",
        "Suites and values are described in [docs/any-to-any-evaluation.md](../../docs/any-to-any-evaluation.md).",
        "",
        report.render(entries(folders), "md").strip(),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASURED)}; all, if none is given")
    parser.add_argument("--runs", type=Path, default=Path("runs/any-to-any"))
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in MEASURED]:
        parser.error(f"{unknown[0]} is no measurement: choose from {', '.join(MEASURED)}.")
    folders = [measure(name, given.runs) for name in given.names or MEASURED]
    if not given.names:
        RESULTS.write_text(page(folders), encoding="utf-8")
        sys.stdout.write(f"{RESULTS}\n")


if __name__ == "__main__":
    main()
