"""Features do not depend on how outputs were grouped, and the cache never answers for other pixels or other weights."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import CHUNK, FeatureCache, FeatureExtractor, OnFeatures, extract, keep_features


class ConvExtractor:
    """A small real network, so that the law is about the kernels that torch picks; counts the images it is given."""

    name = "conv"
    dim = 24

    def __init__(self, weights_sha256: str = "a" * 64) -> None:
        self.weights_sha256 = weights_sha256
        self.calls: list[int] = []
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._net = torch.nn.Sequential(
                torch.nn.Conv2d(3, 16, 3, 2), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2), torch.nn.ReLU(),
                torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 24),
            ).eval()  # fmt: skip

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.calls.append(len(images))
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2).float() / 255
            return self._net(batch).numpy()


def pictures(n: int) -> list[np.ndarray]:
    return list(np.random.default_rng(n).integers(0, 256, size=(n, 32, 32, 3), dtype=np.uint8))


def test_it_is_an_extractor() -> None:
    assert isinstance(ConvExtractor(), FeatureExtractor)


@pytest.mark.parametrize("sizes", [[150], [1] * 150, [64, 86], [63, 65, 22]])
def test_features_are_equal_bit_for_bit_whatever_the_partition(sizes: list[int]) -> None:
    images, extractor = pictures(150), ConvExtractor()
    ends = np.cumsum(sizes)
    parts = [extract(extractor, images[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
    assert np.array_equal(np.concatenate(parts), extract(ConvExtractor(), images[::-1])[::-1])
    assert set(extractor.calls) == {CHUNK}


def test_nothing_gives_nothing() -> None:
    assert extract(ConvExtractor(), []).shape == (0, 24)


def test_the_cache_gives_the_same_bits_and_spares_the_network(tmp_path: Path) -> None:
    images = pictures(70)
    expected = FeatureCache(ConvExtractor(), tmp_path / "features").extract(images[:40])
    again = ConvExtractor()
    cache = FeatureCache(again, tmp_path / "features")
    assert np.array_equal(cache.extract(images[:40]), expected)
    assert again.calls == []
    whole = cache.extract(images)
    assert len(again.calls) == 1
    assert np.array_equal(whole, extract(ConvExtractor(), images))


def test_equal_images_are_computed_once_and_given_twice(tmp_path: Path) -> None:
    [image] = pictures(1)
    cache = FeatureCache(ConvExtractor(), tmp_path)
    features = cache.extract([image, image.copy()])
    assert np.array_equal(features[0], features[1])


def test_other_pixels_and_other_weights_are_computed_anew(tmp_path: Path) -> None:
    images = pictures(3)
    FeatureCache(ConvExtractor(), tmp_path).extract(images)
    extractor = ConvExtractor()
    FeatureCache(extractor, tmp_path).extract([images[0], images[1] ^ 1, images[2]])
    assert len(extractor.calls) == 1
    other = ConvExtractor("b" * 64)
    FeatureCache(other, tmp_path).extract(images)
    assert len(other.calls) == 1
    old = ConvExtractor()
    FeatureCache(old, tmp_path).extract(images)
    assert old.calls == [], "each has a file of its own"


@pytest.mark.parametrize("other", ["environment.source_sha256", "judges.features.code_sha256"])
def test_features_of_other_code_are_computed_anew_in_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """A result says which code made it; a release that mends a network must not be given the features of the last."""
    images = pictures(3)
    cache = FeatureCache(ConvExtractor(), tmp_path)
    cache.extract(images)
    with monkeypatch.context() as context:
        context.setattr(f"crossflow_eval.{other}", lambda *_: "0" * 64)
        extractor = ConvExtractor()
        FeatureCache(extractor, tmp_path).extract(images[:2])
        FeatureCache(extractor, tmp_path).extract(images[:2])
        assert len(extractor.calls) == 1
    again = ConvExtractor()
    assert np.array_equal(FeatureCache(again, tmp_path).extract(images), extract(ConvExtractor(), images))
    assert len(again.calls) == 1
    assert [path.name for path in tmp_path.iterdir()] == [cache.path.name]


def test_ranks_read_what_the_others_kept(tmp_path: Path) -> None:
    images = pictures(20)
    for rank in (0, 1):
        FeatureCache(ConvExtractor(), tmp_path, rank).extract(images[rank::2])
    assert len(list(tmp_path.iterdir())) == 2
    extractor = ConvExtractor()
    assert np.array_equal(FeatureCache(extractor, tmp_path).extract(images), extract(ConvExtractor(), images))
    assert extractor.calls == []


@pytest.mark.parametrize("damage", ["truncate", "empty", "head", "text", "number"])
def test_a_damaged_cache_is_computed_anew_and_mended(tmp_path: Path, damage: str) -> None:
    images = pictures(5)
    cache = FeatureCache(ConvExtractor(), tmp_path)
    expected = cache.extract(images)
    content = cache.path.read_bytes()
    place = content.index(expected[2].tobytes())
    broken = {
        "truncate": content[:-7],
        "empty": b"",
        "head": content[:9],
        "text": b"not a file of features at all",
        "number": content[:place] + np.float32(0.5).tobytes() + content[place + 4 :],
    }[damage]
    cache.path.write_bytes(broken)
    extractor = ConvExtractor()
    assert np.array_equal(FeatureCache(extractor, tmp_path).extract(images), expected)
    assert len(extractor.calls) == 1
    again = ConvExtractor()
    assert np.array_equal(FeatureCache(again, tmp_path).extract(images), expected)
    assert again.calls == []
    assert [path.name for path in tmp_path.iterdir()] == [cache.path.name]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file in the way")
    with pytest.raises(CrossFlowError, match="Cannot write"):
        FeatureCache(ConvExtractor(), tmp_path / "features").extract(pictures(1))


def test_metrics_of_one_network_share_their_features(tmp_path: Path) -> None:
    other = OnFeatures(ConvExtractor("b" * 64))
    metrics = {"a": OnFeatures(ConvExtractor()), "b": OnFeatures(ConvExtractor()), "c": other, "d": object()}
    caches = keep_features(metrics, tmp_path, 0)
    assert list(caches) == ["a", "b", "c"]
    assert caches["a"] is caches["b"] is not caches["c"]


def test_a_metric_takes_the_features_that_it_is_given_and_else_makes_them() -> None:
    images, metric = pictures(3), OnFeatures(ConvExtractor())
    assert np.array_equal(metric.features_of(images), extract(ConvExtractor(), images))
    assert metric.features_of(images, given := np.zeros((3, 2), np.float32)) is given


@pytest.mark.parametrize("answer", [np.zeros((CHUNK, 23)), np.full((CHUNK, 24), np.inf)])
def test_an_extractor_that_answers_wrongly_is_refused(answer: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConvExtractor, "__call__", lambda self, images: answer)
    with pytest.raises(ValueError):
        extract(ConvExtractor(), pictures(2))


def test_features_that_are_not_finite_are_none_and_a_folder_is_no_file_of_them(tmp_path: Path) -> None:
    images = pictures(3)
    cache = FeatureCache(ConvExtractor(), tmp_path)
    expected = cache.extract(images)
    content = cache.path.read_bytes()
    place = content.index(expected[1].tobytes())
    spoilt = np.full_like(expected[1], np.nan).tobytes()
    check = zlib.crc32(spoilt).to_bytes(4, "little")
    end = place + len(spoilt)
    cache.path.write_bytes(content[:place] + spoilt + check + content[end + 4 :])
    extractor = ConvExtractor()
    assert np.array_equal(FeatureCache(extractor, tmp_path).extract(images), expected)
    assert len(extractor.calls) == 1
    cache.path.unlink()
    cache.path.mkdir()
    with pytest.raises(CrossFlowError, match="is no file of features"):
        FeatureCache(ConvExtractor(), tmp_path)
