"""The text-to-image model run backward as a captioner: ``python -m benchmarks.prompt_reader``.

Writes results/scenes/prompt_reader.md: what the decoder reads of the latents that the model's own encoder made of the
prompts, of images that the model drew of these, and of renders, the only one of the three that is captioning.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossflow import shipped
from crossflow.sampling.prompt_reader import READER, PromptReader, load_decoder
from crossflow.sampling.text_to_image import TextToImage
from crossflow.scenes import SceneExample, example, render
from crossflow_eval.environment import hardware
from crossflow_eval.suites.scenes.captions import read_caption


def right(prompt: str, item: SceneExample) -> bool:
    """Whether ``prompt`` names the shapes of the scene, all of them and no others, and no colour wrongly."""
    told = read_caption(prompt).objects
    left = Counter((each.color, each.shape) for each in item.scene.objects)
    colored = Counter({look: count for look, count in told.items() if look[0]})
    shapes = Counter({shape: 0 for _, shape in told})
    for (_, shape), count in told.items():
        shapes[shape] += count
    return colored <= left and shapes == Counter(each.shape for each in item.scene.objects)


def measure(items: Sequence[SceneExample]) -> list[str]:
    """The lines: what is read, prompts that come back word by word, and those with the right objects."""
    pipeline = TextToImage.from_checkpoint(shipped("t2i"))
    reader = PromptReader(pipeline, load_decoder(READER, pipeline.model))
    prompts, seeds = [item.prompt for item in items], list(range(len(items)))
    source = pipeline.source(prompts, seeds)
    read = {
        "the encoder's latents of the prompts": reader.decoder.texts(source),
        "the model's own images, run backward": reader.generate(pipeline.from_source(source, reader.defaults), seeds),
        "renders, run backward": reader.generate([render(item.scene) for item in items], seeds),
    }
    lines = []
    for name, texts in read.items():
        exact = np.mean([text == prompt for text, prompt in zip(texts, prompts, strict=True)])
        named = np.mean([right(text, item) for text, item in zip(texts, items, strict=True)])
        lines.append(f"| {name} | {100 * exact:.1f} | {100 * named:.1f} |")
    return lines


def report(lines: list[str], count: int, split: str) -> str:
    """The Markdown page."""
    return "\n".join(
        (
            "# The text-to-image model run backward: images read as prompts",
            "",
            f"`python -m benchmarks.prompt_reader --n {count} --split {split}`: the first examples of `{split}`,",
            f"{hardware()}. The shipped model in float64, its images as it recommends; run backward without guidance,",
            "by Euler's method in as many steps. Objects are right where all shapes are named, none besides, and no",
            "colour is wrong. An image does not tell in which of six forms it was asked for, so not every prompt can",
            "come back from a render.",
            "",
            "| what is read | prompt exactly, % | objects right, % |",
            "|---|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", type=Path, default=Path("results/scenes/prompt_reader.md"))
    args = parser.parse_args()
    page = report(measure([example(args.split, index) for index in range(args.n)]), args.n, args.split)
    args.out.write_text(page, encoding="utf-8")
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
