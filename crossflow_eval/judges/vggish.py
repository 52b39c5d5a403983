"""VGGish (S. Hershey et al., 2017) as AudioLDM's evaluation has it for FAD: torchvggish's, before the last ReLU.

Every 0.96 s of a sound, without overlap, is one log-mel spectrogram [96 64] and gives one embedding; what is left over
at the end is dropped. There is neither PCA nor rounding to 8 bits. Spectrograms are computed in float64.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossflow.errors import CrossFlowError
from crossflow.files.pretrained import load_tensors
from crossflow.files.recordings import Recording
from crossflow_eval.judges.audioldm import PREPARATION, RATE, prepared
from crossflow_eval.judges.local_weights import checked_sha256, find_weights, reason
from crossflow_eval.judges.precise import in_float32
from crossflow_eval.judges.weights import VGGISH

WINDOW, HOP, FFT = 400, 160, 512
"""Samples of a column of the spectrogram, between two of them, and of its Fourier transform."""
COLUMNS, BANDS = 96, 64
LOWEST, HIGHEST = 125.0, 7500.0
"""Hertz, the edges of the mel bands."""
_OFFSET = 0.01
"""Added before the logarithm."""


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log(1.0 + hertz / 700.0)


def mel_filters() -> np.ndarray:
    """The weight of each frequency in each band, float64 [257 64]: triangles on HTK's mel scale, none at 0 Hz."""
    places = _mel(np.linspace(0, RATE / 2, FFT // 2 + 1))[:, None]
    lowest, highest = _mel(np.array([LOWEST, HIGHEST])).tolist()
    edges = np.linspace(lowest, highest, BANDS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    filters = np.minimum((places - low) / (middle - low), (high - places) / (high - middle)).clip(min=0)
    filters[0] = 0
    return filters


def patches(wave: np.ndarray) -> np.ndarray:
    """The log-mel spectrograms, float32 [k 96 64], of a sound [n] at 16 kHz, k of whole 0.96 s."""
    columns = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))
    bands = abs(np.fft.rfft(columns * hann, FFT)) @ mel_filters()
    whole = len(bands) // COLUMNS
    return np.log(bands[: whole * COLUMNS] + _OFFSET).reshape(whole, COLUMNS, BANDS).astype(np.float32)


class Network(nn.Module):
    """The network under torchvggish's names, as wide as its weights are, without its last ReLU."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place in sorted(
            int(name.split(".")[1]) for name in state if name.startswith("features.") and "bias" in name
        ):
            width, channels = state[f"features.{place}.weight"].shape[:2]
            while len(layers) < place:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.MaxPool2d(2))
        shapes = [state[f"embeddings.{place}.weight"].shape for place in (0, 2, 4)]
        first, second, last = (nn.Linear(inside, outside) for outside, inside in shapes)
        self.embeddings = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
        self.load_state_dict(dict(state))

    def forward(self, x: Float[Tensor, "k 1 96 64"]) -> Float[Tensor, "k d"]:
        return self.embeddings(self.features(x).permute(0, 2, 3, 1).flatten(1))


class Vggish:
    """A sound to its embeddings, float32 [k dim]. ``fingerprint`` is what can change a number beside the weights."""

    fingerprint: Mapping[str, Any] = {
        **PREPARATION,
        "spectrogram": f"periodic Hann {WINDOW}, hop {HOP}, FFT {FFT}, magnitudes in {BANDS} HTK mel bands "
        f"from {LOWEST:g} to {HIGHEST:g} Hz, log(x + {_OFFSET}), float64",
        "embedding": f"of {COLUMNS} columns without overlap, before the last ReLU; no PCA",
        "precision": "float32",
    }

    def __init__(self, network: Network, name: str, weights_sha256: str, *, device: str = "cpu") -> None:
        self._network, self._device = network.eval().requires_grad_(False).to(device), device
        self.name, self.weights_sha256 = name, weights_sha256
        self.dim = int(network.get_parameter("embeddings.4.bias").numel())

    def __call__(self, recording: Recording) -> np.ndarray:
        """The embeddings, float32 [k dim], k at least 2."""
        x = torch.from_numpy(patches(prepared(recording)))[:, None].to(self._device)
        with in_float32():
            return self._network(x).cpu().numpy()


def load_vggish(path: Path, sha256: str = "", *, device: str = "cpu") -> Vggish:
    """Read torchvggish's file; ``sha256``: the digits it must begin with.

    Raises CrossFlowError for another sha256, no such file, and another network.
    """
    digest = checked_sha256(path, sha256)
    try:
        return Vggish(Network(load_tensors(path)), path.stem, digest, device=device)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CrossFlowError(f"{path} is not torchvggish's VGGish: {reason(error)}.") from error


def published_vggish(*, device: str = "cpu") -> Vggish:
    """The published one, from the folder of evaluator weights. Raises CrossFlowError where it is not there."""
    return load_vggish(find_weights(VGGISH), VGGISH.sha256, device=device)
