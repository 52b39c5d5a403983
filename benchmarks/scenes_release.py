"""From a trained run to the shipped model and its numbers: ``python -m benchmarks.scenes_release runs/scenes-t2i``.

The checkpoint is rounded to half precision before all else. Solver and guidance scale are searched on the validation
split alone; the checkpoint goes to crossflow/weights with them, in the place of the one there; then the two test suites
are run once each, and results/scenes/t2i.md gets both tables, the curves of the search and the command. With
``--baseline runs/scenes-t2i-standard`` the baseline of that training is rounded, searched and tested in the same way.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossflow import shipped
from crossflow.files.tensors import read_header
from crossflow.model.checkpoint import export_checkpoint
from crossflow.model.settings import OWN, Override
from crossflow.sampling.text_to_image import TextToImage
from crossflow_eval import report
from crossflow_eval.environment import hardware
from crossflow_eval.report.runs import entries, write_page
from crossflow_eval.runs.launch import Request, evaluate
from crossflow_eval.types import Result

SAMPLERS = (("midpoint", 16), ("euler_ancestral", 32))
"""Solvers with their steps; each evaluates the guided velocity 32 times."""
SCALES = (1.5, 2.0, 3.0, 4.0)
VALIDATION_PROMPTS = 960
RESULTS = Path("results/scenes/t2i.md")
Curve = Mapping[tuple[str, int, float], Result]
"""The validation result of each solver, its steps and guidance scale."""


def measure(suite: str, checkpoint: Path, override: Override = OWN, limit: int | None = None) -> tuple[Result, Path]:
    """Run one suite, or take up what is there of it."""
    request = Request(
        checkpoint=checkpoint,
        suite=suite,
        solver=override.solver,
        steps=override.steps,
        guidance_scale=override.guidance_scale,
        limit=limit,
    )
    result, folder = evaluate(request)
    if result is None:
        raise SystemExit("The release is made by one process: run it without torchrun.")
    scores = ", ".join(f"{name} {value.mean:.3f}" for name, value in result.values.items() if "geneval" in name)
    print(f"{suite} by {checkpoint}, {override}: {scores}", file=sys.stderr)
    return result, folder


def search(checkpoint: Path) -> Curve:
    """What each sampler and scale has on the validation split."""
    tried = {
        (solver, steps, scale): Override(solver=solver, steps=steps, guidance_scale=scale)
        for solver, steps in SAMPLERS
        for scale in SCALES
    }
    return {
        key: measure("scenes-t2i-val", checkpoint, override, VALIDATION_PROMPTS)[0] for key, override in tried.items()
    }


def chosen(curve: Curve) -> Override:
    """The best of a curve; of two alike the one of less guidance."""
    solver, steps, scale = max(curve, key=lambda key: (curve[key].values["geneval"].mean, -key[2]))
    return Override(solver=solver, steps=steps, guidance_scale=scale)


def rounded(run: Path) -> Path:
    """The checkpoint of a run in half precision."""
    half = run / f"{run.name}.safetensors"
    if not half.exists():
        export_checkpoint(run / "model.safetensors", half, OWN, half=True)
    return half


def main() -> None:
    """Search, export, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("--baseline", type=Path, help="folder of the baseline's")
    given = parser.parse_args()
    own = rounded(given.run)
    curves = {"scenes-t2i": search(own)}
    best = chosen(curves["scenes-t2i"])
    shipped("t2i").unlink(missing_ok=True)
    export_checkpoint(own, shipped("t2i"), best, half=True)
    tables = [table("scenes-t2i", {}), table("scenes-t2i-heldout", {})]
    if given.baseline is not None:
        other = rounded(given.baseline)
        curves["scenes-t2i-standard"] = search(other)
        beside = {other: chosen(curves["scenes-t2i-standard"])}
        tables = [table(suite, beside) for suite in ("scenes-t2i", "scenes-t2i-heldout")]
    RESULTS.write_text(page(curves, tables, given.baseline), encoding="utf-8")
    print(RESULTS)


def table(suite: str, beside: Mapping[Path, Override]) -> str:
    """The shipped model on a suite, and what stands ``beside`` it with its sampling."""
    folders = [
        measure(suite, checkpoint, override)[1] for checkpoint, override in {shipped("t2i"): OWN, **beside}.items()
    ]
    write_page(folders[0])
    return report.render(entries(folders), "md")


def page(curves: Mapping[str, Curve], tables: Sequence[str], baseline: Path | None) -> str:
    """The whole of results/scenes/t2i.md."""
    header, model = read_header(shipped("t2i")), TextToImage.from_checkpoint(shipped("t2i")).model
    sampling = model.config.sampling
    parameters = sum(part.numel() for part in model.parameters())
    trained = ["`crossflow train scenes-t2i --out runs/scenes-t2i`"]
    if baseline is not None:
        trained.append("`crossflow train scenes-t2i-standard --out runs/scenes-t2i-standard`")
    lines = [
        "# The shipped text-to-image model on the embedded world",
        "",
        "Generated by `python -m benchmarks.scenes_release runs/scenes-t2i"
        + (" --baseline runs/scenes-t2i-standard`" if baseline is not None else "`"),
        f"after {' and '.join(trained)}; never edited by hand.",
        "",
        f"- Training: {header['step']} steps, seed {header['seed']}, {header['precision']}, one CPU thread.",
        f"- Model: {parameters:,} parameters in half precision.",
        f"- Sampling: {sampling.solver}, {sampling.steps} steps, guidance scale {sampling.guidance_scale:g}, seed 0.",
        f"- Machine: {hardware()}.",
        "",
        *(line for table in tables for line in (table.strip(), "")),
        f"## Sampling, searched on the validation split (n = {VALIDATION_PROMPTS}, seed 0)",
        "",
        f"| model | solver | steps | scale | GenEval forms | FID@{VALIDATION_PROMPTS} |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, curve in curves.items():
        for (solver, steps, scale), result in curve.items():
            scores = f"{result.values['geneval'].mean:.3f} | {result.values['fid'].mean:.1f}"
            lines.append(f"| {name} | {solver} | {steps} | {scale:g} | {scores} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
