"""The autoencoder is Stable Diffusion's: a forward over CompVis' names gives the same numbers from the same file."""

import numpy as np
import pytest
import torch
from compvis_files import compvis_state
from PIL import Image
from torch.nn import functional as F

from crossflow.errors import CrossFlowError
from crossflow.modalities.kl_autoencoder import SCALE, KLAutoencoder, sample_moments
from crossflow.modalities.modality import Autoencoder

WIDTHS = [32, 64, 64, 64]
BLOCKS = 2


class Oracle:
    """The forward of latent diffusion's autoencoder, by the names of its weights (Rombach and others, 2022)."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def conv(self, name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **how)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, 32, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps=1e-6)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", x)), padding=1)
        h = self.conv(f"{name}.conv2", F.silu(self.norm(f"{name}.norm2", h)), padding=1)
        return h + (self.conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in self.state else x)

    def middle(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = self.block(f"{name}.block_1", x)
        h = self.norm(f"{name}.attn_1.norm", x)
        q, k, v = (self.conv(f"{name}.attn_1.{part}", h).flatten(2) for part in "qkv")
        weights = torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, dim=-1)
        h = (v @ weights.transpose(1, 2)).reshape(x.shape)
        return self.block(f"{name}.block_2", x + self.conv(f"{name}.attn_1.proj_out", h))

    def moments(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.conv("encoder.conv_in", pixels, padding=1)
        for level in range(len(WIDTHS)):
            for number in range(BLOCKS):
                x = self.block(f"encoder.down.{level}.block.{number}", x)
            if level < len(WIDTHS) - 1:
                x = self.conv(f"encoder.down.{level}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
        x = F.silu(self.norm("encoder.norm_out", self.middle("encoder.mid", x)))
        return self.conv("quant_conv", self.conv("encoder.conv_out", x, padding=1))

    def pixels(self, z: torch.Tensor) -> torch.Tensor:
        x = self.conv("decoder.conv_in", self.conv("post_quant_conv", z), padding=1)
        x = self.middle("decoder.mid", x)
        for level in reversed(range(len(WIDTHS))):
            for number in range(BLOCKS + 1):
                x = self.block(f"decoder.up.{level}.block.{number}", x)
            if level:
                x = self.conv(
                    f"decoder.up.{level}.upsample.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1
                )
        return self.conv("decoder.conv_out", F.silu(self.norm("decoder.norm_out", x)), padding=1)


@pytest.fixture(scope="module")
def state():
    return compvis_state(WIDTHS, BLOCKS)


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("autoencoder") / "autoencoder_kl.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def autoencoder(file):
    return KLAutoencoder.from_path(file)


def some_images(count: int = 2, height: int = 24, width: int = 32) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def some_latents(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 3, 4, generator=torch.Generator().manual_seed(0))


def test_moments_are_those_of_compvis(autoencoder, state):
    """Pixels from 0..255 to [-1, 1]; to 1e-5 of numbers of size one, the rounding of twenty layers in float32."""
    images = some_images()
    moments = autoencoder.moments(images)
    expected = Oracle(state).moments((images.double() / 127.5 - 1).float().permute(0, 3, 1, 2))
    assert moments.shape == (2, 8, 3, 4)
    assert expected.std() > 0.3
    assert torch.allclose(moments, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_images_are_those_of_compvis(autoencoder, state):
    """Before rounding to 1e-5, and after it exactly, at the latents' scale of the authors."""
    latents = some_latents()
    expected = Oracle(state).pixels(latents / 0.23010)
    pixels = autoencoder.vae.decode(latents / SCALE).sample
    assert torch.allclose(pixels, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    levels = (0.5 * (pixels + 1)).clamp(0, 1).mul(255).add(0.5).floor().byte().permute(0, 2, 3, 1)
    images = autoencoder.decode(latents)
    assert torch.equal(images, levels)
    assert len(images.unique()) > 200


def test_saving_an_image_rounds_as_torchvision_does(autoencoder, tmp_path):
    from torchvision.utils import save_image

    latents = some_latents(1)
    pixels = autoencoder.vae.decode(latents / SCALE).sample
    save_image((0.5 * (pixels + 1)).clamp(0, 1), tmp_path / "image.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), autoencoder.decode(latents)[0].numpy())


def test_encode_is_the_scaled_mean(autoencoder):
    assert isinstance(autoencoder, Autoencoder)
    images = some_images()
    moments = autoencoder.moments(images)
    assert torch.equal(autoencoder.encode(images), 0.23010 * moments[:, :4])
    assert torch.equal(autoencoder.sample(moments, torch.zeros(2, 4, 3, 4)), autoencoder.encode(images))
    assert torch.equal(KLAutoencoder(autoencoder.vae, scale=2.0).encode(images), 2.0 * moments[:, :4])


def test_a_sample_is_mean_and_noise():
    """Variance e^2 and mean 3 give 0.5 * (3 + e * 2); extreme log-variances are kept in [-30, 20]."""
    moments = torch.tensor([3.0, 3.0, 3.0, 2.0, 1000.0, -1000.0]).reshape(1, 6, 1, 1)
    values = sample_moments(moments, torch.full((1, 3, 1, 1), 2.0), 0.5).flatten().double()
    expected = 0.5 * (3 + 2 * torch.tensor([1.0, 10.0, -15.0], dtype=torch.float64).exp())
    assert torch.allclose(values, expected, rtol=1e-6)


def test_a_sample_is_that_of_diffusers(autoencoder):
    moments = autoencoder.moments(some_images())
    drawn = autoencoder.vae.encode(torch.zeros(1, 3, 8, 8)).latent_dist.__class__(moments)
    noise = torch.randn(2, 4, 3, 4, generator=torch.Generator().manual_seed(1))
    expected = SCALE * drawn.sample(torch.Generator().manual_seed(1))
    assert torch.allclose(autoencoder.sample(moments, noise), expected, atol=1e-6)


def test_an_item_does_not_depend_on_its_batch(autoencoder):
    """Over the bound of a chunk; to float32's rounding, and one grey level after it."""
    images, latents = some_images(11, 8, 16), some_latents(11)
    together = autoencoder.moments(images)
    decoded = autoencoder.decode(latents)
    for i in [0, 9, 10]:
        assert torch.allclose(autoencoder.moments(images[i : i + 1])[0], together[i], atol=1e-4)
        assert (autoencoder.decode(latents[i : i + 1])[0].int() - decoded[i].int()).abs().max() <= 1


def test_half_precision_is_rounded_to_levels_in_full(autoencoder, file):
    """Latents and images of any type are taken; bfloat16 holds 8 bits, and no more than their error is added."""
    half = KLAutoencoder.from_path(file, dtype=torch.bfloat16)
    pixels = half.vae.decode((some_latents() / SCALE).bfloat16()).sample
    levels = (0.5 * (pixels.double() + 1)).clamp(0, 1).mul(255).add(0.5).floor().byte().permute(0, 2, 3, 1)
    assert (half.decode(some_latents()).int() - levels.int()).abs().max() == 0
    assert half.moments(some_images()).dtype == torch.bfloat16


def test_it_is_frozen_and_keeps_no_graph(autoencoder):
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    assert not autoencoder.moments(some_images(1)).requires_grad


def test_a_folder_of_diffusers_gives_the_same(autoencoder, tmp_path, capfd):
    autoencoder.vae.save_pretrained(tmp_path)
    loaded = KLAutoencoder.from_path(tmp_path, scale=0.5, dtype=torch.float64)
    assert loaded.scale == 0.5
    images = some_images()
    assert torch.allclose(loaded.encode(images), 0.5 / SCALE * autoencoder.encode(images).double(), atol=1e-4)
    assert loaded.decode(0.5 * some_latents().double()).shape == (2, 24, 32, 3)
    assert capfd.readouterr() == ("", "")


def test_sizes_come_from_the_weights(autoencoder):
    assert autoencoder.vae.config.block_out_channels == WIDTHS
    assert autoencoder.vae.config.layers_per_block == BLOCKS


def test_images_that_do_not_divide_are_refused(autoencoder):
    with pytest.raises(CrossFlowError, match="Images of 24 x 20 do not divide into cells of side 8"):
        autoencoder.encode(some_images(1, 24, 20))
