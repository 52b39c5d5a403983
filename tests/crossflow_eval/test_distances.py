"""The metrics of all outputs on an extractor whose features are known: values, intervals, protocols, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import keep_features
from crossflow_eval.metrics import distances, distribution
from crossflow_eval.metrics.distances import FeatureMetric, Statistic
from crossflow_eval.metrics.frechet import Moments
from crossflow_eval.metrics.neighbourhoods import neighbourhoods
from crossflow_eval.stats import bootstrap_mean
from crossflow_eval.types import Example, Metric, Value


class Pixels:
    """An image's own first pixels, over 64, as its features."""

    name, weights_sha256, dim = "pixels", "d" * 64, 6

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([image.reshape(-1)[:6] for image in images]).astype(np.float32) / 64


def pictures(n: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).binomial(255, 0.4 + seed / 50, size=(n, 2, 2, 3)).astype(np.uint8))


REFERENCE = Pixels()(pictures(1100, 1))
MOMENTS = Moments.of_features(REFERENCE)


def reference() -> np.ndarray:
    return REFERENCE


STATISTICS = {
    "inception_score": distances.inception_score(),
    "inception_score_adm": distances.inception_score_adm(),
    "kid": distances.kid(reference, "pictures"),
    "precision": distances.precision_recall(reference, "pictures"),
    "prdc": distances.prdc(reference, "pictures"),
    "cmmd": distances.cmmd(reference, "pictures"),
    "fid_infinity": distances.fid_infinity(lambda: MOMENTS, "pictures"),
}


def measure(statistic: Statistic, images: list[np.ndarray], size: int = 64, cache: Path | None = None) -> FeatureMetric:
    metric = FeatureMetric(Pixels(), statistic)
    caches = {} if cache is None else keep_features({"it": metric}, cache, 0)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        features = caches["it"].extract(part) if caches else None
        assert metric.update([Example(id="x", source="")] * len(part), part, features) is None
    return metric


@pytest.fixture(scope="module")
def values() -> dict[str, Value]:
    """Everything of 1,050 outputs; KID over three subsets, to save time."""
    images, found = pictures(1050, 0), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "kid", partial(distribution.kid, subsets=3))
        for statistic in STATISTICS.values():
            found |= measure(statistic, images).compute()
    return found


def test_they_are_metrics_with_different_values_and_what_made_them(values: dict[str, Value]) -> None:
    better: dict[str, bool] = {}
    for statistic in STATISTICS.values():
        metric = FeatureMetric(Pixels(), statistic)
        assert isinstance(metric, Metric)
        assert not better.keys() & metric.higher_is_better.keys()
        better |= metric.higher_is_better
        assert metric.protocol["weights_sha256"] == "d" * 64 and "interval" in metric.protocol
    assert values.keys() - better.keys() == {"kid_std", "inception_score_std"}
    assert better.keys() <= values.keys()
    assert {value.n for value in values.values()} == {1050}


def test_the_values_are_those_of_the_functions(values: dict[str, Value]) -> None:
    features = Pixels()(pictures(1050, 0))
    closed = neighbourhoods(features, REFERENCE, k=3, closed=True)
    opened = neighbourhoods(features, REFERENCE, k=5, closed=False)
    kernel, scores = distribution.kid(features, REFERENCE, subsets=3), distribution.inception_scores(features)
    expected = {
        "inception_score": scores.mean(),
        "inception_score_std": scores.std(),
        "inception_score_adm": distribution.inception_scores_adm(features)[0],
        "kid": kernel.mean(),
        "kid_std": kernel.std(),
        "precision": closed.precision,
        "recall": closed.recall,
        "prdc/precision": opened.precision,
        "prdc/recall": opened.recall,
        "prdc/density": opened.density,
        "prdc/coverage": opened.coverage,
        "cmmd": distribution.cmmd(features, REFERENCE),
        "fid_infinity": distribution.frechet_infinity(features, MOMENTS),
    }
    assert {name: value.mean for name, value in values.items()} == pytest.approx(expected, rel=1e-12)


