"""The embedded world's two judges: a feature CNN (for FID) and a dual encoder (for the CLIP score).

Both are trained on the split ``train`` alone by ``python -m crossflow.scenes.train_judges``, and shipped; neither is
trained or tuned inside an evaluation. The dual encoder's image tower is the frozen feature CNN and a small head, so the
two judges are not independent. Their scores are comparable within this world only.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.files.folders import WEIGHTS
from crossflow.scenes.spec import CELLS, COLORS, SHAPES

SIDE = 32
"""Side of the judges' input; images of other sizes are resized to it (bilinear, antialiased)."""
VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Sizes of the feature CNN."""

    widths: tuple[int, ...] = (32, 64, 96, 128)
    dim: int = 192


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Sizes of the dual encoder. Token ids of ``vocabulary`` start at 2; 0 is padding and 1 any unknown word."""

    vocabulary: tuple[str, ...]
    features: FeatureConfig
    dim: int = 128
    width: int = 64
    layers: int = 2
    heads: int = 4
    words: int = 32


class FeatureNet(nn.Module):
    """Four convolutions and a linear layer with ReLU, whose ``dim`` outputs are the features.

    It is trained through a linear head that predicts, for each of the CELLS x CELLS cells, the shape (or none) and the
    colour of its object, and whether it is night.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((3, *config.widths), config.widths, strict=False)):
            stride = 1 if i == 0 else 2
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        side = SIDE // 2 ** (len(config.widths) - 1)
        self.project = nn.Linear(config.widths[-1] * side * side, config.dim)
        self.head = nn.Linear(config.dim, CELLS * CELLS * (1 + len(SHAPES) + len(COLORS)) + 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features of images in [-1, 1]."""
        return F.relu(self.project(self.convolutions(images).flatten(1)))

    def attributes(
        self, features: Float[Tensor, "b d"]
    ) -> tuple[Float[Tensor, "b cells shapes"], Float[Tensor, "b cells colors"], Float[Tensor, " b"]]:
        """Logits of each cell's shape (index 0: none) and colour, and of night."""
        logits = self.head(features)
        cells = logits[:, :-1].unflatten(1, (CELLS * CELLS, -1))
        return cells[..., : 1 + len(SHAPES)], cells[..., 1 + len(SHAPES) :], logits[:, -1]


