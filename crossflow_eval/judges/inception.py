"""The Inception-v3 of every published FID: the graph of 2015-12-05, and features of images under a protocol.

It differs from torchvision's: average pools do not count their padding, the last block (Mixed_7c) pools by maximum,
and the classifier has 1008 outputs. Two conversions of the graph are in use, as a state dict (pytorch-fid) and as a
TorchScript program (NVIDIA); both hold the same variables, and both are read here. Only their parameters are used:
each batch norm (epsilon 1e-3) is folded into its convolution in float64, and activations are ``channels_last``, which
moves features by 4e-7 of their length. Sources: pytorch-fid 0.3.0, torch-fidelity 0.4.0, stylegan3.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.judges.features import CHUNK, of_distinct
from crossflow_eval.judges.local_weights import checked_sha256, find_weights
from crossflow_eval.judges.precise import in_float32
from crossflow_eval.judges.resize import prepare, preprocessing
from crossflow_eval.judges.weights import TEXT_TO_IMAGE

TAPS = {"pool": 2048, "spatial": 2023, "logits": 1008, "logits_unbiased": 1008}
"""What the network can be asked for, and its width: the last average pool (FID, KID), the first 7 of the 17 x 17
channels of Mixed_6d in the order h w c (sFID), and the classifier's output with and without its bias (Inception
Score)."""
BATCH = 4
"""Images a forward pass on a CPU. Always as many, so that a feature does not depend on the batch it is in."""
PRECISIONS = ("float32", "bfloat16")
"""What the convolutions can be computed in."""

Step = str | tuple[str, ...]
"""A convolution by name, ``/2`` for stride 2; a pool; or convolutions side by side on the same input."""
Branch = tuple[Step, ...]
STEM = ("Conv2d_1a_3x3/2", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "max/2", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "max/2")
_AVERAGED: Branch = ("average", "branch_pool")
_ONE: Branch = ("branch1x1",)
_DOUBLE = ("branch3x3dbl_1", "branch3x3dbl_2")
_5: tuple[Branch, ...] = (_ONE, ("branch5x5_1", "branch5x5_2"), (*_DOUBLE, "branch3x3dbl_3"), _AVERAGED)
_6: tuple[Branch, ...] = (
    _ONE,
    tuple(f"branch7x7_{i}" for i in (1, 2, 3)),
    tuple(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)),
    _AVERAGED,
)
_7: tuple[Branch, ...] = (
    _ONE,
    ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
    (*_DOUBLE, ("branch3x3dbl_3a", "branch3x3dbl_3b")),
)
BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _5,
    "Mixed_5c": _5,
    "Mixed_5d": _5,
    "Mixed_6a": (("branch3x3/2",), (*_DOUBLE, "branch3x3dbl_3/2"), ("max/2",)),
    "Mixed_6b": _6,
    "Mixed_6c": _6,
    "Mixed_6d": _6,
    "Mixed_6e": _6,
    "Mixed_7a": (
        ("branch3x3_1", "branch3x3_2/2"),
        ("branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4/2"),
        ("max/2",),
    ),
    "Mixed_7b": (*_7, _AVERAGED),
    "Mixed_7c": (*_7, ("max", "branch_pool")),
}
"""The blocks in order, each the branches whose outputs it concatenates. Names are those of pytorch-fid's state dict."""
_POOLS: dict[str, nn.Module] = {
    "max/2": nn.MaxPool2d(3, stride=2),
    "max": nn.MaxPool2d(3, stride=1, padding=1),
}


class Inception(nn.Module):
    """The network, built of a state dict under pytorch-fid's names; ``dtype`` is that of its convolutions."""

    weight: Tensor
    bias: Tensor

    def __init__(self, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(_step(state, "", step) for step in STEM))
        self.blocks = nn.ModuleDict({name: _block(state, f"{name}.", branches) for name, branches in BLOCKS.items()})
        self.to(dtype).to(memory_format=torch.channels_last)
        self.register_buffer("weight", state["fc.weight"].float())
        self.register_buffer("bias", state["fc.bias"].float())

    def forward(self, x: Float[Tensor, "b 3 299 299"], taps: Sequence[str] = ("pool",)) -> dict[str, Tensor]:
        """Return the ``taps``, each float32 [b width], of normalised images. See ``TAPS``."""
        found: dict[str, Tensor] = {}
        x = self.stem(x.to(next(self.stem.buffers()).dtype, memory_format=torch.channels_last))
        for name, block in self.blocks.items():
            x = block(x)
            if name == "Mixed_6d":
                found["spatial"] = x[:, :7].permute(0, 2, 3, 1).flatten(1).float()
        found["pool"] = x.float().mean((2, 3))
        found["logits_unbiased"] = found["pool"] @ self.weight.T
        found["logits"] = found["logits_unbiased"] + self.bias
        return {tap: found[tap] for tap in taps}


