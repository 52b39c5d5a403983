"""The command ``sample``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from crossflow.cli.console import one_sentence, to_stderr
from crossflow.cli.options import (
    Autoencoder,
    Checkpoint,
    Device,
    Guidance,
    Precision,
    Solver,
    Steps,
    TextEncoder,
    Weaker,
)


def sample(
    out: Annotated[Path, typer.Option(help="Folder for the images and samples.jsonl.", show_default=False)],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be repeated.", show_default=False)] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file, one prompt a line, or captions: .csv, .jsonl, COCO's .json.", show_default=False
        ),
    ] = None,
    ckpt: Checkpoint = None,
    per_prompt: Annotated[int, typer.Option(min=1, help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="With prompt and copy it determines an image.")] = 0,
    solver: Solver = None,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    weaker: Weaker = None,
    text_encoder: TextEncoder = None,
    autoencoder: Autoencoder = None,
    precision: Precision = "auto",
    device: Device = "auto",
) -> None:
    """Sample images of prompts into a folder. The same command again resumes."""
    with one_sentence():
        from crossflow.errors import CrossFlowError, first_few

        if (prompt is None) == (prompts is None):
            raise CrossFlowError("Give either --prompt TEXT, once or more, or --prompts FILE.")
        count = len(prompt or ()) if prompts is None else _count(prompts)
        from crossflow.files.folders import shipped
        from crossflow.files.locks import check_writable
        from crossflow.files.progress import progress
        from crossflow.model.settings import Override
        from crossflow.sampling.samples import draw_into
        from crossflow.sampling.text_to_image import TextToImage

        check_writable(out, "sampling")
        pipeline = TextToImage.from_checkpoint(
            ckpt or shipped("t2i"), device, text_encoder, autoencoder, precision, weaker=weaker
        )
        override = Override(solver=solver, steps=steps, guidance_scale=guidance_scale)
        sampling = pipeline.settings(override, weaker)
        strange: dict[str, None] = {}
        total = None if count is None else count * per_prompt
        done = there = 0
        with progress("drawing", "images") as at:

            def advance(drawn: int, kept: int) -> None:
                nonlocal done, there
                done, there = done + drawn + kept, there + kept
                at(done, total, there)

            at(0, total)
            lines = iter(prompt or ()) if prompts is None else _lines(prompts)
            lines = lines if ckpt else _noting(lines, strange)
            drawn = draw_into(out, pipeline, lines, sampling, seed=seed, per_prompt=per_prompt, advance=advance)
        if drawn.truncated:
            limit = pipeline.model.config.reads.shape[0]
            typer.echo(f"{drawn.truncated} prompts are longer than {limit} tokens: their ends were not read.", err=True)
        if strange:
            to_stderr(
                f"Warning: the shipped model has never seen {first_few(map(repr, strange))}: it knows the words of its "
                "own small world alone, and draws something else."
            )
        to_stderr(f"{drawn.new} images drawn, {drawn.kept} kept from before")
        typer.echo(out / "samples.jsonl")


def _noting(prompts: Iterator[str], strange: dict[str, None]) -> Iterator[str]:
    """The prompts, while words that no prompt of the embedded world has are put into ``strange``, the first 100."""
    from crossflow.recipes.scenes import WORDS

    for prompt in prompts:
        words = re.findall(r"\w+", prompt.lower())
        strange.update(dict.fromkeys(word for word in words if word not in WORDS and len(strange) < 100))
        yield prompt


def _lines(path: Path) -> Iterator[str]:
    """The prompts of a file of captions; else of a UTF-8 text file, one per line, blank ones skipped, streamed."""
    from crossflow.errors import CrossFlowError
    from crossflow.files.captions import KEYS, TABLES, read_captions

    if path.suffix.lower() in TABLES:
        yield from (pair.caption for pair in read_captions(path, KEYS))
        return
    found = False
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if text := line.strip():
                    found = True
                    yield text
    except OSError as error:
        raise CrossFlowError(f"The prompts {path} cannot be read ({error.strerror}): give a text file.") from error
    except UnicodeDecodeError as error:
        raise CrossFlowError(f"The prompts {path} are not UTF-8 text ({error.reason}): convert the file.") from error
    if not found:
        raise CrossFlowError(f"{path} holds no prompt: write one a line.")


def _count(path: Path) -> int | None:
    """The number of prompts in a file, which is thereby checked whole; None for a pipe, which can be read only once."""
    return None if path.is_fifo() else sum(1 for _ in _lines(path))
