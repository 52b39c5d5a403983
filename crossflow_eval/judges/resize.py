"""How each published FID makes Inception's input, [-1, 1] at 299 x 299, of an 8-bit image: the part that disagrees.

Sources: clean-fid 0.1.35 (``resize.py``), torch-fidelity 0.4.0 (``interpolate_compat_tensorflow.py``), pytorch-fid
0.3.0 (``inception.py``), CrossFlow (``tools/fid_score.py``), T2IBenchmark (``utils/resizers.py``), and the evaluator of
guided-diffusion. None of them rounds to 8 bits after the last resize but T2IBenchmark.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from crossflow.errors import unknown

SIDE = 299
Images = UInt8[Tensor, "b h w 3"]
Resized = Float[Tensor, "b 3 299 299"]
"""Float32 on the scale 0 to 255."""


def pil_bicubic(images: Images, side: int = SIDE) -> Float[Tensor, "b 3 {side} {side}"]:
    """Pillow's antialiased bicubic on each channel as 32-bit floats, clipped to [0, 255]: clean-fid's ``clean``.

    On a CPU it is Pillow itself; elsewhere the same linear map as two matrix products, within 6e-5.
    """
    if images.device.type != "cpu":
        return bicubic_product(images, side)
    resized = torch.empty(len(images), side, side, 3)
    for image, place in zip(images.numpy(), resized.numpy(), strict=True):
        for index, band in enumerate(Image.fromarray(image).split()):
            place[..., index] = band.convert("F").resize((side, side), Image.Resampling.BICUBIC)
    return resized.clamp_(0, 255).permute(0, 3, 1, 2)


def bicubic_product(images: Images, side: int = SIDE) -> Float[Tensor, "b 3 {side} {side}"]:
    """Pillow's bicubic as R_h X R_w', on the images' own device."""
    rows, columns = (_bicubic_matrix(size, side).to(images.device) for size in images.shape[1:3])
    return (rows @ images.permute(0, 3, 1, 2).float() @ columns.T).clamp_(0, 255)


@cache
def _bicubic_matrix(size: int, side: int) -> Float[Tensor, "{side} {size}"]:
    """Pillow's weights of ``size`` pixels for each of ``side``: Keys' cubic with a = -1/2, widened where it shrinks."""
    scale = size / side
    width = max(scale, 1.0)
    centres = (np.arange(side) + 0.5) * scale
    first = np.maximum((centres - 2 * width + 0.5).astype(int), 0)
    last = np.minimum((centres + 2 * width + 0.5).astype(int), size)
    pixels = np.arange(size)
    x = abs((pixels + 0.5 - centres[:, None]) / width)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    weights[(pixels < first[:, None]) | (pixels >= last[:, None])] = 0
    return torch.from_numpy((weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))


def tensorflow_bilinear(images: Images) -> Resized:
    """TensorFlow 1's ``resize_bilinear``: output i samples at i * size / 299, so it is neither centred nor antialiased.

    Bit for bit torch-fidelity's, which follows the kernel's order of operations in float32.
    """
    x = images.permute(0, 3, 1, 2).float()
    for axis in (3, 2):
        size = x.shape[axis]
        place = torch.arange(SIDE, dtype=torch.float32, device=x.device) * torch.tensor(size / SIDE)
        low = place.long()
        part = (place - low).view(-1, *[1] * (3 - axis))
        left, right = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp_max(size - 1))
        x = left + (right - left) * part
    return x


def torch_bilinear(images: Images) -> Resized:
    """``torch.nn.functional.interpolate``: pixel centres, not antialiased. pytorch-fid's, and its like's."""
    x = images.permute(0, 3, 1, 2).float()
    return F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def crossflow(images: Images) -> Resized:
    """As pytorch-fid, but images of exactly 512 x 512 are first made 256 x 256 by Pillow's 8-bit bicubic."""
    return torch_bilinear(_pil(images, 256) if images.shape[1:3] == (512, 512) else images)


def cropped_pil_bicubic(images: Images) -> Resized:
    """The central square, resized by Pillow's bicubic in 8 bits: T2IBenchmark's own meaning of "clean"."""
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _pil(images[:, top : top + side, left : left + side], SIDE).permute(0, 3, 1, 2).float()


