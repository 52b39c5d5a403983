"""Each protocol's resize against the library that published it, on noise, which no filter can hide anything in."""

import numpy as np
import pytest
import torch
from cleanfid.resize import build_resizer
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torchvision.transforms.functional import to_tensor

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.resize import PROTOCOLS, bicubic_product, crossflow, preprocessing, torch_bilinear

SIZES = [(64, 64), (256, 256), (299, 299), (512, 512), (37, 411), (700, 301)]


def noise(height: int, width: int, n: int = 1) -> torch.Tensor:
    generator = np.random.default_rng(height * width)
    return torch.from_numpy(generator.integers(0, 256, size=(n, height, width, 3), dtype=np.uint8))


def resized(protocol: str, images: torch.Tensor) -> np.ndarray:
    """In 0 to 255, channels last, of one image."""
    return PROTOCOLS[protocol].resize(images)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", SIZES)
def test_clean_is_clean_fids_bit_for_bit_and_its_product_to_four_units_in_the_last_place(size: tuple[int, int]) -> None:
    images = noise(*size)
    expected = build_resizer("clean")(images[0].numpy())
    assert np.array_equal(resized("clean", images), expected)
    assert abs(bicubic_product(images)[0].permute(1, 2, 0).numpy() - expected).max() <= 2**-14  # 6.1e-5


@pytest.mark.parametrize("size", SIZES)
def test_legacy_tensorflow_is_torch_fidelitys_bit_for_bit(size: tuple[int, int]) -> None:
    images = noise(*size)
    x = images.permute(0, 3, 1, 2).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    for protocol in ("legacy_tensorflow", "adm"):
        assert torch.equal(PROTOCOLS[protocol].resize(images), expected)
        assert torch.equal(PROTOCOLS[protocol](images), (expected - 128) / 128)


@pytest.mark.parametrize("size", SIZES)
def test_legacy_pytorch_is_clean_fids_and_pytorch_fids(size: tuple[int, int]) -> None:
    """pytorch-fid resizes on the scale 0 to 1, so its rounding differs."""
    images = noise(*size)
    assert abs(resized("legacy_pytorch", images) - build_resizer("legacy_pytorch")(images[0].numpy())).max() <= 1e-4
    x = to_tensor(Image.fromarray(images[0].numpy()))[None]
    x = torch.nn.functional.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False)
    assert (PROTOCOLS["legacy_pytorch"](images) - (2 * x - 1)).abs().max() <= 1e-6


def test_crossflow_halves_images_of_512_pixels_first_and_no_others() -> None:
    images = noise(512, 512)
    halved = np.asarray(Image.fromarray(images[0].numpy()).resize((256, 256)))
    assert torch.equal(crossflow(images), torch_bilinear(torch.from_numpy(halved.copy())[None]))
    for size in ((512, 511), (256, 256)):
        assert torch.equal(crossflow(noise(*size)), torch_bilinear(noise(*size)))


@pytest.mark.parametrize(("size", "box"), [((300, 401), (50, 0, 350, 300)), ((401, 300), (0, 50, 300, 350))])
def test_t2ibenchmark_crops_and_rounds(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    images = noise(*size)
    picture = Image.fromarray(images[0].numpy()).crop(box).resize((299, 299), Image.Resampling.BICUBIC)
    assert np.array_equal(resized("t2ibenchmark", images), np.asarray(picture, dtype=np.float32))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_image_is_prepared_alone(protocol: str) -> None:
    images = noise(512, 512, n=3)
    together = PROTOCOLS[protocol](images)
    assert together.dtype == torch.float32 and together.min() >= -1.01 and together.max() <= 1.01
    assert torch.equal(together, torch.cat([PROTOCOLS[protocol](image[None]) for image in images]))


def test_the_published_protocols_differ_on_the_same_image() -> None:
    """ADM's preprocessing is TensorFlow's; all others give other inputs, so none may stand for another."""
    images = noise(512, 512)
    inputs = {name: each(images) for name, each in PROTOCOLS.items() if name != "adm"}
    names = list(inputs)
    gaps = [(inputs[a] - inputs[b]).abs().mean() for i, a in enumerate(names) for b in names[:i]]
    assert min(gaps) > 1e-3


def test_an_unknown_protocol_is_named_with_the_nearest() -> None:
    with pytest.raises(CrossFlowError, match="Did you mean 'clean'"):
        preprocessing("cleen")
