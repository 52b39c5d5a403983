"""The embedded world's metrics on fakes whose answers are known by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.features import keep_features
from crossflow_eval.metrics.fid import FID
from crossflow_eval.metrics.frechet import Moments, frechet_distance
from crossflow_eval.metrics.scenes import (
    TASKS,
    SceneCaptions,
    SceneCLIPScore,
    SceneContent,
    SceneGenEval,
    SceneInceptionScore,
)
from crossflow_eval.types import Example, Metric


@dataclass
class FakeFound:
    shape: str
    color: str
    box: tuple[int, int, int, int]


def read(image: np.ndarray) -> list[FakeFound]:
    """As many red balls, side by side, as the first pixel says."""
    return [FakeFound("ball", "red", (4 * i, 0, 4 * i + 3, 3)) for i in range(int(image[0, 0, 0]))]


def picture(value: int) -> np.ndarray:
    return np.full((4, 4, 3), value, dtype=np.uint8)


def ball(id: str, task: str, count: int = 1) -> Example:
    include = [{"class": "ball", "count": count, "color": "red"}]
    return Example(id=id, source=f"{count} red balls", target={"tag": task, "include": include})


class MeanExtractor:
    """Features [mean, 1]: an extractor whose cosine and distance can be computed by hand."""

    name, weights_sha256, dim = "mean", "c" * 64, 2

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return np.array([[image.mean(), 1.0] for image in images], dtype=np.float32)


def test_they_are_metrics() -> None:
    metrics = [SceneGenEval(read), SceneCLIPScore(MeanExtractor(), lambda texts: np.zeros((len(texts), 2)))]
    metrics.append(FID(MeanExtractor(), np.zeros((2, 2)), reference_name="zeros"))
    assert all(isinstance(metric, Metric) for metric in metrics)


def looks_score(classify, count: int) -> SceneInceptionScore:
    metric = SceneInceptionScore(MeanExtractor(), classify, classes="four")
    for start in range(0, count, 7):
        images = [picture(index % 4) for index in range(start, min(start + 7, count))]
        metric.update([Example(id=str(index), source="") for index in range(len(images))], images)
    return metric


def test_the_inception_scores_formula_on_another_classifier() -> None:
    """Closed form: 1 where every image says the same; the classes in a part where all are certain and even."""
    vague = looks_score(lambda features: np.full((len(features), 4), 0.25), 20).compute()
    assert vague["inception_score_looks"].mean == pytest.approx(1.0, abs=1e-12)
    score = looks_score(lambda features: np.eye(4)[features[:, 0].astype(int)], 4000)
    value = score.compute()["inception_score_looks"]
    assert (value.mean, value.n) == (pytest.approx(4.0, abs=0.05), 4000)
    assert isinstance(score, Metric) and "not Inception" in score.protocol["classifier"]


def test_the_formula_needs_an_output_a_part() -> None:
    few = looks_score(lambda features: np.full((len(features), 4), 0.25), 9)
    assert few.compute() == {}
    assert few.protocol["warning"] == "no score: 10 outputs are needed, got 9"


def test_geneval_is_the_mean_of_six_tasks_not_of_outputs() -> None:
    metric = SceneGenEval(read)
    examples = [ball(f"{task}{i}", task) for task, n in zip(TASKS, (10, 1, 1, 1, 1, 1), strict=True) for i in range(n)]
    outputs = [picture(int(example.target["tag"] == "single_object")) for example in examples]
    rows = metric.update(examples, outputs)
    values = metric.compute()
    assert values["geneval"].mean == pytest.approx(1 / 6)
    assert (values["geneval/single_object"].mean, values["geneval/single_object"].n) == (1.0, 10)
    assert values["geneval/counting"].mean == 0.0 and values["geneval"].n == 15
    assert rows[0] == {
        "task": "single_object",
        "correct": True,
        "reason": "",
        "detections": [{"label": "ball", "color": "red", "box": [0.0, 0.0, 3.0, 3.0]}],
    }
    assert rows[-1]["correct"] is False and rows[-1]["reason"]


def test_geneval_has_no_overall_value_where_a_task_is_missing() -> None:
    metric = SceneGenEval(read)
    metric.update([ball("a", "counting")], [picture(1)])
    assert list(metric.compute()) == ["geneval/counting"]


def test_several_outputs_of_an_example_are_one_unit() -> None:
    metric = SceneGenEval(read)
    metric.update([ball("a", "counting")] * 3 + [ball("b", "counting")], [picture(v) for v in (1, 1, 0, 0)])
    value = metric.compute()["geneval/counting"]
    assert (value.mean, value.n) == (pytest.approx(1 / 3), 2)


def test_an_example_without_specification_is_refused() -> None:
    with pytest.raises(CrossFlowError, match="specification"):
        SceneGenEval(read).update([Example(id="a", source="x")], [picture(1)])


@pytest.mark.parametrize("output", ["a caption", np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4, 3))])
def test_outputs_of_another_kind_are_refused(output) -> None:
    with pytest.raises(CrossFlowError, match="uint8"):
        SceneGenEval(read).update([ball("a", "counting")], [output])


def test_the_clip_score_is_the_clipped_cosine() -> None:
    """cos([v, 1], [1, 0]) = v / sqrt(v^2 + 1); the opposite text scores 0, and so the mean is not cos' own."""
    signs = {"same": 1.0, "opposite": -1.0}
    metric = SceneCLIPScore(MeanExtractor(), lambda texts: np.array([[signs[text], 0.0] for text in texts]))
    examples = [Example(id="a", source="same"), Example(id="b", source="opposite")]
    rows = metric.update(examples, [picture(3), picture(3)])
    expected = 3 / np.sqrt(10)
    assert [row["clip_score"] for row in rows] == pytest.approx([expected, 0.0])
    assert metric.compute()["clip_score"].mean == pytest.approx(expected / 2)