def _pil(images: Images, side: int) -> UInt8[Tensor, "b s s 3"]:
    """Pillow's bicubic to ``side`` x ``side`` in 8 bits, with its rounding after each axis."""
    pictures = [Image.fromarray(image.numpy()) for image in images.cpu().contiguous()]
    resized = [np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in pictures]
    return torch.from_numpy(np.stack(resized)).to(images.device)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From 8-bit images of one size to the network's input. ``normalise`` maps 0-255 to about [-1, 1].

    ``weights`` is the file that the protocol's published numbers are made with.
    """

    resize: Callable[[Images], Resized]
    said: str
    weights: str
    normalise: Literal["(x - 128) / 128", "2 x / 255 - 1"]
    quantise: Literal["none", "8 bits after the resize", "8 bits at 256 px where the image has 512 px"] = "none"

    def __call__(self, images: Images) -> Resized:
        """Return the input of the network, in [-1, 1]."""
        x = self.resize(images)
        return x.sub_(128).div_(128) if self.normalise == "(x - 128) / 128" else x.mul_(2 / 255).sub_(1)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What can change a number, as plain JSON."""
        return {"resize": self.said, "quantisation": self.quantise, "normaliser": self.normalise}


NVIDIA, PYTORCH_FID = "inception-2015-12-05.pt", "pt_inception-2015-12-05-6726825d.pth"
TENSORFLOW = "TensorFlow 1 bilinear, not centred, no antialiasing"
PYTORCH = "torch bilinear, align_corners=False, no antialiasing"
PROTOCOLS: dict[str, Preprocessing] = {
    "clean": Preprocessing(
        resize=pil_bicubic,
        said="Pillow bicubic, antialiased, 32-bit float channels",
        normalise="(x - 128) / 128",
        weights=NVIDIA,
    ),
    "legacy_tensorflow": Preprocessing(
        resize=tensorflow_bilinear, said=TENSORFLOW, normalise="(x - 128) / 128", weights=NVIDIA
    ),
    "legacy_pytorch": Preprocessing(
        resize=torch_bilinear, said=PYTORCH, normalise="2 x / 255 - 1", weights=PYTORCH_FID
    ),
    "crossflow": Preprocessing(
        resize=crossflow,
        said=f"512 x 512 images to 256 x 256 by Pillow bicubic; then {PYTORCH}",
        normalise="2 x / 255 - 1",
        quantise="8 bits at 256 px where the image has 512 px",
        weights=PYTORCH_FID,
    ),
    "adm": Preprocessing(resize=tensorflow_bilinear, said=TENSORFLOW, normalise="(x - 128) / 128", weights=PYTORCH_FID),
    "t2ibenchmark": Preprocessing(
        resize=cropped_pil_bicubic,
        said="central square; Pillow bicubic, antialiased",
        normalise="2 x / 255 - 1",
        quantise="8 bits after the resize",
        weights=PYTORCH_FID,
    ),
}
"""The published protocols by name: clean-fid's three (``legacy_tensorflow`` is torch-fidelity's and TTUR's too,
``legacy_pytorch`` is pytorch-fid), CrossFlow's and U-ViT's, guided-diffusion's, T2IBenchmark's."""


def prepare(
    images: Sequence[np.ndarray], preprocess: Callable[[Images], Tensor], device: str, size: int
) -> Float[Tensor, "{size} 3 h w"]:
    """A network's input of exactly ``size`` images: uint8 [h w 3] of any sizes, preprocessed, the last one repeated."""
    same_size = (list(group) for _, group in groupby(images, key=np.shape))
    x = torch.cat([preprocess(torch.from_numpy(np.stack(group)).to(device)) for group in same_size])
    return torch.cat([x, x[-1:].expand(size - len(x), -1, -1, -1)])


def preprocessing(protocol: str) -> Preprocessing:
    """The preprocessing of a published protocol. Raises CrossFlowError, with the nearest name, where there is none."""
    if protocol not in PROTOCOLS:
        raise unknown("FID protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]
