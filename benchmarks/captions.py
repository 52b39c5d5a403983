"""Caption scores against pycocoevalcap: ``python -m benchmarks.captions [--captions captions_val2017.json]``.

Writes results/benchmarks/captions.md. Both sides run in one process and in the Java programs it starts, taking turns;
times are CPU seconds of all of them, medians of the rounds; with METEOR on the clock too. The candidate of an image is
its first caption, the references are its first five. Without a file, captions are drawn: a vocabulary of 10,000 words
after Zipf, ten words a caption on average.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from threadpoolctl import threadpool_limits

from crossflow_eval.environment import hardware
from crossflow_eval.judges import java
from crossflow_eval.judges.paraphrases import Paraphrases
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.metrics.ngrams import Corpus, bleu, bleu_statistics, cider_d, count_ngrams
from crossflow_eval.metrics.rouge import rouge_l
from crossflow_eval.types import Example

REFERENCES = 5
VOCABULARY = 10_000
Texts = Sequence[str]
Scores = Any
"""Scores of the captions, [n] or [n 4]; of tokenising, the tokens."""


def read(path: Path, images: int) -> Sequence[Texts]:
    """The first five captions of each image of a COCO captions file."""
    captions: defaultdict[int, list[str]] = defaultdict(list)
    for annotation in json.loads(path.read_text())["annotations"]:
        captions[annotation["image_id"]].append(annotation["caption"])
    return [several[:REFERENCES] for several in captions.values()][:images]


def draw(images: int, rng: np.random.Generator) -> Sequence[Texts]:
    """Five captions an image, words drawn after Zipf."""
    share = 1 / np.arange(1, VOCABULARY + 1)
    lengths = rng.poisson(10, size=(images, REFERENCES))
    words = iter(rng.choice(VOCABULARY, size=int(lengths.sum()), p=share / share.sum()).tolist())
    return [[" ".join(f"w{next(words)}" for _ in range(length)) for length in of_image] for of_image in lengths]


class Theirs:
    """pycocoevalcap's parts, called as its own evaluation calls them."""

    def __init__(self, images: Sequence[Texts]) -> None:
        self.raw_references = {k: [{"caption": text} for text in texts] for k, texts in enumerate(images)}
        self.raw_candidates = {k: [{"caption": texts[0]}] for k, texts in enumerate(images)}
        self.tokenize()

    def tokenize(self) -> Scores:
        self.references = PTBTokenizer().tokenize(self.raw_references)
        self.candidates = PTBTokenizer().tokenize(self.raw_candidates)
        return list(self.candidates.values()), list(self.references.values())

    def bleu(self) -> Scores:
        return np.array(Bleu(4).compute_score(self.references, self.candidates, verbose=0)[1]).T

    def rouge_l(self) -> Scores:
        return Rouge().compute_score(self.references, self.candidates)[1]

    def cider_d(self) -> Scores:
        return Cider().compute_score(self.references, self.candidates)[1]

    def light(self) -> Scores:
        self.tokenize()
        return np.column_stack([self.bleu(), self.rouge_l(), self.cider_d()])

    def everything(self) -> Scores:
        scores = self.light()
        return np.column_stack([scores, Meteor().compute_score(self.references, self.candidates)[1]])


class Ours:
    """The same steps by our own modules; each number by itself counts the n-grams anew."""

    def __init__(self, images: Sequence[Texts]) -> None:
        self.images = images
        self.tokenize()

    def tokenize(self) -> Scores:
        flat = [text for texts in self.images for text in texts]
        self.candidates, tokens = java.tokenize([texts[0] for texts in self.images], flat)
        self.references = [tokens[start : start + REFERENCES] for start in range(0, len(tokens), REFERENCES)]
        return [[text] for text in self.candidates], self.references

    def bleu(self) -> Scores:
        corpus = Corpus.of(self.candidates, self.references)
        return bleu(bleu_statistics(corpus, count_ngrams(corpus)))

    def rouge_l(self) -> Scores:
        return rouge_l(self.candidates, self.references)

    def cider_d(self) -> Scores:
        corpus = Corpus.of(self.candidates, self.references)
        return cider_d(corpus, count_ngrams(corpus))

    def light(self) -> Scores:
        self.tokenize()
        corpus = Corpus.of(self.candidates, self.references)
        counts = count_ngrams(corpus)
        return np.column_stack([bleu(bleu_statistics(corpus, counts)), self.rouge_l(), cider_d(corpus, counts)])

    def everything(self) -> Scores:
        metric = CaptionScores()
        examples = [Example(id=str(k), source="", target=list(texts)) for k, texts in enumerate(self.images)]
        metric.update(examples, [texts[0] for texts in self.images])
        metric.compute()
        return np.array([[row[name] for name in metric.higher_is_better] for row in metric.rows()])


