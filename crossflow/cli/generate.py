"""The command ``generate``: any outputs from any inputs, by an any-to-any system."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crossflow.cli.console import one_sentence
from crossflow.cli.options import Device
from crossflow.files.program import look_for

FILES = ("image", "depth", "audio", "video")
"""Modalities whose inputs are files; a text is one if it ends in .txt."""


def generate(
    given: Annotated[
        list[str],
        typer.Option(
            "--from",
            help="text=WORDS, or image, depth, audio or video and a file: audio=x.wav. May be given several times.",
            show_default=False,
        ),
    ],
    to: Annotated[str, typer.Option(help="The outputs, as image,audio,video.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the outputs and outputs.jsonl.", show_default=False)],
    ckpt: Annotated[Path | None, typer.Option(help="An any-to-any system.", show_default="the shipped")] = None,
    mix: Annotated[
        str,
        typer.Option(
            help="Weights of the inputs, as text=2,audio=1; several of a kind share one, or have one each in their "
            "order: text=3,text=1.",
            show_default="all alike",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="It determines the outputs.")] = 0,
    guidance_scale: Annotated[
        float | None, typer.Option(help="1 is no guidance.", show_default="each output's own")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Solver steps.", show_default="the system's")] = None,
    solver: Annotated[str | None, typer.Option(help="Name of a solver.", show_default="the system's")] = None,
    context: Annotated[
        Literal["others", "self", "none"] | None,
        typer.Option(help="What outputs see of one another.", show_default="the system's"),
    ] = None,
    merge: Annotated[
        Literal["mean", "concat"] | None,
        typer.Option(help="How an output sees several others.", show_default="the system's"),
    ] = None,
    method: Annotated[
        Literal["together", "in-turn", "chain", "anchor", "direct"],
        typer.Option(
            help="Together, or as the rivals: one after another, by way of a text, from a shared latent, by direct "
            "flows."
        ),
    ] = "together",
    device: Device = "auto",
) -> None:
    """Make texts, images, depth maps, sounds and films, which belong together, from any of these."""
    with one_sentence(goes_on=False):
        inputs = [_named(each, "--from", "text=WORDS or audio=FILE") for each in given]
        for name, value in inputs:
            if name in FILES or value.lower().endswith(".txt"):
                look_for(Path(value))

        from crossflow.errors import CrossFlowError, Notice
        from crossflow.files.folders import shipped
        from crossflow.files.locks import check_writable, writing_in
        from crossflow.files.seeds import check_seed
        from crossflow.files.writing import refuse_existing, write_whole
        from crossflow.sampling.any_to_any import CONTRADICTING, AnyToAnySampler, check_used
        from crossflow.sampling.media import SIZES, read_value, writers

        check_seed(seed)
        wanted = [name.strip() for name in to.split(",") if name.strip()]
        weights = _weights(mix.split(",")) if mix else {}
        options: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "steps": steps,
            "solver": solver,
            "context": context,
            "merge": merge,
        }
        check_used(method, len(wanted), mix=weights or None, **options)
        check_writable(out, "writing")
        files = ["outputs.jsonl", *(f"{name}{suffix}" for name in wanted for suffix in writers(name))]
        refuse_existing(out / file for file in files)
        sampler = AnyToAnySampler.from_checkpoint(ckpt or shipped("any"), device)
        item: dict[str, list[Any]] = {}
        for name, value in inputs:
            read = read_value(name, value, sampler.shape(name))
            if isinstance(read, str) and not read.strip():
                raise CrossFlowError(f"{value} holds no text: write some.")
            item.setdefault(name, []).append(read)
        [outputs] = sampler.generate([item], wanted, [seed], mix=weights, method=method, **options)
        weighed = {name: _heard(values, weights.get(name, 1.0)) for name, values in item.items()}
        heard = {name: values for name, values in weighed.items() if values}
        prompted = method in ("together", "in-turn", "chain")
        if prompted and (cosine := sampler.agreement(heard)) < CONTRADICTING:
            warnings.warn(
                f"Two inputs contradict each other (the cosine of their prompts is {cosine:.2f}), and what is "
                "made lies between them: lean on one by --mix.",
                Notice,
                stacklevel=2,
            )
        contents = {
            f"{name}{suffix}": content(outputs[name]) for name in wanted for suffix, content in writers(name).items()
        }
        row = {
            "from": [list(each) for each in inputs],
            "to": wanted,
            "mix": mix,
            "seed": seed,
            **options,
            "method": method,
            "sizes": {name: SIZES[name] for name in item if name in SIZES},
            **sampler.identity,
        }
        contents["outputs.jsonl"] = f"{json.dumps(row)}\n".encode()
        with writing_in(out, "writing"):
            refuse_existing(out / file for file in files)
            for name, content in contents.items():
                write_whole(out / name, content)
        for name in wanted:
            typer.echo(outputs[name] if isinstance(outputs[name], str) else out / f"{name}{next(iter(writers(name)))}")


def _named(given: str, option: str, example: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE."""
    from crossflow.errors import CrossFlowError

    name, equals, value = given.partition("=")
    if not (equals and name.strip() and value.strip()):
        raise CrossFlowError(f"{option} got {given!r}: give {example}.")
    return name.strip(), value


def _weights(given: Sequence[str]) -> dict[str, float | list[float]]:
    """Weights by name, several where a name stands several times."""
    from crossflow.errors import CrossFlowError

    weights: dict[str, list[float]] = {}
    for name, value in (_named(each, "--mix", "weights as text=2,audio=1") for each in given):
        try:
            weights.setdefault(name, []).append(float(value))
        except ValueError as error:
            raise CrossFlowError(f"--mix gives {name} the weight {value!r}: give a number.") from error
    return {name: several if len(several) > 1 else several[0] for name, several in weights.items()}


def _heard(values: list[Any], weight: float | list[float]) -> list[Any]:
    """The inputs of a kind that weigh anything."""
    weights = weight if isinstance(weight, list) else [weight] * len(values)
    return [value for value, each in zip(values, weights, strict=True) if each]
