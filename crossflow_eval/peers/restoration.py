"""PSNR and SSIM by scikit-image, padded SSIM by torchmetrics, from the two images' files on."""

from __future__ import annotations

import math
import re
from collections import defaultdict

import numpy as np
from PIL import Image

from crossflow_eval.metrics.restoration import Restoration
from crossflow_eval.peers.peer import Pairs, Peer, Said, Theirs

ROUNDING = 1e-9
_NAME = re.compile(r"(psnr_pooled|psnr|ssim_padded|ssim_uniform|ssim)_(rgb|y_rounded|y_full|y)(?:_border(\d+))?")


def channel(image: np.ndarray, name: str) -> np.ndarray:
    """What is compared of an image, uint8 [h w 3]: itself, or a luma of scikit-image's colour spaces, float64 [h w]."""
    from skimage.color import rgb2ycbcr, rgb2yuv

    if name == "rgb":
        return image
    if name == "y_full":
        return 255 * rgb2yuv(image)[..., 0]
    luma = rgb2ycbcr(image)[..., 0]
    return np.floor(luma + 0.5) if name == "y_rounded" else luma


def psnr(image: np.ndarray, original: np.ndarray) -> float:
    """PSNR in dB."""
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(original, image, data_range=255))


def ssim(image: np.ndarray, original: np.ndarray, *, uniform: bool = False) -> float:
    """SSIM with the original's Gaussian window, or scikit-image's default."""
    from skimage.metrics import structural_similarity

    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    axis = 2 if image.ndim == 3 else None
    value = structural_similarity(image, original, data_range=255, channel_axis=axis, **({} if uniform else gaussian))
    return float(np.asarray(value))


def padded_ssim(image: np.ndarray, original: np.ndarray) -> float:
    """torchmetrics' SSIM, in float64."""
    import torch
    from torchmetrics.functional.image import structural_similarity_index_measure

    tensors = [torch.from_numpy(np.atleast_3d(array).astype(np.float64)) for array in (image, original)]
    first, second = (tensor.permute(2, 0, 1)[None] for tensor in tensors)
    return float(torch.as_tensor(structural_similarity_index_measure(first, second, data_range=255.0)))


def _mean_square(image: np.ndarray, original: np.ndarray) -> float:
    from skimage.metrics import mean_squared_error

    return float(mean_squared_error(image, original))


_MEASURES = {
    "psnr": psnr,
    "psnr_pooled": _mean_square,
    "ssim": ssim,
    "ssim_padded": padded_ssim,
    "ssim_uniform": lambda image, original: ssim(image, original, uniform=True),
}


def _compute(metric: Restoration, pairs: Pairs) -> dict[str, Said]:
    parts = {name: match.groups() for name in metric.higher_is_better if (match := _NAME.fullmatch(name))}
    each: dict[str, list[float]] = defaultdict(list)
    for example, output in pairs():
        with Image.open(example.target) as stored:
            images = (np.asarray(output), np.asarray(stored.convert("RGB")))
        for name, (measure, on, border) in parts.items():
            edge = int(border or 0)
            inside = slice(edge, -edge or None)
            image, original = (channel(array, on)[inside, inside] for array in images)
            each[name].append(_MEASURES[measure](image, original))
    found: dict[str, Said] = {}
    for name, scores in each.items():
        value = float(np.mean(scores))
        if parts[name][0] == "psnr_pooled":
            value = 10 * math.log10(255**2 / value) if value else math.inf
        by = "torchmetrics" if parts[name][0] == "ssim_padded" else "scikit-image"
        found[name] = Theirs(value=value, tolerance=ROUNDING, way=f"{by}, float64; luma by scikit-image")
    return found


PEER = Peer(packages=("scikit-image", "torchmetrics"), compute=_compute)
