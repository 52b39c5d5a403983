"""The README's picture of any to any: ``python -m benchmarks.any_to_any_samples``.

Of each row's inputs, which are those of the first events of the test split, a system makes a value of every modality,
all of them together. Writes results/scenes/any_to_any.png.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer

from crossflow.errors import one_sentence
from crossflow.files.folders import shipped
from crossflow.files.writing import replacing
from crossflow.sampling.any_to_any import AnyToAnySampler
from crossflow.scenes.events import event
from crossflow.scenes.sense import value
from crossflow_eval.outputs import kind_of
from crossflow_eval.suites.scenes.any_to_any import KIND, MODALITIES

ROWS = (("text-0",), ("image",), ("depth",), ("audio",), ("video",), ("text-2", "depth"), ("image", "audio"))
"""What is given in each row; "text-2" is the caption of that form, the barest is 0."""
INPUTS = max(map(len, ROWS))
WIDTHS = {"text": 1.4, "video": 2.0}
"""Of a column, an image's being 1: the frames of a film stand in two rows of four."""
SIDE = 256
"""Pixels that a picture has at most; none of these has as many."""


def main(
    ckpt: Annotated[Path | None, typer.Option(help="An any-to-any system.", show_default="the shipped")] = None,
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("results/scenes/any_to_any.png"),
) -> None:
    """Make the picture."""
    with one_sentence():
        given = [inputs(names, event("test", row)) for row, names in enumerate(ROWS)]
        sampler = AnyToAnySampler.from_checkpoint(ckpt or shipped("any"))
        items = [{name: [raw] for name, raw in each.items()} for each in given]
        draw(given, sampler.generate(items, MODALITIES, range(len(ROWS))), out)
        typer.echo(f"{out}: {out.stat().st_size:,} bytes")


def inputs(names: tuple[str, ...], of: Any) -> dict[str, Any]:
    """What an event is in the modalities of a row."""
    parts = [name.partition("-") for name in names]
    return {modality: value(of, modality, int(form or 0)) for modality, _, form in parts}


def draw(given: list[dict[str, Any]], made: list[dict[str, Any]], out: Path) -> None:
    """Write the picture: a row an item, inputs on the left."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    widths = [1.4] * INPUTS + [0.3] + [WIDTHS.get(name, 1.0) for name in MODALITIES]
    figure, axes = pyplot.subplots(
        len(given),
        len(widths),
        figsize=(1.05 * sum(widths), 1.1 * len(given)),
        width_ratios=widths,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for title, axis in zip(MODALITIES, axes[0, INPUTS + 1 :], strict=True):
        axis.set_title(title, fontsize=9)
    axes[0, INPUTS - 1].set_title("given", fontsize=9)
    for row, item, outputs in zip(axes, given, made, strict=True):
        row[INPUTS].text(0.5, 0.5, "→", ha="center", va="center", fontsize=16)
        shown = [*item.items()]
        for axis, (name, raw) in zip(row[INPUTS - len(shown) : INPUTS], shown, strict=True):
            show(axis, name, raw)
        for axis, name in zip(row[INPUTS + 1 :], MODALITIES, strict=True):
            show(axis, name, outputs[name])
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    pyplot.close(figure)


def show(axis: Any, name: str, raw: Any) -> None:
    """One value in its place."""
    picture = kind_of(KIND[name]).picture
    if picture is None:
        text = textwrap.fill(str(raw), 24)
        axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, transform=axis.transAxes)
    else:
        axis.imshow(picture(raw, SIDE), interpolation="nearest")


if __name__ == "__main__":
    typer.run(main)