STEPS = {
    "tokenize": "PTB tokens",
    "bleu": "BLEU-1 to 4",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "light": "all but METEOR",
    "everything": "all, ours with intervals",
}
WHOLE = "everything"


def timed(function: Callable[[], Scores]) -> tuple[Scores, float, float]:
    """What the function gives, its CPU seconds with those of the programs that it started, and its wall seconds."""
    before, start = os.times(), time.perf_counter()
    found = function()
    after, wall = os.times(), time.perf_counter() - start
    return found, sum(after[:4]) - sum(before[:4]), wall


def measure(images: Sequence[Texts], rounds: int, whole: int) -> list[str]:
    """The table's lines: seconds of both sides, their ratio, the largest difference of any caption's score.

    Sides take turns; the last two lines are medians of ``whole`` rounds, the last one on the clock.
    """
    sides = {"theirs": Theirs(images), "ours": Ours(images)}
    lines: list[str] = []
    Paraphrases.of(java.find_jar("meteor/data/paraphrase-en.gz"))
    for step, label in STEPS.items():
        spent: Mapping[str, list[tuple[float, float]]] = {name: [] for name in sides}
        found: dict[str, Scores] = {}
        for _ in range(whole if step == WHOLE else rounds):
            for name, side in sides.items():
                found[name], cpu, wall = timed(getattr(side, step))
                spent[name].append((cpu, wall))
        theirs, ours = (np.median(each, axis=0).tolist() for each in spent.values())
        if step == "tokenize":
            difference = "none" if found["theirs"] == found["ours"] else "tokens differ"
        else:
            difference = f"{abs(found['theirs'] - found['ours']).max():.1e}"
        for number, said in enumerate((label, f"{label}, on the clock")[: 2 if step == WHOLE else 1]):
            ratio = theirs[number] / ours[number]
            lines.append(f"| {said} | {theirs[number]:.2f} | {ours[number]:.2f} | {ratio:.1f} | {difference} |")
    return lines


def report(lines: list[str], command: str, images: int, source: str) -> str:
    """The Markdown page."""
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024**2
    versions = (
        f"Python {platform.python_version()}, numpy {np.__version__}, pycocoevalcap {metadata.version('pycocoevalcap')}"
    )
    return "\n".join(
        (
            "# Caption scores",
            "",
            f"`{command}`; {hardware()}; {versions}. {images:,} images of {source}, {REFERENCES} references each.",
            "CPU seconds of Python and Java together, in the last row seconds on the clock; medians, the sides taking",
            f"turns; load average {os.getloadavg()[1]:.1f} when they ended. The last three rows start from the",
            "captions, the others from tokens. The last two have METEOR, which ours runs beside the rest, on every",
            "core, and on those paraphrases alone that can match; their index, made once a machine, was there. The",
            f"difference is the largest of any caption's score. A Java program took up to {memory:.1f} GB.",
            "",
            "| step | pycocoevalcap | ours | ratio | difference |",
            "|---|---:|---:|---:|---:|",
            *lines,
            "",
        )
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=Path, help="COCO's captions_val2017.json")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", type=int, default=3, help="rounds of the rows with METEOR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/captions.md"))
    args = parser.parse_args()
    if args.captions is None:
        images, source, command = draw(args.images, np.random.default_rng(args.seed)), "drawn captions", ""
    else:
        images, source = read(args.captions, args.images), "COCO"
        command = f" --captions {args.captions.name}"
    with threadpool_limits(1):
        lines = measure(images, args.rounds, args.whole)
    settings = " ".join(f"--{name} {getattr(args, name)}" for name in ("images", "rounds", "whole", "seed"))
    command = f"python -m benchmarks.captions{command} {settings}"
    page = report(lines, command, len(images), source)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
