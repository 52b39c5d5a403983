"""What FD-EfficientNet answers to blur, noise, fewer pixels and JPEG: ``python -m benchmarks.fd_efficientnet``.

Writes results/benchmarks/fd_efficientnet.md. Photographs that come with scikit-image are cut into squares of 128
pixels; every second square, spoilt to a degree, is measured against the others as they are. The distance should grow
with every degree; the page says whether it does.
"""

from __future__ import annotations

import argparse
import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageFilter

from benchmarks.plain import machine
from crossflow_eval.judges.efficientnet import DIM, EfficientNetFeatures
from crossflow_eval.judges.features import extract
from crossflow_eval.metrics.distribution import kid
from crossflow_eval.metrics.frechet import Moments, frechet_distance

SIDE, STEP = 128, 64
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
"""Those of scikit-image that lie in its package, and need no download."""


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def noisy(image: Image.Image, deviation: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    noise = np.random.default_rng(zlib.crc32(image.tobytes())).normal(0, deviation, pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def smaller(image: Image.Image, factor: float) -> Image.Image:
    side = round(SIDE / factor)
    small = image.resize((side, side), Image.Resampling.BICUBIC)
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image, loss: float) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=round(100 - loss))
    return Image.open(stream).convert("RGB")


SPOILT: dict[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, ...]]] = {
    "Gaussian blur, radius in pixels": (blurred, (0.5, 1, 2, 4)),
    "Gaussian noise, deviation of 255": (noisy, (4, 8, 16, 32)),
    "shrunk by a factor and enlarged again, bicubic": (smaller, (1.5, 2, 4, 8)),
    "JPEG, 100 less its quality": (as_jpeg, (10, 30, 60, 90)),
}


def squares() -> list[Image.Image]:
    """The squares of all photographs, row by row."""
    found: list[Image.Image] = []
    for name in PHOTOGRAPHS:
        photograph = np.asarray(getattr(skimage.data, name)())[..., :3]
        height, width = photograph.shape[:2]
        for top in range(0, height - SIDE + 1, STEP):
            for left in range(0, width - SIDE + 1, STEP):
                found.append(Image.fromarray(np.ascontiguousarray(photograph[top : top + SIDE, left : left + SIDE])))
    return found


def main(out: Path, most: int | None) -> str:
    """Measure, write the page to ``out`` and return it; ``most`` squares, all where None."""
    import torch

    images = squares()[:most]
    judge = EfficientNetFeatures()
    references, own = images[1::2], images[::2]

    def features(pictures: list[Image.Image]) -> np.ndarray:
        return extract(judge, [np.asarray(picture) for picture in pictures])

    reference = features(references)
    target = Moments.of_features(reference)
    size = min(len(own), len(references), 1000)

    def measured(pictures: list[Image.Image]) -> tuple[float, float]:
        found = features(pictures)
        return frechet_distance(Moments.of_features(found), target), float(kid(found, reference, size=size).mean())

    clean = measured(own)
    lines = [
        "# What FD-EfficientNet answers to spoilt images",
        "",
        f"{len(own)} squares of {SIDE} pixels against {len(references)} others of the same {len(PHOTOGRAPHS)} "
        f"photographs, features of {DIM} dimensions: the covariances are singular and distances biased alike in every "
        "row. Neither number is a published one.",
        "",
        "| spoilt by | degree | FD-EfficientNet | kernel distance |",
        "| :--- | ---: | ---: | ---: |",
        f"| nothing | | {clean[0]:.2f} | {clean[1]:.4f} |",
    ]
    grows = True
    for name, (spoil, degrees) in SPOILT.items():
        before = clean[0]
        for degree in degrees:
            distance, kernel = measured([spoil(image, degree) for image in own])
            grows, before = grows and distance > before, distance
            lines.append(f"| {name} | {degree:g} | {distance:.2f} | {kernel:.4f} |")
    lines += [
        "",
        "FD-EfficientNet grows with every degree." if grows else "FD-EfficientNet does not grow with every degree.",
        "",
        f"`python -m benchmarks.fd_efficientnet`; {machine(torch.device('cpu'))}.",
        "",
    ]
    page = "\n".join(lines)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/fd_efficientnet.md"))
    parser.add_argument("--most", type=int, default=None, help="only so many squares")
    given = parser.parse_args()
    print(main(given.out, given.most))