class ClipNet(nn.Module):
    """An image tower on the feature CNN and a text tower of ``layers`` transformer blocks; both give unit vectors."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.features = FeatureNet(config.features)
        self.image_head = nn.Sequential(
            nn.Linear(config.features.dim, 2 * config.dim), nn.GELU(), nn.Linear(2 * config.dim, config.dim)
        )
        self.embedding = nn.Embedding(len(config.vocabulary) + 2, config.width)
        self.position = nn.Parameter(torch.randn(config.words, config.width) * 0.02)
        block = nn.TransformerEncoderLayer(
            config.width, config.heads, 2 * config.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, config.layers, enable_nested_tensor=False)
        self.text_head = nn.Linear(config.width, config.dim)

    def tokens(self, texts: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids, truncated and padded to ``config.words``. CrossFlowError for a text without a word."""
        known = {word: i + 2 for i, word in enumerate(self.config.vocabulary)}
        table = torch.zeros(len(texts), self.config.words, dtype=torch.long)
        for row, text in zip(table, texts, strict=True):
            ids = [known.get(word, 1) for word in split_words(text)][: self.config.words]
            if not ids:
                raise CrossFlowError(f"The text {text!r} has no word to embed; give a caption.")
            row[: len(ids)] = torch.tensor(ids)
        return table

    def image_side(self, features: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Features of the CNN to unit vectors."""
        return F.normalize(self.image_head(features), dim=-1)

    def text_side(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b e"]:
        """Token ids to unit vectors: the mean of the blocks' outputs over words, projected."""
        empty = tokens == 0
        x = self.blocks(self.embedding(tokens) + self.position, src_key_padding_mask=empty)
        kept = (~empty).unsqueeze(-1)
        return F.normalize(self.text_head((x * kept).sum(dim=1) / kept.sum(dim=1)), dim=-1)


def split_words(text: str) -> list[str]:
    """The words of ``text`` in lower case; a comma is a word."""
    return re.findall(r"[a-z]+|,", text.lower())


def to_input(images: Sequence[np.ndarray]) -> Float[Tensor, "b 3 h w"]:
    """uint8 RGB images [h w 3] of any size to [-1, 1] at SIDE x SIDE. CrossFlowError for another layout."""
    planes = []
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise CrossFlowError(f"A judge needs images of uint8 [h w 3], got {image.dtype} {list(image.shape)}.")
        plane = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        if plane.shape[2:] != (SIDE, SIDE):
            plane = F.interpolate(plane, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        planes.append(plane)
    return torch.cat(planes) if planes else torch.zeros(0, 3, SIDE, SIDE)


class FeatureJudge:
    """A feature CNN, called with n images, uint8 [h w 3]; returns features, float32 [n dim]."""

    def __init__(self, net: FeatureNet, header: Mapping[str, str], weights_sha256: str) -> None:
        self.net, self.header, self.weights_sha256 = net.eval(), header, weights_sha256
        self.name, self.dim = "scenes-features", net.config.dim

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.net(to_input(images)).numpy()

    @torch.no_grad()
    def looks(self, features: np.ndarray) -> np.ndarray:
        """What an object of each image is, picked at random: probabilities of shape and colour, float64 [n 48].

        Each cell gives a look the product of its probabilities of the shape and of the colour; the sum over the cells
        is brought to one. That a cell is empty counts for no look.
        """
        shapes, colors, _ = self.net.attributes(torch.from_numpy(features))
        pairs = shapes.double().softmax(-1)[..., 1:, None] * colors.double().softmax(-1)[..., None, :]
        seen = pairs.sum(dim=1).flatten(1)
        return (seen / seen.sum(dim=1, keepdim=True)).numpy()


class ClipJudge:
    """A dual encoder, called with n images, uint8 [h w 3]; returns unit vectors, float32 [n dim]."""

    def __init__(self, net: ClipNet, header: Mapping[str, str], weights_sha256: str) -> None:
        self.net, self.header, self.weights_sha256 = net.eval(), header, weights_sha256
        self.name, self.dim = "scenes-clip", net.config.dim

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.net.image_side(self.net.features(to_input(images))).numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [n dim]."""
        return self.net.text_side(self.net.tokens(texts)).numpy()


def load_features(path: Path = WEIGHTS / "scenes-features.safetensors") -> FeatureJudge:
    """The feature CNN at ``path``, by default the shipped one. CrossFlowError if it cannot be read."""
    header, tensors, digest = _read(path, "features")
    config = json.loads(header["config"])
    net = FeatureNet(_feature_config(config))
    _fill(net, tensors, path)
    return FeatureJudge(net, header, digest)


def load_clip(path: Path = WEIGHTS / "scenes-clip.safetensors") -> ClipJudge:
    """The dual encoder at ``path``, by default the shipped one. CrossFlowError if it cannot be read."""
    header, tensors, digest = _read(path, "clip")
    config = json.loads(header["config"])
    config |= {"vocabulary": tuple(config["vocabulary"]), "features": _feature_config(config["features"])}
    net = ClipNet(ClipConfig(**config))
    _fill(net, tensors, path)
    return ClipJudge(net, header, digest)


def save_judge(path: Path, net: FeatureNet | ClipNet, notes: Mapping[str, str]) -> None:
    """Write ``net`` to ``path``, weights in float16, with its config and ``notes`` (command, quality) in the header."""
    kind = "features" if isinstance(net, FeatureNet) else "clip"
    header = {"format": "scenes-judge", "kind": kind, "version": VERSION, "config": json.dumps(asdict(net.config))}
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(save(tensors, header | dict(notes)))
    temporary.replace(path)


def _feature_config(config: Mapping[str, list[int] | int]) -> FeatureConfig:
    widths, dim = config["widths"], config["dim"]
    if not isinstance(widths, list) or not isinstance(dim, int):
        raise CrossFlowError("The judge's config has no list of widths and number of features; take the shipped file.")
    return FeatureConfig(widths=tuple(widths), dim=dim)


def _read(path: Path, kind: str) -> tuple[dict[str, str], dict[str, Tensor], str]:
    """Header, tensors (float32) and sha256 of a judge's file; CrossFlowError if it cannot be read."""
    command = f"run `python -m crossflow.scenes.train_judges {kind}` to make it"
    if not path.is_file():
        raise CrossFlowError(f"There is no judge at {path}; {command}.")
    content = path.read_bytes()
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise CrossFlowError(f"{path} is not a whole safetensors file ({error}); {command} anew.") from error
    if (header.get("format"), header.get("kind"), header.get("version")) != ("scenes-judge", kind, VERSION):
        raise CrossFlowError(f"{path} holds no judge of kind {kind} and version {VERSION}; {command} anew.")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    return header, tensors, hashlib.sha256(content).hexdigest()


def _fill(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        net.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise CrossFlowError(f"{path} does not fit its own config ({error}).") from error
