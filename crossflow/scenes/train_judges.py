"""Train the judges on the split ``train``: ``python -m crossflow.scenes.train_judges features|clip|report``.

Run ``features`` first, since ``clip`` uses it, then ``clip``, then ``report``. One CPU thread, about five minutes for
``features`` and four for ``clip``; the same seed on the same machine gives the same weights. The accuracies in the
headers and in results/scenes/judges.md are measured on ``test``.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.scenes.caption import captions as describe
from crossflow.scenes.caption import specification
from crossflow.scenes.judge_quality import COUNT, clip_quality, feature_quality, write_report
from crossflow.scenes.judges import (
    WEIGHTS,
    ClipConfig,
    ClipNet,
    FeatureConfig,
    FeatureNet,
    load_clip,
    load_features,
    save_judge,
    split_words,
    to_input,
)
from crossflow.scenes.render import render
from crossflow.scenes.spec import CELLS, COLORS, SHAPES, Object
from crossflow.scenes.splits import SceneExample, example
from crossflow.scenes.truth import claims, facts, holds

TRAIN = 24_000
BATCH = 128
TEMPERATURE = 0.07


def cells(item: SceneExample) -> Int[np.ndarray, "2 cells"]:
    """For each cell of ``item``: its shape (0 for none, else 1 + index) and the index of its colour (-1 for none)."""
    table = np.stack([np.zeros(CELLS * CELLS, dtype=np.int64), np.full(CELLS * CELLS, -1, dtype=np.int64)])
    for each in item.scene.objects:
        cell = int(each.y * CELLS) * CELLS + int(each.x * CELLS)
        table[:, cell] = 1 + SHAPES.index(each.shape), list(COLORS).index(each.color)
    return table


def train_features(examples: Sequence[SceneExample], steps: int, seed: int) -> FeatureNet:
    """Train the feature CNN on the shape and colour of every cell and on night, with mirrored and noisy images."""
    torch.manual_seed(seed)
    net = FeatureNet(FeatureConfig())
    images = to_input([render(item.scene) for item in examples])
    targets = torch.from_numpy(np.stack([cells(item) for item in examples]))
    mirrored = targets.unflatten(2, (CELLS, CELLS)).flip(3).flatten(2)
    night = torch.tensor([float(item.scene.night) for item in examples])
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    net.train()
    for step in range(steps):
        chosen = torch.randint(len(images), (BATCH,))
        batch, target = images[chosen], targets[chosen]
        flip = torch.rand(BATCH) < 0.5
        batch = torch.where(flip[:, None, None, None], batch.flip(3), batch)
        target = torch.where(flip[:, None, None], mirrored[chosen], target)
        batch = batch + torch.randn_like(batch) * torch.rand(BATCH, 1, 1, 1) * 0.08
        shapes, colors, dark = net.attributes(net(batch))
        loss = (
            F.cross_entropy(shapes.flatten(0, 1), target[:, 0].flatten())
            + F.cross_entropy(colors.flatten(0, 1), target[:, 1].flatten(), ignore_index=-1)
            + 0.1 * F.binary_cross_entropy_with_logits(dark, night[chosen])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            sys.stderr.write(f"features step {step}/{steps} loss {loss.item():.4f}\n")
    return net.eval()


def foil(item: SceneExample, rng: np.random.Generator) -> SceneExample:
    """A hard negative: ``item`` with the colours of two objects swapped, or one shape or colour resampled.

    Without hard negatives a dual encoder learns which words occur, but not which belong together.
    """
    objects = list(item.scene.objects)
    i = int(rng.integers(len(objects)))
    if len(objects) > 1 and rng.random() < 0.5:
        j = (i + 1) % len(objects)
        objects[i], objects[j] = _painted(objects[i], objects[j].color), _painted(objects[j], objects[i].color)
    elif rng.random() < 0.5:
        objects[i] = _painted(objects[i], str(rng.choice(list(COLORS))))
    else:
        objects[i] = replace(objects[i], shape=str(rng.choice(SHAPES)))
    relation = next((c["position"][0] for c in item.specification["include"] if "position" in c), "")
    task = item.task if item.task != "counting" or len({each.shape for each in objects}) == 1 else "two_object"
    spec = specification(task, [(each.shape, each.color) for each in objects], relation)
    scene = replace(item.scene, objects=tuple(objects))
    texts = describe(scene, spec["prompt"], rng)
    return replace(item, scene=scene, task=task, specification=spec, prompt=spec["prompt"], captions=texts)


def _painted(item: Object, color: str) -> Object:
    return replace(item, color=color)


def train_clip(examples: Sequence[SceneExample], steps: int, seed: int) -> ClipNet:
    """Train the dual encoder: a caption's probability mass belongs on the images that it is true of, and vice versa."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vocabulary = sorted({word for item in examples for caption in item.captions for word in split_words(caption)})
    trunk = load_features()
    net = ClipNet(ClipConfig(vocabulary=tuple(vocabulary), features=trunk.net.config))
    net.features.load_state_dict(trunk.net.state_dict())
    net.features.requires_grad_(False)
    groups = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    features = torch.from_numpy(np.concatenate([trunk([render(item.scene) for item in group]) for group in groups]))
    known = np.stack([facts(item.scene) for item in examples])
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.1)
    net.train()
    net.features.eval()
    for step in range(steps):
        chosen = rng.integers(len(examples), size=BATCH)
        items = [examples[i] for i in chosen]
        items += [foil(item, rng) for item in items]
        picks = rng.integers(5, size=len(items))
        texts = [item.captions[k] for item, k in zip(items, picks, strict=True)]
        needed, forbidden = (np.stack([c[k] for c, k in zip(side, picks, strict=True)]) for side in _claims(items))
        true = torch.from_numpy(holds(known[chosen], needed, forbidden))
        logits = net.image_side(features[chosen]) @ net.text_side(net.tokens(texts)).T / TEMPERATURE
        loss = matching_loss(logits, true)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            sys.stderr.write(f"clip step {step}/{steps} loss {loss.item():.4f}\n")
    return net.eval()


