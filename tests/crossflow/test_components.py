"""Sounds, depth maps and films as principal components of patches: what a token sees, what comes back, what is read."""

from dataclasses import asdict

import numpy as np
import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.modalities import TARGETS
from crossflow.modalities.modality import Modality
from crossflow.scenes.events import event
from crossflow.scenes.facts import FACTORS, right, tells
from crossflow.scenes.sense import read, value

CODECS = {"image": "patch-pca", "depth": "depth-pca", "audio": "audio-pca", "video": "video-pca"}
SIDES = {"image": (1, 2), "depth": (1, 2), "audio": (1, 2), "video": (2, 3)}
"""The axes of raw values that are divided into patches."""


def values(modality: str, split: str, count: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([value(event(split, index), modality) for index in range(count)]))


def codec(modality: str, raw: torch.Tensor, **settings: int) -> Modality:
    config = TARGETS[CODECS[modality]](**settings)
    built = config.build((config.components, 4, 4))
    built.fit(raw)
    return built


@pytest.fixture(scope="module", params=list(CODECS))
def fitted(request: pytest.FixtureRequest) -> tuple[str, Modality]:
    """A codec as the registry has it, fitted to events of the training split."""
    return request.param, codec(request.param, values(request.param, "train", 150))


def test_the_readers_find_in_what_comes_back_what_an_event_tells(fitted):
    """The promise of a codec; n is small here, and ``python -m benchmarks.codecs`` measures it."""
    modality, built = fitted
    events = [event("test", index) for index in range(30)]
    latents = built.prepare([value(item, modality) for item in events])
    assert latents.shape == (30, built.config.components, 4, 4)
    verdicts = [
        verdict
        for item, back in zip(events, built.decode(latents).numpy(), strict=True)
        for factor in FACTORS
        if (verdict := right(read(modality, back), tells(item, modality), factor)) is not None
    ]
    assert np.mean(verdicts) >= 0.95


def test_a_token_is_of_its_own_cell_alone(fitted):
    modality, built = fitted
    one, other = values(modality, "test", 2).unbind()
    mixed = one.clone()
    cell = [slice(None)] * mixed.ndim
    for axis, at in zip(SIDES[modality], (1, 2), strict=True):
        cell[axis - 1] = slice(8 * at, 8 * at + 8)
    mixed[tuple(cell)] = other[tuple(cell)]
    latents = built.encode(torch.stack([one, other, mixed]))
    expected = latents[0].clone()
    expected[:, 1, 2] = latents[1, :, 1, 2]
    torch.testing.assert_close(latents[2], expected, rtol=0, atol=1e-5)


def test_latents_have_the_standard_deviation_that_was_asked_for():
    raw = values("audio", "train", 100)
    latents = codec("audio", raw, components=16).encode(raw)
    assert latents.square().mean().sqrt() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("modality", ["depth", "audio"])
def test_all_components_give_numbers_back(modality):
    raw = values(modality, "train", 20)
    back = codec(modality, raw, components=64).decode(codec(modality, raw, components=64).encode(raw))
    expected = raw.clamp(min=1.5).where(raw < 70, torch.inf) if modality == "depth" else raw
    assert back.dtype == torch.float32
    torch.testing.assert_close(
        back.where(raw < 70, torch.inf) if modality == "depth" else back, expected, rtol=1e-3, atol=1e-3
    )


def test_all_components_give_a_film_back():
    raw = values("video", "train", 8)[:, :, :8, :8]
    built = codec("video", raw, patch=2, components=96)
    assert torch.equal(built.decode(built.encode(raw)), raw)


def test_the_sky_comes_back_as_infinite_and_what_is_near_does_not():
    raw = values("depth", "train", 60)
    built = codec("depth", raw)
    back = built.decode(built.encode(raw))
    assert (back.isinf() == raw.isinf())[raw.isinf() | (raw < 40)].double().mean() > 0.99


@pytest.mark.parametrize("kind", CODECS.values())
def test_a_config_comes_back_from_its_record(kind):
    config = TARGETS[kind](components=9, sd=0.5)
    assert TARGETS[config.kind](**asdict(config)) == config
    assert isinstance(config.build((9, 4, 4)), Modality)
    with pytest.raises(CrossFlowError, match=r"There are 9 components, and the latents \[8, 4, 4\] have others"):
        config.build((8, 4, 4))
    with pytest.raises(CrossFlowError, match="components is 2000, but a patch of side 8 has only"):
        TARGETS[kind](components=2_000)


def test_a_film_of_other_frames_is_refused():
    raw = values("video", "train", 4)
    with pytest.raises(CrossFlowError, match="A film has 5 frames, and this codec is of 8"):
        codec("video", raw[:, :, :8, :8], patch=2, components=4).encode(raw[:, :5])
