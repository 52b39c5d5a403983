"""CNN14 of PANNs at 16 kHz (Q. Kong et al., 2020), the network of FD, IS and KL in AudioLDM's evaluation.

A log-mel spectrogram of 64 bands, six blocks of two convolutions, the sum of mean and maximum over time, a hidden layer
of 2,048 numbers, 527 classes of AudioSet. Spectrogram and mel filters are weights of the file, and those are used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.files.pretrained import unpickled
from crossflow.files.recordings import Recording
from crossflow_eval.judges.audioldm import PREPARATION, prepared
from crossflow_eval.judges.features import of_distinct
from crossflow_eval.judges.local_weights import checked_sha256, find_weights, reason
from crossflow_eval.judges.precise import in_float32
from crossflow_eval.judges.weights import PANNS

HOP = 160
"""Samples between two columns of the spectrogram."""
_QUIETEST = 1e-10
_POOLED = 5
"""How many blocks halve time and frequency; the last does not."""


class Cnn14(nn.Module):
    """The network under the published names, as wide as its weights are."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.spectrogram_extractor = nn.ModuleDict({"stft": nn.Module()})
        self.logmel_extractor = nn.Module()
        for part in ("conv_real", "conv_imag"):
            key = f"spectrogram_extractor.stft.{part}.weight"
            module = nn.Module()
            module.register_buffer("weight", torch.empty_like(state[key]))
            self.spectrogram_extractor["stft"].add_module(part, module)
        self.logmel_extractor.register_buffer("melW", torch.empty_like(state["logmel_extractor.melW"]))
        self.bn0 = nn.BatchNorm2d(len(state["bn0.weight"]))
        self.blocks = len({name.partition(".")[0] for name in state if name.startswith("conv_block")})
        for number in range(1, self.blocks + 1):
            self.add_module(f"conv_block{number}", _Block(state[f"conv_block{number}.conv1.weight"].shape))
        classes, hidden = state["fc_audioset.weight"].shape
        self.fc1 = nn.Linear(state["fc1.weight"].shape[1], hidden)
        self.fc_audioset = nn.Linear(hidden, classes)
        self.load_state_dict(dict(state))

    def forward(self, wave: Float[Tensor, "b n"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b k"]]:
        """The hidden layer after its ReLU, and the classes' logits."""
        x = self.bn0(self.loudness(wave).transpose(1, 3)).transpose(1, 3)
        for number in range(1, self.blocks + 1):
            x = self.get_submodule(f"conv_block{number}")(x)
            x = F.avg_pool2d(x, 2) if number <= _POOLED else x
        x = x.mean(dim=3)
        hidden = F.relu(self.fc1(x.amax(dim=2) + x.mean(dim=2)))
        return hidden, self.fc_audioset(hidden)

    def loudness(self, wave: Float[Tensor, "b n"]) -> Float[Tensor, "b 1 t m"]:
        """The power of each mel band in decibels; the sound is mirrored at its ends."""
        stft = self.spectrogram_extractor["stft"]
        real, imaginary = (stft.get_submodule(part).get_buffer("weight") for part in ("conv_real", "conv_imag"))
        x = F.pad(wave[:, None], (real.shape[-1] // 2,) * 2, mode="reflect")
        power = F.conv1d(x, real, stride=HOP) ** 2 + F.conv1d(x, imaginary, stride=HOP) ** 2
        bands = power.transpose(1, 2) @ self.logmel_extractor.get_buffer("melW")
        return 10 * torch.log10(bands.clamp(min=_QUIETEST))[:, None]


class _Block(nn.Module):
    """Two 3 x 3 convolutions, each with batch norm and ReLU; ``shape`` is that of the first one's weights."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape[1], shape[0], 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(shape[0], shape[0], 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(shape[0]), nn.BatchNorm2d(shape[0])

    def forward(self, x: Float[Tensor, "b c t m"]) -> Float[Tensor, "b d t m"]:
        return F.relu_(self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x))))))


class Panns:
    """A ``FeatureExtractor`` of recordings: the hidden layer and the logits side by side; :meth:`split` parts them.

    Each sound passes alone, as it is long. ``fingerprint`` is what can change a number beside the weights.
    """

    fingerprint: Mapping[str, Any] = {
        **PREPARATION,
        "spectrogram": f"window 512, hop {HOP}, 64 mel bands from 50 to 8000 Hz, of the weights' file",
        "precision": "float32",
    }

    def __init__(self, network: Cnn14, weights_sha256: str, *, device: str = "cpu") -> None:
        self._network, self._device = network.eval().requires_grad_(False).to(device), device
        self.name, self.weights_sha256 = "panns-cnn14-16k", weights_sha256
        self.hidden = network.fc_audioset.in_features
        self.dim = self.hidden + network.fc_audioset.out_features

    def __call__(self, recordings: Sequence[Recording]) -> np.ndarray:
        """Float32 [n dim] of n recordings. One given several times is computed once."""
        with in_float32():
            return of_distinct(self._forward, recordings, 1)

    def _forward(self, recordings: Sequence[Recording]) -> np.ndarray:
        wave = torch.from_numpy(prepared(recordings[0]))[None].to(self._device)
        return torch.cat(self._network(wave), dim=1).cpu().numpy()

    def split(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hidden layer [n hidden] and the logits [n k]."""
        return features[:, : self.hidden], features[:, self.hidden :]


def load_panns(path: Path, sha256: str = "", *, device: str = "cpu") -> Panns:
    """Read CNN14 from the authors' ``.pth``; ``sha256``: the digits the file must begin with.

    Raises CrossFlowError for another sha256, no such file, and another network.
    """
    digest = checked_sha256(path, sha256)
    try:
        with torch.serialization.safe_globals(_beside_tensors()):
            network = Cnn14(unpickled(path)["model"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise CrossFlowError(f"{path} is not a CNN14 of PANNs: {reason(error)}.") from error
    return Panns(network, digest, device=device)


def published_panns(*, device: str = "cpu") -> Panns:
    """The published one, from the folder of evaluator weights. Raises CrossFlowError where it is not there."""
    return load_panns(find_weights(PANNS), PANNS.sha256, device=device)


def _beside_tensors() -> list[Any]:
    """What the published file holds beside its tensors: arrays, whose maker has another name since numpy 2."""
    from numpy._core import multiarray

    rebuild = vars(multiarray)["_reconstruct"]
    return [rebuild, (rebuild, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype, type(np.dtype(np.int64))]
