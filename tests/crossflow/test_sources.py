"""Where a flow begins: every source gives the Gaussian that it says it does."""

import math

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.sources.codec import CodecConfig
from crossflow.sources.fixed import DeterministicConfig, FixedNoiseConfig
from crossflow.sources.image import ImageEncoderConfig
from crossflow.sources.upsample import UpsampleConfig
from crossflow.sources.variational import VariationalConfig

TEXT = VariationalConfig(width=8, depth=1, heads=2)
SHAPE = (3, 4, 4)


def tokens(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(seed)), torch.ones(5, 4, dtype=torch.bool)


def test_deterministic_is_the_mean_whatever_the_noise():
    torch.manual_seed(0)
    source = DeterministicConfig(mean_of=TEXT).build((4, 6), SHAPE)
    one, other = (source(*tokens()).sample(torch.randn(5, *SHAPE)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(one, source.encoder(*tokens()).mean)


def test_fixed_noise_has_one_deviation_about_the_mean():
    torch.manual_seed(0)
    source = FixedNoiseConfig(mean_of=TEXT, sd=0.3).build((4, 6), SHAPE)
    noise = torch.randn(5, *SHAPE)
    gaussian = source(*tokens())
    assert torch.allclose(gaussian.sample(noise), source.encoder(*tokens()).mean + 0.3 * noise, atol=1e-6)


def test_the_mean_is_trained_through_fixed_noise_and_the_variance_is_not():
    torch.manual_seed(0)
    source = FixedNoiseConfig(mean_of=TEXT, sd=0.3).build((4, 6), SHAPE)
    source(*tokens()).sample(torch.randn(5, *SHAPE)).square().sum().backward()
    half = math.prod(SHAPE) if source.encoder.readout == "flat" else SHAPE[0]
    weight = source.encoder.head.weight.grad
    assert weight is not None
    assert weight[:half].abs().max() > 1e-4
    assert weight[half:].abs().max() == 0


@pytest.mark.parametrize("sd", [0.0, 0.25])
def test_a_codecs_latent_is_the_source(sd):
    latents, noise = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    source = CodecConfig(sd=sd).build(SHAPE, SHAPE)
    assert torch.allclose(source(latents).sample(noise), latents + sd * noise, atol=1e-6)
    with pytest.raises(CrossFlowError, match=r"Latents \[3, 2, 2\] are read"):
        CodecConfig(sd=sd).build((3, 2, 2), SHAPE)


def test_fixed_noise_of_an_image_encoder():
    image = ImageEncoderConfig(width=8, depth=1, heads=1, patch=4)
    source = DeterministicConfig(mean_of=image).build((3, 16, 16), SHAPE)
    assert source(torch.rand(2, 3, 16, 16), None).mean.shape == (2, *SHAPE)


def test_an_enlargement_has_the_latents_shape():
    with pytest.raises(CrossFlowError, match="enlarged 2 times"):
        UpsampleConfig(factor=2).build((3, 4, 4), (3, 4, 4))


@pytest.mark.parametrize("sd", [0.0, -1.0, math.inf, math.nan])
def test_no_other_deviation(sd):
    with pytest.raises(CrossFlowError, match="sd is"):
        FixedNoiseConfig(mean_of=TEXT, sd=sd)