def _claims(items: Sequence[SceneExample]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    pairs = [claims(item) for item in items]
    return [needed for needed, _ in pairs], [forbidden for _, forbidden in pairs]


def matching_loss(logits: Float[Tensor, "images texts"], true: Tensor) -> Float[Tensor, ""]:
    """Negative log-probability of the true matches, for each image over texts and for each text over images.

    A text that is true of no image of the batch (a foil) has no term of its own, but is a negative for every image.
    """
    among = logits.masked_fill(~true, -torch.inf)
    by_image = logits.logsumexp(1) - among.logsumexp(1)
    answered = true.any(dim=0)
    by_text = logits.logsumexp(0)[answered] - among[:, answered].logsumexp(0)
    return (by_image.mean() + by_text.mean()) / 2


def main(argv: Sequence[str] | None = None) -> None:
    """Train one judge and write it with its measured accuracy, or write the report on both."""
    parser = argparse.ArgumentParser(prog="python -m crossflow.scenes.train_judges", description=__doc__)
    parser.add_argument("judge", choices=["features", "clip", "report"])
    parser.add_argument("--steps", type=int, help="default 1600 for features, 1500 for clip")
    parser.add_argument("--examples", type=int, default=TRAIN)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measured", type=int, default=COUNT, help="real renders to measure the quality on")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.judge == "report":
        write_report(load_features(), load_clip(), Path("results/scenes/judges.md"))
        return
    steps = args.steps or {"features": 1600, "clip": 1500}[args.judge]
    start = time.process_time()
    examples = [example("train", i) for i in range(args.examples)]
    net = {"features": train_features, "clip": train_clip}[args.judge](examples, steps, args.seed)
    notes = {
        "command": f"python -m crossflow.scenes.train_judges {args.judge} --steps {steps} "
        f"--examples {args.examples} --seed {args.seed}",
        "cpu_seconds": str(round(time.process_time() - start)),
    }
    path = args.out / f"scenes-{args.judge}.safetensors"
    save_judge(path, net, notes)
    if args.judge == "features":
        quality = feature_quality(load_features(path), count=args.measured)
    else:
        quality = clip_quality(load_clip(path), count=args.measured)
    save_judge(path, net, notes | {"quality": json.dumps(quality)})
    sys.stdout.write(json.dumps(notes | quality, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except CrossFlowError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