class _Convolution(nn.Module):
    """A convolution with the batch norm that follows it, and ReLU."""

    weight: Tensor
    bias: Tensor

    def __init__(self, state: Mapping[str, Tensor], name: str, stride: int, same: bool) -> None:
        super().__init__()
        weight = state[f"{name}.conv.weight"].double()
        gamma, beta, mean, variance = (
            state[f"{name}.bn.{each}"].double() for each in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / (variance + 1e-3).sqrt()
        self.register_buffer("weight", (weight * scale[:, None, None, None]).float())
        self.register_buffer("bias", (beta - mean * scale).float())
        self.stride, self.padding = stride, tuple(size // 2 if same else 0 for size in weight.shape[2:])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return F.relu_(F.conv2d(x, self.weight, self.bias, self.stride, self.padding))


class _AveragedConvolution(_Convolution):
    """A 1 x 1 convolution of 3 x 3 means. The two commute, and the means are cheaper after it, of fewer channels."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        x = F.avg_pool2d(F.conv2d(x, self.weight), 3, stride=1, padding=1, count_include_pad=False)
        return F.relu_(x.add_(self.bias[:, None, None]))


class _Branches(nn.ModuleList):
    """Modules side by side: their outputs on the same input, concatenated."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return torch.cat([branch(x) for branch in self], dim=1)


def _block(state: Mapping[str, Tensor], prefix: str, branches: Iterable[Branch]) -> nn.Module:
    return _Branches(
        _AveragedConvolution(state, f"{prefix}branch_pool", stride=1, same=True)
        if branch == _AVERAGED
        else nn.Sequential(*(_step(state, prefix, step) for step in branch))
        for branch in branches
    )


def _step(state: Mapping[str, Tensor], prefix: str, step: Step) -> nn.Module:
    if isinstance(step, tuple):
        return _Branches(_step(state, prefix, each) for each in step)
    if step in _POOLS:
        return _POOLS[step]
    name, _, stride = step.partition("/")
    same = not stride and (bool(prefix) or name == "Conv2d_2b_3x3")
    return _Convolution(state, prefix + name, int(stride or 1), same)


@dataclass(frozen=True)
class Weights:
    """Parameters under pytorch-fid's names, with the name and the sha256 of the file that they are of."""

    state: Mapping[str, Tensor]
    file: str
    sha256: str


CONVERSIONS = {each.sha256: each for each in TEXT_TO_IMAGE if "inception" in each.file}
"""The two files that published numbers are made with, by sha256."""


def load_weights(path: Path, *, published: bool = True) -> Weights:
    """Read either file of ``CONVERSIONS``. ``published=False`` takes others of their form: random ones, for tests.

    Of the TorchScript file, which is a program, only the parameters are taken, and only once its hash is known.

    Raises:
        CrossFlowError: no such file, or one of another hash.
    """
    sha256 = checked_sha256(path)
    if published and sha256 not in CONVERSIONS:
        needs = " or ".join(each.need for each in CONVERSIONS.values())
        raise CrossFlowError(f"{path} (sha256 {sha256[:8]}) is not a published Inception; FID needs {needs}.")
    name = CONVERSIONS[sha256].file if sha256 in CONVERSIONS else path.name
    if not name.endswith(".pt"):
        return Weights(torch.load(path, map_location="cpu", weights_only=True), name, sha256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the published file will stay what it is
        program = torch.jit.load(path, map_location="cpu")
    return Weights(_of_nvidia(program.state_dict()), name, sha256)


def published_weights(protocol: str) -> Weights:
    """The weights that ``protocol`` is published with, from the folder of evaluator weights. Raises CrossFlowError."""
    file = preprocessing(protocol).weights
    return load_weights(find_weights(next(each for each in CONVERSIONS.values() if each.file == file)))


def _of_nvidia(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of NVIDIA's program under pytorch-fid's names; its batch norms have no factor, which is 1."""
    ours = {"fc.weight": state["output.weight"], "fc.bias": state["output.bias"]}
    for name, theirs in _nvidia_names():
        ours[f"{name}.conv.weight"] = state[f"layers.{theirs}.weight"]
        ours[f"{name}.bn.bias"] = state[f"layers.{theirs}.beta"]
        ours[f"{name}.bn.running_mean"] = state[f"layers.{theirs}.mean"]
        ours[f"{name}.bn.running_var"] = state[f"layers.{theirs}.var"]
        ours[f"{name}.bn.weight"] = torch.ones_like(ours[f"{name}.bn.bias"])
    return ours


def _nvidia_names() -> Iterator[tuple[str, str]]:
    """Each convolution's name in pytorch-fid and in NVIDIA's program, which keeps those of the TensorFlow graph."""

    def numbered(word: str, number: int) -> str:
        return f"{word}_{number}" if number else word

    for number, step in enumerate(step for step in STEM if step not in _POOLS):
        yield step.partition("/")[0], numbered("conv", number)
    for block_number, (block, branches) in enumerate(BLOCKS.items()):
        dot = "_" if block in ("Mixed_7b", "Mixed_7c") else "."
        towers = 0
        for branch in branches:
            tower = numbered("tower", towers) + dot if len(branch) > 1 else ""
            towers += bool(tower)
            steps = [step for step in branch if step not in (*_POOLS, "average")]
            for number, step in enumerate(steps):
                side = [step] if isinstance(step, str) else step
                for place, name in enumerate(side):
                    leaf = numbered("conv", number) if isinstance(step, str) else f"mixed{dot}{numbered('conv', place)}"
                    yield f"{block}.{name.partition('/')[0]}", f"{numbered('mixed', block_number)}.{tower}{leaf}"


class InceptionFeatures:
    """Inception's ``taps`` of 8-bit images under a published protocol: a ``FeatureExtractor``.

    Several taps stand side by side in one row, see ``split``. ``precision="bfloat16"`` computes the convolutions in 16
    bits; it moves FID, so it has a name of its own. ``fingerprint`` is what can change a number, as plain JSON.
    Raises CrossFlowError for a protocol or a precision of another name.
    """

    def __init__(
        self,
        weights: Weights,
        protocol: str,
        taps: Sequence[str] = ("pool",),
        *,
        precision: str = "float32",
        device: str = "cpu",
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        self._preprocess = preprocessing(protocol)
        self._network = Inception(weights.state, getattr(torch, precision)).to(device)
        self._device, self._batch = device, BATCH if device == "cpu" else CHUNK
        self._protocol, self._precision = protocol, precision
        self.weights_sha256 = weights.sha256
        self._constants = {
            "protocol": protocol,
            **self._preprocess.fingerprint,
            "weights": weights.file,
            "weights_sha256": weights.sha256,
        }
        self._ask(taps)

    def _ask(self, taps: Sequence[str]) -> None:
        self.taps = tuple(taps)
        self.dim = sum(TAPS[tap] for tap in taps)
        rough = [self._precision] if self._precision != "float32" else []
        self.name = "-".join(("inception", self._protocol, *taps, *rough))
        self.fingerprint: Mapping[str, Any] = {
            **self._constants,
            "taps": list(taps),
            "precision": self._precision,
        }

    def only(self, tap: str) -> "InceptionFeatures":
        """The same network, asked for one of its taps."""
        one = copy(self)
        one._ask((tap,))
        return one

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Float32 [n dim] of n images, uint8 [h w 3] of any sizes. One given several times is computed once."""
        with in_float32():
            return of_distinct(self._forward, images, self._batch)

    def _forward(self, images: Sequence[np.ndarray]) -> np.ndarray:
        found = self._network(prepare(images, self._preprocess, self._device, self._batch), self.taps)
        return torch.cat([found[tap] for tap in self.taps], dim=1)[: len(images)].cpu().numpy()

    def split(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of each tap."""
        ends = np.cumsum([TAPS[tap] for tap in self.taps])
        return dict(zip(self.taps, np.split(features, ends[:-1], axis=1), strict=True))
