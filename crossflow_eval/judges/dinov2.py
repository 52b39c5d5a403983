"""DINOv2's class token as features, the ones that FD-DINOv2 is measured on (G. Stein et al., 2023; dgm-eval).

An image of any size is squashed to 224 x 224 with Pillow's bicubic filter, in 8 bits. The weights know 37 x 37 places
and are asked for 16 x 16: the place embeddings are resampled once, at loading, as the authors' code does it (bicubic,
by the factor 16.1 / 37). Libraries that resample to the exact size give other features.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.pretrained import load_tensors
from crossflow_eval.judges.local_weights import checked_sha256, load_folder, reason
from crossflow_eval.judges.precise import in_float32

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HEAD = 64
"""The width of one attention head, of which a state dict says nothing; the same in every DINOv2."""


class DinoV2:
    """A :class:`crossflow_eval.judges.features.FeatureExtractor` in float32; made by :func:`load_dinov2`."""

    fingerprint: Mapping[str, Any] = {
        "resize": "Pillow bicubic, squashed to 224 x 224; uint8",
        "places": "bicubic by 16.1 / 37, as the authors' code",
        "precision": "float32",
    }

    def __init__(self, network: Callable[[Tensor], Tensor], name: str, weights_sha256: str, dim: int) -> None:
        self._network = network
        self.name, self.weights_sha256, self.dim = name, weights_sha256, dim

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The normalised class tokens, float32 [n dim], of n images, uint8 [h w 3] of any size."""
        with in_float32():
            return self._network(torch.stack([to_input(image) for image in images])).cpu().numpy()


def to_input(image: np.ndarray) -> Float[Tensor, "3 224 224"]:
    """Squash one image, uint8 [h w 3], and normalise it with ImageNet's mean and standard deviation."""
    squashed = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(squashed)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def load_dinov2(path: Path, sha256: str = "", *, device: str = "cpu") -> DinoV2:
    """Read DINOv2 from the authors' ``.pth`` or from a Hugging Face folder with ``model.safetensors``.

    ``sha256``: the digits the file must begin with. Raises CrossFlowError for another sha256, no such file, or another
    network, as those with register tokens are.
    """
    digest = checked_sha256(path / "model.safetensors" if path.is_dir() else path, sha256)
    network, dim = _from_folder(path, device) if path.is_dir() else _from_file(path, device)
    return DinoV2(network, f"{path.name if path.is_dir() else path.stem}-{SIDE}", digest, dim)


def _from_file(path: Path, device: str) -> tuple[Callable[[Tensor], Tensor], int]:
    from timm.models.vision_transformer import VisionTransformer

    try:
        state = load_tensors(path)
        state.pop("mask_token")
        dim, _, patch, _ = state["patch_embed.proj.weight"].shape
        depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
        state["pos_embed"] = resample(state["pos_embed"], SIDE // patch)
        network = VisionTransformer(
            img_size=SIDE,
            patch_size=patch,
            embed_dim=dim,
            depth=depth,
            num_heads=dim // _HEAD,
            init_values=1.0,
            num_classes=0,
            global_pool="token",
        )
        network.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as error:
        raise CrossFlowError(f"{path} is not a DINOv2 of the authors' form: {reason(error)}.") from error
    network.eval().to(device)
    return lambda images: network(images.to(device)), dim


def _from_folder(folder: Path, device: str) -> tuple[Callable[[Tensor], Tensor], int]:
    from transformers import Dinov2Model

    network = load_folder(Dinov2Model, folder)
    places = network.embeddings.position_embeddings
    places.data = resample(places.data, SIDE // network.config.patch_size)
    network.to(device)
    return lambda images: network(pixel_values=images.to(device)).pooler_output, network.config.hidden_size


def resample(places: Float[Tensor, "1 n d"], side: int) -> Float[Tensor, "1 m d"]:
    """The embeddings of the class token and of a square of places, resampled to ``side`` x ``side`` places.

    As the authors' code: bicubic without antialiasing, with the factor (side + 0.1) / old side and not the exact one.
    """
    old = round((places.shape[1] - 1) ** 0.5)
    if old == side:
        return places
    square = places[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    factor = (side + 0.1) / old
    square = torch.nn.functional.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([places[:, :1], square.flatten(2).transpose(1, 2)], dim=1)
