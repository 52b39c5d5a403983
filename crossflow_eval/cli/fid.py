"""The command ``fid``: the distance between two sets of images."""

# Nothing heavy is imported here: ``--help`` answers at once, and each command imports what it needs.
from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from crossflow.errors import one_sentence
from crossflow_eval.cli.options import AsJson
from crossflow_eval.cli.progress import bar
from crossflow_eval.cli.terminal import print_table

if TYPE_CHECKING:
    from crossflow_eval.metrics.image_sets import Distances

PUBLISHED = ("coco-uvit", "coco-t2ibenchmark", "imagenet256-adm")
"""The references that have names, ``crossflow_eval.judges.references``."""
A_SET = f"A folder of images, an .npz file of statistics or images, or a published reference: {', '.join(PUBLISHED)}."


def fid(
    first: Annotated[str, typer.Argument(metavar="A", help=A_SET, show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="The same: the reference.", show_default=False)],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="clean, legacy_tensorflow, legacy_pytorch, crossflow, adm or t2ibenchmark; efficientnet-lite0, whose "
            "weights are here, gives FD-EfficientNet.",
            show_default="the statistics', or clean",
        ),
    ] = None,
    also: Annotated[
        str,
        typer.Option(
            help="More, by commas: sfid, fid_infinity, kid, precision_recall, prdc, is, is_adm, fd_dinov2, cmmd.",
            show_default="none",
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int | None, typer.Option("--workers", help="Threads that read and decode files.", show_default="by the cores")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the distance between two sets of images: FID, or what is like it."""
    with one_sentence():
        from dataclasses import asdict

        from crossflow_eval.judges.references import look_for_set

        for given in (first, second):  # before what takes seconds is loaded
            look_for_set(given)
        from crossflow.files.devices import own_device
        from crossflow.files.processes import workers
        from crossflow_eval.environment import environment
        from crossflow_eval.metrics.image_sets import measure

        names = [name.strip() for name in also.split(",") if name.strip()]
        track, where = cast(Any, bar(not as_json)), own_device(device)
        with workers(threads):
            found = measure(first, second, protocol=protocol, also=names, device=where, track=track)
        if as_json:
            values = {name: value.model_dump(exclude={"n"}) for name, value in found.values.items()}
            record = {**asdict(found), "values": values, "environment": environment()}
            return typer.echo(json.dumps(record, indent=2))
        _show(found)


def _show(found: Distances) -> None:
    """Print the values, and what they are of, on stdout; what is to be known of them on stderr."""
    from crossflow_eval.stats import sized

    n = found.first["n"]
    rows: list[tuple[str, str, str]] = []
    for name, value in found.values.items():
        up = found.higher_is_better.get(name)
        label = f"{name}@{'?' if n is None else n}" if sized(name) else name
        label += "" if up is None else " ↑" if up else " ↓"
        low, high = value.ci_low, value.ci_high
        rows.append((label, f"{value.mean:.4f}", "none" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"))
    print_table((found.protocol, "value", "95 % interval"), rows)
    for letter, side in (("A", found.first), ("B", found.second)):
        typer.echo(f"{letter}: {side['name']}, n = {'unknown' if side['n'] is None else side['n']}")
    used = {each["weights_sha256"]: each for each in found.protocols.values() if "weights_sha256" in each}
    for sha256, each in used.items():
        typer.echo(f"Weights: {each.get('weights', each.get('extractor'))}, sha256 {sha256[:16]}")
    for sentence in (*found.left, *found.warnings):
        typer.echo(sentence, err=True)
