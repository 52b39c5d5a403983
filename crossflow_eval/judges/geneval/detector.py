"""GenEval's detector: from pixels to detections exactly as mmdet 2 does it, on transformers' Mask2Former.

An image is scaled to fit 1333 x 800 (OpenCV's bilinear, no antialiasing), padded to multiples of 32 with grey 128 and
normalised after that. Each of the 100 best (query, class) pairs becomes a detection: its mask is the query's logits,
scaled to the image, above zero; its score the class probability times the mean sigmoid inside the mask; its box the
mask's extent, right and bottom exclusive. Transformers' own processor and post-processing do each of these otherwise.

Source: mmdetection 2.x, ``configs/mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py`` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.geneval.checkpoint import load_mask2former
from crossflow_eval.judges.geneval.detection import Box, Detection
from crossflow_eval.judges.local_weights import checked_sha256
from crossflow_eval.judges.precise import in_float32

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FIT = (1333, 800)
"""The longer and the shorter side, in pixels, that an image is scaled to fit."""
STRIDE, GREY = 32, 128
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of red, green and blue, on the scale 0-255."""
DETECTIONS = 100


def object_names() -> tuple[str, ...]:
    """GenEval's names of the 80 classes of COCO, in the detector's order."""
    return tuple((files("crossflow_eval.judges.geneval") / "object_names.txt").read_text("utf-8").splitlines())


class Detector:
    """A Mask2Former with mmdet 2's weights, in float32. ``weights_sha256`` is of the whole file it came from."""

    def __init__(self, model: Module, weights_sha256: str, device: str = "cpu") -> None:
        self._model, self._device = model.to(device), device
        self._names = object_names()
        self.weights_sha256 = weights_sha256
        self.protocol: Mapping[str, Any] = {
            "model": "Mask2Former",
            "weights_sha256": weights_sha256,
            "fit": list(FIT),
            "resize": "OpenCV bilinear",
            "padding": f"to {STRIDE} with {GREY}, before normalisation",
            "detections": DETECTIONS,
            "precision": "float32",
        }

    @classmethod
    def from_checkpoint(cls, path: Path, sha256: str = "", device: str = "cpu") -> Detector:
        """Read mmdet 2's checkpoint. ``sha256`` holds the digits the file must begin with, "743b7d99" for GenEval's.

        Raises CrossFlowError for another sha256, other classes, and what :func:`load_mask2former` refuses.
        """
        digest = checked_sha256(path, sha256)
        model = load_mask2former(path)
        known, expected = model.config.num_labels, len(object_names())
        if known != expected:
            raise CrossFlowError(f"{path} knows {known} classes; GenEval's detector knows the {expected} of COCO.")
        return cls(model, digest, device)

    def __call__(self, image: np.ndarray, fit: tuple[int, int] = FIT) -> list[Detection]:
        """Detect the objects of an image, uint8 RGB [h w 3]; the most certain first, with their masks.

        ``fit`` is the longer and the shorter side to scale to. Raises CrossFlowError for an array of another kind, and
        for an image so narrow that scaling leaves nothing of it.
        """
        import torch

        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise CrossFlowError(f"The detector needs images, uint8 [h w 3], got {image.dtype} {list(image.shape)}.")
        pixels, seen = prepare(image, fit)
        with in_float32():
            found = self._model(torch.from_numpy(pixels)[None].to(self._device))
            probabilities = found.class_queries_logits[0].softmax(-1)[:, :-1].flatten()
            best = probabilities.topk(min(DETECTIONS, len(probabilities)))
            places = [divmod(place, len(self._names)) for place in best.indices.tolist()]
            masks = {
                query: _mask(found.masks_queries_logits[0, query], pixels.shape[1:], seen, image.shape[:2])
                for query in {query for query, _ in places}
            }
        detections = [
            Detection(label=self._names[label], score=probability * masks[query][1], box=extent(masks[query][0]),
                      mask=masks[query][0])
            for probability, (query, label) in zip(best.values.tolist(), places, strict=True)
        ]  # fmt: skip
        return sorted(detections, key=lambda detection: -detection.score)


def prepare(image: np.ndarray, fit: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The network's input, float32 [3 H W], and the height and width of the image in it, from the upper left."""
    import cv2

    height, width = image.shape[:2]
    scale = min(max(fit) / max(height, width), min(fit) / min(height, width))
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    if not min(size):
        raise CrossFlowError(
            f"GenEval's detector cannot take an image of {width} x {height} pixels: scaled to {max(fit)} x {min(fit)} "
            "nothing is left of its shorter side; generate it again."
        )
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    margins = ((0, -size[1] % STRIDE), (0, -size[0] % STRIDE), (0, 0))
    padded = np.pad(scaled, margins, constant_values=GREY)
    pixels = (padded - np.array(MEAN)) / np.array(DEVIATION)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32), (size[1], size[0])


def _mask(
    logits: Tensor, padded: tuple[int, ...], seen: tuple[int, int], shape: tuple[int, ...]
) -> tuple[np.ndarray, float]:
    """A query's mask, bool [h w], and its mean sigmoid inside; ``logits`` are of a quarter of the ``padded`` size."""
    from torch.nn.functional import interpolate

    whole = interpolate(logits[None, None], size=padded, mode="bilinear", align_corners=False)
    part = whole[:, :, : seen[0], : seen[1]]
    scaled = interpolate(part, size=shape, mode="bilinear", align_corners=False)[0, 0]
    inside = scaled > 0
    certainty = (scaled.sigmoid() * inside).sum() / (inside.sum() + 1e-6)
    return inside.cpu().numpy(), float(certainty)


def extent(mask: np.ndarray) -> Box:
    """The extent of a mask, right and bottom exclusive; zeros for an empty one."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    if not len(columns):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
