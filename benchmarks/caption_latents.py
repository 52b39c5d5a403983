"""How many latent dimensions a caption needs: ``python -m benchmarks.caption_latents CAPTIONS.json``.

The text autoencoder of ``paper-caption-small``, cut down to what two cores can train, learns the captions of a COCO
captions file but for those of 1,000 images. Of one caption of each of these it is counted how many tokens come back, of
those that training contains; a token that it does not contain cannot, and their share is told. The readout is flat, so
the number of dimensions alone matters, not how they are laid out. Written to results/benchmarks/caption_latents.md,
anew after each number of dimensions. What is chosen is chosen with ``--validate``: on 1,000 other images, which are
then held out of training too, and with nothing written.
"""

import argparse
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from jaxtyping import Int
from torch import Tensor

from crossflow.files.captions import read_captions
from crossflow.modalities.clip_text import CLIPTextConfig, clip_tokens
from crossflow.modalities.text_autoencoder import PAD, TextAutoencoder
from crossflow.recipes import CONFIGS
from crossflow.training.optimizer import Optimizer
from crossflow_eval.environment import hardware

RECIPE = CONFIGS["paper-caption-small"]
HELD, RATE, RISE = 1_000, 1e-2, 50
GOAL = 0.98


class Split(NamedTuple):
    """Captions to train on, one caption of every image that is held out, and the former's tokens in CLIP's numbers."""

    train: list[str]
    held: list[str]
    known: tuple[int, ...]


class Kept(NamedTuple):
    """Shares: of the tokens that come back, of those that training contains; and of captions without a fault."""

    tokens: float
    captions: float


def split(path: Path, seed: int, validate: bool = False) -> Split:
    """The images of a captions file, shuffled; to ``validate``, others in the place of those that are held out."""
    captions: dict[str, list[str]] = {}
    for image, caption in read_captions(path):
        captions.setdefault(image, []).append(caption)
    images = sorted(captions)
    random.Random(seed).shuffle(images)
    first = HELD if validate else 0
    train = [caption for image in images[first + HELD :] for caption in captions[image]]
    known = sorted({token for caption in train for token in clip_tokens(caption)})
    return Split(train, [captions[image][0] for image in images[first : first + HELD]], tuple(known))


def learned(dimensions: int, data: Split, args: argparse.Namespace) -> TextAutoencoder:
    """An autoencoder with latents of so many dimensions, trained by its own loss alone."""
    torch.manual_seed(args.seed)
    target = cast(CLIPTextConfig, RECIPE.model.target)
    config = replace(target, width=args.width, depth=1, heads=4, known=data.known, varied=args.varied)
    model = config.build((dimensions // 256, 16, 16))
    words = model.tokenize(data.train)
    optimizer = Optimizer("muon", model, (0.9, 0.95), 0.0)
    for step in range(args.steps):
        picks = torch.randint(len(words), (args.batch,))
        model.reach(words[picks], torch.randn(args.batch, *model.encoder.shape)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(RATE * min(1.0, (step + 1) / RISE) * max(0.02, 1 - step / args.steps))
    return model.eval()


@torch.no_grad()
def kept(model: TextAutoencoder, captions: list[str]) -> Kept:
    """What is read of the latents' means."""
    words: Int[Tensor, "b n"] = model.tokenize(captions)
    found = torch.cat([model.decoder(model.encode(part).mean).argmax(-1) for part in words.split(100)])
    learnable = (words != PAD) & (words != model.config.vocabulary.size)
    right = found == words
    return Kept(right[learnable].double().mean().item(), (right | (words == PAD)).all(1).double().mean().item())


def page(lines: list[str], args: argparse.Namespace, data: Split, unseen: float) -> str:
    """The Markdown page."""
    return "\n".join(
        (
            "# How many latent dimensions a caption needs",
            "",
            f"`python -m benchmarks.caption_latents CAPTIONS --steps {args.steps} --batch {args.batch}` on COCO's",
            f"`{args.captions.name}`: {args.steps:,} steps of {args.batch} on {len(data.train):,} captions, then",
            f"read on one caption of each of {HELD:,} other images, from the posterior's mean. {hardware()},",
            f"one thread. The autoencoder of `paper-caption-small` with one block of width {args.width}, without the",
            f"flow, over the {len(data.known):,} of CLIP's tokens that training contains. A share of {args.varied} of",
            "the captions and of their tokens was varied in training (`vary` in `modalities/text_autoencoder.py`),",
            "which was chosen by `--validate`, on captions of 1,000 images that had no part in training.",
            "",
            "| dimensions | tokens right, % | captions right, % | CPU seconds |",
            "|---:|---:|---:|---:|",
            *lines,
            "",
            f"Tokens are those that training contains; {100 * unseen:.2f} % of those held out it does not. A token is",
            f"right in its place; the goal is {100 * GOAL:.0f} %. `paper-caption` has 512 dimensions, as 2 x 16 x 16.",
            "",
        )
    )


def main() -> None:
    """Train, measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[512])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--varied", type=float, default=cast(CLIPTextConfig, RECIPE.model.target).varied)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/caption_latents.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = split(args.captions, args.seed, args.validate)
    known = set(data.known)
    tokens = [token for caption in data.held for token in clip_tokens(caption)]
    unseen = sum(token not in known for token in tokens) / len(tokens)
    lines: list[str] = []
    for dimensions in args.dimensions:
        start = time.process_time()
        found = kept(learned(dimensions, data, args), data.held)
        cells = (str(dimensions), f"{100 * found.tokens:.2f}", f"{100 * found.captions:.1f}")
        lines.append(f"| {' | '.join(cells)} | {time.process_time() - start:.0f} |")
        if not args.validate:
            args.out.write_text(page(lines, args, data, unseen), encoding="utf-8")
        sys.stderr.write(f"{lines[-1]}\n")
    sys.stdout.write(page(lines, args, data, unseen))


if __name__ == "__main__":
    main()
