"""I3D of Kinetics-400 as FVD is published on it: StyleGAN-V's TorchScript program (I. Skorokhodov et al., 2022).

A TorchScript file is a program, and this one is run only where its sha256 is the published one. It resizes films to
224 x 224 itself and gives the 400 logits; it sees 16 frames.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import of_distinct
from crossflow_eval.judges.local_weights import checked_sha256, find_weights, reason
from crossflow_eval.judges.precise import in_float32
from crossflow_eval.judges.weights import I3D

FRAMES = 16
"""Of each film, from the first on."""


class I3d:
    """A ``FeatureExtractor`` of films, uint8 [frames h w 3], of 16 frames or more. Each passes alone.

    ``fingerprint`` is what can change a number beside the weights.
    """

    fingerprint: Mapping[str, Any] = {
        "frames": f"the first {FRAMES}",
        "resize": "the central square, then by the program to 224 x 224",
        "features": "logits",
        "precision": "float32",
    }

    def __init__(self, program: Any, name: str, weights_sha256: str, dim: int, *, device: str = "cpu") -> None:
        self._program, self._device = program.eval().to(device), device
        self.name, self.weights_sha256, self.dim = name, weights_sha256, dim

    def __call__(self, films: Sequence[np.ndarray]) -> np.ndarray:
        """Float32 [n dim] of n films. Raises CrossFlowError for one of fewer than 16 frames."""
        if short := [len(film) for film in films if len(film) < FRAMES]:
            raise CrossFlowError(f"I3D is asked for {FRAMES} frames and a film has {short[0]}; make longer ones.")
        return of_distinct(self._forward, films, 1)

    def _forward(self, films: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        film = films[0][:FRAMES]
        height, width = film.shape[1:3]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = np.ascontiguousarray(film[:, top : top + side, left : left + side].transpose(3, 0, 1, 2))
        with in_float32():
            x = torch.from_numpy(square)[None].float().to(self._device)
            return self._program(x, rescale=True, resize=True, return_features=True).cpu().numpy()


def load_i3d(path: Path, sha256: str = I3D.sha256, dim: int = 400, *, device: str = "cpu") -> I3d:
    """Run the program in ``path``, whose sha256 must be the published one. Raises CrossFlowError for any other file."""
    import torch

    digest = checked_sha256(path, sha256)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the published file will stay what it is
            program = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise CrossFlowError(f"{path} is no TorchScript program: {reason(error)}.") from error
    return I3d(program, path.stem, digest, dim, device=device)


def published_i3d(*, device: str = "cpu") -> I3d:
    """The published one, from the folder of evaluator weights. Raises CrossFlowError where it is not there."""
    return load_i3d(find_weights(I3D), device=device)