def test_fid_is_the_frechet_distance_of_all_outputs_whatever_the_batches(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    outputs = [picture(int(v)) for v in generator.integers(0, 256, 90)]
    reference = generator.normal(120, 30, size=(50, 2))
    values, protocols = [], []
    for size, cache in itertools.product((7, 90), (None, tmp_path)):
        metric = FID(MeanExtractor(), lambda: reference, reference_name="normal")
        caches = {} if cache is None else keep_features({"fid": metric}, cache, 0)
        for start in range(0, 90, size):
            part = outputs[start : start + size]
            features = caches["fid"].extract(part) if caches else None
            metric.update([Example(id="x", source="")] * len(part), part, features)
        values.append(metric.compute()["fid"])
        protocols.append(metric.protocol)
    features = MeanExtractor()(outputs).astype(np.float64)
    expected = frechet_distance(Moments.of_features(features), Moments.of_features(reference))
    assert values[0].mean == pytest.approx(expected, rel=1e-12)
    assert values[0].n == 90 and values[0].ci_low < expected < values[0].ci_high  # type: ignore[operator]
    assert all(value == values[0] for value in values)
    assert len(list(tmp_path.glob("mean-*-0.features"))) == 1
    assert all("warning" not in protocol for protocol in protocols)


def test_fid_says_when_its_covariance_is_singular() -> None:
    metric = FID(MeanExtractor(), np.zeros((2, 2)), reference_name="zeros")
    metric.update([Example(id="x", source="")] * 2, [picture(1), picture(2)])
    value = metric.compute()["fid"]
    assert value.ci_low is None
    assert "2 outputs" in metric.protocol["warning"] and "2 references" in metric.protocol["warning"]


def test_fid_of_one_output_is_refused() -> None:
    metric = FID(MeanExtractor(), np.zeros((2, 2)), reference_name="zeros")
    metric.update([Example(id="x", source="")], [picture(1)])
    with pytest.raises(CrossFlowError, match="two outputs"):
        metric.compute()


def told(*looks: str, night: bool | None = None) -> SceneContent:
    objects = Counter((color, shape) for color, shape in (look.split() for look in looks))
    return SceneContent(objects=objects, night=night)


SAID = {
    "right": told("red ball", "red ball", "blue box", night=True),
    "twice": told("red ball", "blue box", night=True),
    "more": told("red ball", "red ball", "blue box", "pink cone", "green ring"),
    "day": told("red ball", "red ball", "blue box", night=False),
    "nothing": told(),
}


def captions_judged(*captions: str) -> tuple[list[dict], dict[str, float]]:
    metric = SceneCaptions(SAID.__getitem__, lambda example: SAID["right"], grammar="a table")
    assert isinstance(metric, Metric)
    rows = metric.update([Example(id=str(i), source="") for i in range(len(captions))], list(captions))
    return rows, {name: value.mean for name, value in metric.compute().items()}


def test_captions_are_right_when_they_name_the_multiset_and_the_light() -> None:
    """By hand: 2 balls and a box at night."""
    rows, means = captions_judged("right", "twice", "more", "day", "nothing")
    assert [row["correct"] for row in rows] == [True, False, False, False, False]
    assert [row["object_f1"] for row in rows] == pytest.approx([1, 4 / 5, 6 / 8, 1, 0])
    assert [row["reason"] for row in rows] == [
        "",
        "not named: red ball",
        "not there: green ring, pink cone; said neither day nor night, it is night",
        "said day, it is night",
        "not named: blue box, red ball, red ball; said neither day nor night, it is night",
    ]
    assert means == pytest.approx({"objects": 2 / 5, "object_f1": (1 + 0.8 + 0.75 + 1) / 5, "light": 2 / 5})


def test_what_is_no_caption_is_refused() -> None:
    metric = SceneCaptions(SAID.__getitem__, lambda example: SAID["right"], grammar="a table")
    with pytest.raises(CrossFlowError, match="got ndarray; give text"):
        metric.update([Example(id="a", source="")], [picture(0)])
