"""The colour of a detected object, by GenEval's zero-shot classifier on OpenAI's CLIP.

The object is cut out: what is not in its mask becomes the grey #999, and the image is cropped to its box. The answer is
the colour whose text has the highest cosine; a colour's text is the mean of three sentences' unit embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossflow_eval.judges.geneval.detection import COLOR_ORDER, Detection

if TYPE_CHECKING:
    from crossflow_eval.judges.clip import Clip

BACKGROUND = 0x99
"""The grey level around an object, 0-255."""
TEMPLATES = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")


class ColorClassifier:
    """Names the colours of objects by a CLIP of OpenAI's, in float32; GenEval's own is ViT-L/14 in half precision."""

    def __init__(self, clip: Clip) -> None:
        self._clip, self._embed_images = clip, clip.images("openai")
        self._texts: dict[str, np.ndarray] = {}
        self.protocol: Mapping[str, Any] = {
            "model": clip.name,
            "weights_sha256": clip.weights_sha256,
            "activation": "QuickGELU",
            "image": self._embed_images.fingerprint["resize"],
            "background": f"grey {BACKGROUND}",
            "templates": list(TEMPLATES),
            "colors": list(COLOR_ORDER),
            "precision": "float32",
        }

    @classmethod
    def from_weights(cls, path: Path, sha256: str = "", device: str = "cpu") -> ColorClassifier:
        """Read the weights of a CLIP; ``sha256`` holds the digits its file must begin with. Raises CrossFlowError."""
        from crossflow_eval.judges.clip import load_clip

        return cls(load_clip(path, sha256, device=device))

    def __call__(self, image: np.ndarray, detections: Sequence[Detection], label: str) -> list[str]:
        """Name the colour of each of the ``detections``, all of the class ``label``, in an image, uint8 RGB [h w 3]."""
        features = self._embed_images([cut_out(image, detection) for detection in detections])
        nearest = (features @ self._colors(label).T).argmax(axis=1)
        return [COLOR_ORDER[index] for index in nearest]

    def _colors(self, label: str) -> np.ndarray:
        """The texts of the colours of a class, of unit length, float32 [colours dim]."""
        if label not in self._texts:
            texts = [template.format(color=color, label=label) for color in COLOR_ORDER for template in TEMPLATES]
            units = _unit(self._clip.embed_texts(texts))
            self._texts[label] = _unit(units.reshape(len(COLOR_ORDER), len(TEMPLATES), -1).mean(axis=1))
        return self._texts[label]


def cut_out(image: np.ndarray, detection: Detection) -> np.ndarray:
    """The detection's box out of an image, uint8 [h w 3], grey outside of its mask. It must have a mask."""
    if detection.mask is None:
        raise ValueError("a detection without a mask cannot be cut out")
    left, top, right, bottom = map(round, detection.box)
    return np.where(detection.mask[..., None], image, np.uint8(BACKGROUND))[top:bottom, left:right]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
