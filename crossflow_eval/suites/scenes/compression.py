"""The suites ``scenes-compression``: how much of a prompt's tokens comes back from its source latent, as in Table 10.

The first 1,000 prompts of a split. How large tokens and latents are is the model's own, and so the examples carry it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.compression import TokenCosine
from crossflow_eval.types import Example, Lookup, Model, Suite

VERSION = "1"
COUNT = 1000
SPLIT_OF = {"scenes-compression": "test", "scenes-compression-val": "val"}
SIZES = ("token_values", "latent_values")
"""What a model's identity must say: how many numbers the tokens of a text and its latent have."""


def suite(name: str) -> Suite:
    """Build one of ``SPLIT_OF``; ``scenes-compression-val`` is for choosing settings, never for reporting."""
    return Suite(
        name=name,
        version=VERSION,
        task="compression",
        output="tokens",
        examples=partial(_examples, name, {}),
        metrics={"cosine": TokenCosine},
        fitted=partial(_fitted, name),
    )


def _fitted(name: str, model: Model | Lookup) -> Suite:
    if missing := [size for size in SIZES if size not in model.identity]:
        raise CrossFlowError(f"The identity of the model {model.name} lacks {missing[0]}, which {name} needs; add it.")
    return replace(suite(name), examples=partial(_examples, name, {size: model.identity[size] for size in SIZES}))


def _examples(name: str, sizes: Mapping[str, int], root: Path | None) -> Sequence[Example]:
    if root is not None:
        raise CrossFlowError(f"The suite {name} is embedded; leave --data out.")
    from crossflow.scenes import VERSION as WORLD
    from crossflow.scenes import example

    split = SPLIT_OF[name]
    tags = {"world": str(WORLD), "split": split}
    drawn = (example(split, index) for index in range(COUNT))
    return [Example(id=each.id, source=each.prompt, target=dict(sizes), tags=tags) for each in drawn]
