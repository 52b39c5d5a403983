"""The autoencoder of the authors' released models: Stable Diffusion's KL-f8, frozen, from diffusers' or CompVis' files.

A latent cell covers 8 x 8 pixels. The encoder outputs *moments*: mean and log-variance, concatenated, of 4 channels
each. A latent is scale * (mean + sd * noise), with the authors' scale 0.23010 (not diffusers' 0.18215).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.pretrained import load_pretrained, load_tensors, local_folder
from crossflow.modalities.modality import Modality

SCALE = 0.23010
"""The scale in every config of the authors, for latents of about unit variance."""

CHUNK = 10
"""Images encoded or decoded at once. It bounds memory, and changes results by rounding only."""


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """The Stable Diffusion autoencoder (KL-f8), whose weights are a separate file.

    ``scale`` multiplies its latents; the released CrossFlow models use 0.23010, not the usual 0.18215.
    """

    scale: float = SCALE
    name: Literal["image"] = "image"
    kind: Literal["kl"] = "kl"
    drawn: ClassVar[bool] = True
    external: ClassVar[bool] = True

    def build(self, shape: tuple[int, int, int]) -> Modality:
        """An empty module: the checkpoint holds no autoencoder. ``load`` reads it from its own file."""
        return Modality()

    def load(self, source: str | Path, device: str = "cpu") -> "KLAutoencoder":
        """The autoencoder with the weights in ``source``."""
        return KLAutoencoder.from_path(source, self.scale, device)


class KLAutoencoder(nn.Module):
    """A frozen ``AutoencoderKL`` of diffusers: uint8 images to latents [b 4 h/8 w/8] and back."""

    def __init__(self, vae: nn.Module, scale: float = SCALE) -> None:
        super().__init__()
        self.vae: Any = vae.eval().requires_grad_(False)
        self.scale = scale

    @classmethod
    def from_path(
        cls, source: str | Path, scale: float = SCALE, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "KLAutoencoder":
        """Load a diffusers folder, a hub model in the local cache, or a .pth or .safetensors file of CompVis' format.

        Nothing is downloaded, and pickles of more than tensors are refused. CrossFlowError if weights are missing or
        unknown, or the file cannot be read.
        """
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.utils import logging

        if Path(source).is_file():
            vae = _from_compvis(Path(source))
        else:
            folder = local_folder(source, "config.json and diffusion_pytorch_model.safetensors, or CompVis' file")
            vae = load_pretrained(AutoencoderKL, folder, logging)
        return cls(vae, scale).to(device, dtype)

    def moments(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b m i j"]:
        """Mean and log-variance along the channels, unscaled, as in the authors' feature files."""
        cell = 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = images.shape[1:3]
        if height % cell or width % cell:
            raise CrossFlowError(f"Images of {height} x {width} do not divide into cells of side {cell}: crop them.")
        pixels = images.to(self.vae.device).movedim(-1, 1).to(self.vae.dtype) / 127.5 - 1.0
        return torch.cat([self.vae.encode(part).latent_dist.parameters for part in pixels.split(CHUNK)])

    def encode(self, images: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b c i j"]:
        """The scaled posterior mean; nothing is sampled."""
        return self.scale * self.moments(images).chunk(2, dim=1)[0]

    def sample(self, moments: Float[Tensor, "b m i j"], noise: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c i j"]:
        """``sample_moments`` with this autoencoder's scale."""
        return sample_moments(moments, noise, self.scale)

    def decode(self, latents: Float[Tensor, "b c i j"]) -> UInt8[Tensor, "b h w 3"]:
        """Images: (x + 1) / 2 clipped to [0, 1] and rounded, halves up, to 256 levels."""
        if latents.shape[1] != self.vae.config.latent_channels:
            raise CrossFlowError(
                f"These latents have {latents.shape[1]} channels, but the autoencoder's have"
                f" {self.vae.config.latent_channels}: give the autoencoder that the model was trained with."
            )
        latents = (latents / self.scale).to(self.vae.device, self.vae.dtype)
        return torch.cat([_levels(self.vae.decode(part).sample) for part in latents.split(CHUNK)])


def _levels(pixels: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b h w 3"]:
    return (((pixels.float() + 1.0) / 2.0).clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8).movedim(1, -1)


def sample_moments(
    moments: Float[Tensor, "b m i j"], noise: Float[Tensor, "b c i j"], scale: float = SCALE
) -> Float[Tensor, "b c i j"]:
    """scale * (mean + exp(log_var / 2) * noise), with the log-variance clamped to [-30, 20]."""
    mean, log_var = moments.chunk(2, dim=1)
    return scale * (mean + (0.5 * log_var.clamp(-30.0, 20.0)).exp() * noise)


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """The centre crop of side ``size``, uint8 RGB [size size 3], resized as in ADM (Dhariwal & Nichol 2021).

    The image is halved with a box filter while its shorter side is at least 2 * size; then that side is resized to
    ``size`` with a bicubic filter.
    """
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    ratio = size / min(image.size)
    image = image.resize((round(image.width * ratio), round(image.height * ratio)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.array(image.crop((left, top, left + size, top + size)))


PREFIX = "first_stage_model."
"""Prefix of the autoencoder's weights in a checkpoint of a whole latent diffusion model."""

TRAINING_ONLY = ("loss.", "model_ema.")
"""Prefixes of weights that only the training of the autoencoder needed."""

NAMES = (
    (r"(down|up)_blocks\.(\d+)\.resnets", r"\1.\2.block"),
    (r"(down|up)_blocks\.(\d+)\.(down|up)samplers\.0", r"\1.\2.\3sample"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"group_norm|conv_norm(?=_out)", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
    ("conv_shortcut", "nin_shortcut"),
)
"""Patterns in diffusers' names, and what CompVis has in their place."""


def _from_compvis(path: Path) -> nn.Module:
    """The autoencoder in a file of CompVis' format; its sizes are read off the weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    state = load_tensors(path)
    if any(name.startswith(PREFIX) for name in state):
        state = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    state = {name: value for name, value in state.items() if not name.startswith(TRAINING_ONLY)}
    try:
        config = _sizes(state)
        with torch.device("meta"):
            vae = AutoencoderKL(**config)
    except KeyError as error:
        raise CrossFlowError(f"{path} holds no autoencoder of CompVis' format: it lacks {error.args[0]}.") from error
    except (IndexError, ValueError) as error:
        raise CrossFlowError(
            f"{path} holds no autoencoder of CompVis' format: its weights have strange shapes."
        ) from error
    own = vae.state_dict()
    names = {_compvis_name(name, len(config["block_out_channels"])): name for name in own}
    if names.keys() != state.keys():
        missing, unknown = names.keys() - state.keys(), state.keys() - names.keys()
        raise CrossFlowError(
            f"{path} is not an autoencoder with attention in the middle alone:"
            f" missing: {first_few(sorted(missing), 3) or 'none'}; unknown: {first_few(sorted(unknown), 3) or 'none'}."
        )
    for name, value in state.items():
        as_linear = value.ndim == 4 and own[names[name]].ndim == 2
        state[name] = value[..., 0, 0] if as_linear else value
    odd = [name for name, value in state.items() if value.shape != own[names[name]].shape]
    if odd:
        raise CrossFlowError(
            f"{path} is damaged: the shape of {first_few(sorted(odd), 3)} does not fit the other weights."
        )
    vae.load_state_dict({names[name]: value for name, value in state.items()}, assign=True)
    return vae


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The AutoencoderKL settings that fit these weights; KeyError if a weight that determines a size is missing."""
    blocks = [re.fullmatch(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight", name) for name in state]
    levels = 1 + max((int(block[1]) for block in blocks if block), default=0)
    widths = [state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": 1 + max(int(block[2]) for block in blocks if block),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
    }


def _compvis_name(name: str, levels: int) -> str:
    """CompVis' name of a weight of diffusers' AutoencoderKL; CompVis numbers decoder levels from the image side."""
    for pattern, by in NAMES:
        name = re.sub(pattern, by, name)
    return re.sub(r"\bup\.(\d+)", lambda level: f"up.{levels - 1 - int(level[1])}", name)
