"""How the shipped system of any to any is sampled, chosen on validation: ``python -m benchmarks.any_sampling SYSTEM``.

Solvers that evaluate the velocity equally often, and guidance scales, are searched on the validation split of the
matrix alone, by the mean over its 25 cells. The system goes to crossflow/weights in half precision with the best, in
the place of the one there, and results/scenes/any_sampling.md gets the curve. Runs are gone on with where they were
stopped. With names as ``euler_ancestral-2`` these alone are measured, and nothing is chosen: side by side on several
cores.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossflow import shipped
from crossflow.anytoany.system import export_system
from crossflow.files.hashes import file_sha256
from crossflow.model.settings import Override
from crossflow_eval.environment import hardware
from crossflow_eval.runs.launch import Request, evaluate
from crossflow_eval.types import Value

SUITE, OUTPUTS, CHOOSES = "scenes-any-matrix-val", 1_000, "told"
SOLVERS = {"midpoint": 10, "euler_ancestral": 20}
"""Solvers with their steps; each evaluates the guided velocity 20 times."""
SCALES = (1.0, 1.5, 2.0, 3.0)
TRIED: Mapping[str, Override] = {
    f"{solver}-{scale:g}": Override(solver=solver, steps=steps, guidance_scale=scale)
    for solver, steps in SOLVERS.items()
    for scale in SCALES
}
COLUMNS = {"told/trained": "trained pairs", "told/zero_shot": "never trained together", CHOOSES: "all 25"}
RESULTS = Path("results/scenes/any_sampling.md")
Values = Mapping[str, Value]


def measure(name: str, system: Path, runs: Path) -> Values:
    """What one setting has on validation; a finished run is taken up."""
    setting = TRIED[name]
    request = Request(
        task="any",
        suite=SUITE,
        limit=OUTPUTS,
        checkpoint=system,
        name=name,
        out=runs / name,
        solver=setting.solver,
        steps=setting.steps,
        guidance_scale=setting.guidance_scale,
    )
    result, _ = evaluate(request)
    if result is None:
        raise SystemExit("The page is made by one process: run it without torchrun.")
    return result.values


def chosen(found: Mapping[str, Values]) -> str:
    """The best setting; of two alike the one of less guidance."""
    return max(found, key=lambda name: (found[name][CHOOSES].mean, -(TRIED[name].guidance_scale or 0.0)))


def page(found: Mapping[str, Values], sha256: str) -> str:
    """The whole of results/scenes/any_sampling.md."""
    best = chosen(found)
    rows: list[Sequence[str]] = [
        ["solver", "steps", "guidance scale", *COLUMNS.values()],
        ["---", *["---:"] * (2 + len(COLUMNS))],
    ]
    for name, values in found.items():
        setting = TRIED[name]
        cells = [f"{setting.solver}", f"{setting.steps}", f"{setting.guidance_scale:g}"]
        cells += [f"{values[each].mean:.3f}" for each in COLUMNS]
        rows.append([f"**{cell}**" for cell in cells] if name == best else cells)
    lines = [
        "# How the shipped system of any to any is sampled",
        "",
        f"`python -m benchmarks.any_sampling SYSTEM`, sha256 {sha256[:12]}: `{SUITE}`, n = {OUTPUTS:,}, seed 0, "
        f"{hardware()}. Told factors that are right, the means of cells; in bold the best by the mean of all 25, "
        "which the shipped file has.",
        "",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Search, and unless single settings are named, choose, ship and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", type=Path, help="file of crossflow train codi")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TRIED)}; all, if none is given")
    parser.add_argument("--runs", type=Path, default=Path("runs/any-sampling"))
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in TRIED]:
        parser.error(f"{unknown[0]} is no setting: choose from {', '.join(TRIED)}.")
    found = {name: measure(name, given.system, given.runs) for name in given.names or TRIED}
    if not given.names:
        whole = page(found, file_sha256(given.system))
        shipped("any").unlink(missing_ok=True)
        export_system(given.system, shipped("any"), TRIED[chosen(found)], half=True)
        RESULTS.write_text(whole, encoding="utf-8")
        sys.stdout.write(f"{RESULTS}\n")


if __name__ == "__main__":
    main()
