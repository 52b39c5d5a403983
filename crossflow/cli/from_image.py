"""The command ``from-image``: captions, depth maps or larger images from image files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crossflow.cli.console import one_sentence
from crossflow.cli.options import Device

SUFFIXES: dict[str, tuple[str, ...]] = {"text": (), "depth": (".npy", ".png"), "image": (".png",)}
"""The suffixes of an output's files, by what a model makes."""


def from_image(
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of them.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the outputs and outputs.jsonl.", show_default=False)],
    task: Annotated[Literal["caption", "depth", "sr"], typer.Option(help="Which shipped model.")] = "caption",
    ckpt: Annotated[Path | None, typer.Option(help="A checkpoint instead.", show_default="the shipped")] = None,
    seed: Annotated[int, typer.Option(help="With the file name it determines an output.")] = 0,
    solver: Annotated[str | None, typer.Option(help="Name of a solver.", show_default="the checkpoint's")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Solver steps.", show_default="the checkpoint's")] = None,
    precision: Annotated[str, typer.Option(help="auto, float64 or float32.")] = "auto",
    device: Device = "auto",
) -> None:
    """Caption images, estimate their depth (.npy, in metres if the model's is, and a .png to view) or upscale them."""
    with one_sentence(goes_on=False):
        import numpy as np

        from crossflow.errors import CrossFlowError
        from crossflow.files.folders import shipped
        from crossflow.files.images import read_image
        from crossflow.files.listing import list_folder
        from crossflow.files.locks import writing_in
        from crossflow.files.progress import chunks, progress
        from crossflow.files.writing import refuse_existing, replacing
        from crossflow.model.settings import Override
        from crossflow.sampling.from_image import FromImage
        from crossflow.sampling.text_to_image import prompt_seed

        files = [
            file
            for given in files
            for file in (list_folder(given).all_read().read.values() if given.is_dir() else [given])
        ]
        if len({file.stem for file in files}) < len(files):
            raise CrossFlowError("Two of the images have one name: give them names of their own, for their outputs.")
        sizes = [read_image(file).size for file in files]  # what cannot be read is said before any work is done
        with writing_in(out, "writing"):
            refuse_existing([out / "outputs.jsonl"])
            model = FromImage.from_checkpoint(ckpt or shipped(task), device, precision)
            refuse_existing(out / f"{file.stem}{suffix}" for file in files for suffix in SUFFIXES[model.ends[1]])
            if not model.any_size:
                _check_sizes(files, sizes, model.size)
            seeds = [prompt_seed(seed, file.name) for file in files]
            unit = {"unit": model.unit} if model.unit else {}
            rows: list[dict[str, str]] = []
            try:
                for start in chunks(progress, "from-image", "images", len(files), model.batch_size):
                    part = slice(start, start + model.batch_size)
                    images = [np.asarray(read_image(file)) for file in files[part]]
                    outputs = model.generate(images, seeds[part], Override(solver=solver, steps=steps))
                    rows += [
                        _write(out, file, output) | unit for file, output in zip(files[part], outputs, strict=True)
                    ]
            finally:  # what is finished is kept, however it ends
                if rows:
                    with replacing(out / "outputs.jsonl") as temporary:
                        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        for row in rows:
            typer.echo(row["caption"] if "caption" in row else row["output"])


def _check_sizes(files: Sequence[Path], sizes: Sequence[tuple[int, int]], size: tuple[int, ...]) -> None:
    """CrossFlowError for images of ``sizes`` (w, h) that are not of ``size`` (h, w)."""
    from crossflow.errors import CrossFlowError, first_few

    if odd := [file.name for file, (w, h) in zip(files, sizes, strict=True) if (h, w) != tuple(size)]:
        wanted = " x ".join(map(str, size))
        raise CrossFlowError(f"This model reads images of {wanted} pixels, unlike {first_few(odd)}: resize them first.")


def _write(out: Path, file: Path, output: Any) -> dict[str, str]:
    """Write one output, and return its row of outputs.jsonl."""
    import numpy as np

    from crossflow.files.writing import replacing
    from crossflow.modalities.depth import grey
    from crossflow.sampling.samples import png

    row = {"image": file.name}
    if isinstance(output, str):
        return row | {"caption": output}
    path = out / f"{file.stem}.{'npy' if output.ndim == 2 else 'png'}"
    if output.ndim == 2:
        with replacing(path) as temporary, temporary.open("wb") as opened:
            np.save(opened, output)
    with replacing(path.with_suffix(".png")) as temporary:
        temporary.write_bytes(png(grey(output) if output.ndim == 2 else output))
    return row | {"output": str(path)}