def test_the_intervals_are_those_that_the_protocols_name(values: dict[str, Value]) -> None:
    features = Pixels()(pictures(1050, 0))
    closed = neighbourhoods(features, REFERENCE, k=3, closed=True)
    assert values["precision"] == bootstrap_mean(closed.hits > 0)
    without = (
        "kid",
        "kid_std",
        "inception_score_adm",
        "recall",
        "prdc/recall",
        "prdc/coverage",
        "cmmd",
        "fid_infinity",
    )
    assert all(values[name].ci_low is None for name in without)
    score, scores = values["inception_score"], distribution.inception_scores(features)
    assert score.ci_high is not None
    assert score.ci_high - score.mean == pytest.approx(2.262157 * scores.std(ddof=1) / np.sqrt(10), rel=1e-6)


@pytest.mark.parametrize("name", ["inception_score", "prdc", "cmmd"])
def test_the_batches_and_the_cache_change_nothing(name: str, tmp_path: Path) -> None:
    images = pictures(150, 2)
    whole = measure(STATISTICS[name], images, size=150).compute()
    assert measure(STATISTICS[name], images, size=7, cache=tmp_path).compute() == whole
    assert measure(STATISTICS[name], images, size=64, cache=tmp_path).compute() == whole
    assert len(list(tmp_path.glob("pixels-*-0.features"))) == 1


@pytest.mark.parametrize("name", STATISTICS)
def test_one_output_too_few_is_refused(name: str) -> None:
    statistic = STATISTICS[name]
    with pytest.raises(CrossFlowError, match=f"{statistic.least} outputs are needed, got {statistic.least - 1}"):
        measure(statistic, pictures(1000, 3)[: statistic.least - 1]).compute()


@pytest.mark.parametrize("make", [distances.kid, distances.precision_recall, distances.prdc])
def test_a_small_reference_is_refused(make) -> None:
    metric = measure(make(lambda: REFERENCE[:3], "three"), pictures(1000, 3))
    with pytest.raises(CrossFlowError, match="reference has 3 images"):
        metric.compute()


def test_a_singular_covariance_is_said_in_the_protocol() -> None:
    """The smallest subset of FID-infinity has a tenth of the outputs: 7 of 70 span 6 dimensions, 6 of 60 do not."""
    for n, warns in ((70, False), (60, True)):
        metric = measure(STATISTICS["fid_infinity"], pictures(n, 4))
        metric.compute()
        assert ("warning" in metric.protocol) is warns


def test_the_extractors_own_constants_are_in_the_protocol() -> None:
    extractor = Pixels()
    assert "resize" not in FeatureMetric(extractor, STATISTICS["cmmd"]).protocol
    extractor.fingerprint = {"resize": "none"}  # pyright: ignore[reportAttributeAccessIssue]
    assert FeatureMetric(extractor, STATISTICS["cmmd"]).protocol["resize"] == "none"


@pytest.mark.parametrize("output", ["a caption", np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4, 3))])
def test_outputs_of_another_kind_are_refused(output) -> None:
    with pytest.raises(CrossFlowError, match="uint8"):
        FeatureMetric(Pixels(), STATISTICS["cmmd"]).update([Example(id="x", source="")], [output])


def test_precision_and_recall_of_adms_float16_distances_are_others_and_the_protocol_says_which() -> None:
    """ADM's evaluator in numpy: |u|^2 - 2 u.v + |v|^2 of features and of sums in float16, radii and comparisons too."""
    features = (0.5 + np.random.default_rng(6).normal(0, 0.05, (2, 300, 512))).astype(np.float32)

    def squares(first: np.ndarray, second: np.ndarray, kind: type) -> np.ndarray:
        first, second = first.astype(kind), second.astype(kind)
        sums = [(each**2).sum(axis=1, dtype=kind) for each in (first, second)]
        products = (first.astype(np.float64) @ second.T.astype(np.float64)).astype(kind)
        return np.maximum(sums[0][:, None] - 2 * products + sums[1], 0).astype(np.float32)

    def precision(kind: type) -> float:
        made, real = features
        radii = np.partition(squares(real, real, kind), 3, axis=1)[:, 3]
        return float((squares(made, real, kind) <= radii).any(axis=1).mean())

    ours = neighbourhoods(*features, k=3, closed=True).precision
    assert ours == precision(np.float64)
    assert ours != precision(np.float16)
    assert "float64 (float16 in ADM's" in str(
        distances.precision_recall(lambda: features[1], "x").constants["distances"]
    )
