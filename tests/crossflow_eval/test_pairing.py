"""Two runs are compared example by example, and only where they may be."""

import dataclasses
import hashlib
import json
from functools import partial

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.metrics.absent import Absent
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.metrics.fid import FID, NO_INTERVAL
from crossflow_eval.metrics.frechet import Moments, frechet_distance
from crossflow_eval.metrics.image_statistics import ImageStatistics
from crossflow_eval.runs import run
from crossflow_eval.runs.compare import compare_runs
from crossflow_eval.stats import Comparison, jackknife
from crossflow_eval.suites import t2i
from crossflow_eval.types import Example, Result, Settings, Suite


def finished(folder, rows, **changes):
    """A finished run of hand-written rows."""
    settings = Settings(suite="s", suite_version="1", model="m", identity={"folder": folder.name})
    record = {
        "settings": settings,
        "protocol": {"judge": {"threshold": 0.5}},
        "n": len(rows),
        "values": {},
        "higher_is_better": {},
        "data_sha256": "0" * 64,
        "environment": {},
    }
    folder.mkdir()
    (folder / "result.json").write_text(Result.model_validate(record | changes).model_dump_json())
    (folder / "per_example.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows(*scores, **more):
    return [{"id": f"e{i}", "index": 0, "prompt": "p", "score": score, **more} for i, score in enumerate(scores)]


def test_the_difference_is_second_minus_first(tmp_path):
    found = compare_runs(finished(tmp_path / "a", rows(1, 2, 4)), finished(tmp_path / "b", rows(2.0, 4.0, 6.0)))
    assert found.scores.keys() == {"score"}
    score = found.scores["score"]
    assert (score.first, score.second) == (pytest.approx(7 / 3), pytest.approx(4))
    assert (score.comparison.difference, score.comparison.n) == (pytest.approx(5 / 3), 3)
    assert (found.first.name, found.second.name, found.examples, found.notes) == ("m", "m", 3, ())


def test_an_example_counts_once_whatever_its_outputs(tmp_path):
    """By hand: e0 scores (0 + 1) / 2 over its two outputs, e1 scores 1."""
    several = [{"id": "e0", "index": 0, "correct": False}, {"id": "e0", "index": 1, "correct": True}]
    several.append({"id": "e1", "index": 0, "correct": True})
    none = [row | {"correct": False} for row in several]
    found = compare_runs(finished(tmp_path / "a", none), finished(tmp_path / "b", several))
    assert found.scores["correct"].comparison.difference == pytest.approx(0.75)
    assert found.scores["correct"].comparison.n == 2


def test_tasks_weigh_alike(tmp_path):
    """By hand: the task of three examples gains 0, the task of one gains 1: the mean over tasks is 1/2."""
    tasks = [{"task": "counting"}] * 3 + [{"task": "colors"}]
    first = [row | task for row, task in zip(rows(0, 0, 0, 0), tasks, strict=True)]
    second = [row | task for row, task in zip(rows(0, 0, 0, 1), tasks, strict=True)]
    found = compare_runs(finished(tmp_path / "a", first), finished(tmp_path / "b", second))
    assert found.scores["score"].comparison.difference == pytest.approx(0.5)
    assert (found.scores["score"].first, found.scores["score"].second) == (0, pytest.approx(0.5)), "tasks weigh alike"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_sha256": "1" * 64}, "differ in their data"),
        ({"protocol": {"judge": {"threshold": 0.6}}}, "differ in their protocol of judge, threshold: 0.5 and 0.6"),
        ({"protocol": {}}, "differ in their metrics"),
        ({"settings": Settings(suite="t", suite_version="1", model="m", identity={})}, "differ in their suite"),
    ],
)
def test_what_may_not_be_compared_is_refused(tmp_path, changes, message):
    with pytest.raises(CrossFlowError, match=message):
        compare_runs(finished(tmp_path / "a", rows(1, 2)), finished(tmp_path / "b", rows(1, 2), **changes))


def test_runs_without_a_score_in_common_or_without_rows_are_refused(tmp_path):
    one = finished(tmp_path / "a", rows(1, 2))
    with pytest.raises(CrossFlowError, match="no score of single outputs in common"):
        compare_runs(one, finished(tmp_path / "b", [{"id": "e0", "index": 0, "other": 1}]))
    (one / "per_example.jsonl").write_text(json.dumps({})[:1])
    with pytest.raises(CrossFlowError, match="score the run again"):
        compare_runs(one, one)


def test_what_is_printed_names_its_method_and_never_contradicts_itself(tmp_path, monkeypatch):
    """An end that is just above 0 is not printed as 0, and p just below 0.05 not as 0.05."""
    one = finished(tmp_path / "a", [row | {"other": row["score"]} for row in rows(1, 2, 4)])
    two = finished(tmp_path / "b", [row | {"other": row["score"]} for row in rows(2.0, 4.0, 6.0)])
    method = compare_runs(one, two).scores["score"].comparison.method
    edge = Comparison(difference=0.01, ci_low=2e-5, ci_high=0.02, p=0.049996, n=3, method=method)
    monkeypatch.setattr("crossflow_eval.runs.compare.compare", lambda *_, **__: edge)
    said = CliRunner().invoke(app, ["compare", str(one), str(two)]).stdout
    assert "[+2.0e-05, +0.0200]" in said and "<0.05" in said
    assert said.count(f"score, other: {method}.\n") == 1 and "covers less" in method


def test_a_task_of_one_example_is_named_as_the_reason_for_no_interval(tmp_path):
    tasks = [{"task": "counting"}] * 3 + [{"task": "colors"}]
    first = [row | task for row, task in zip(rows(0, 0, 0, 0), tasks, strict=True)]
    second = [row | task for row, task in zip(rows(0, 1, 0, 1), tasks, strict=True)]
    found = compare_runs(finished(tmp_path / "a", first), finished(tmp_path / "b", second)).scores["score"].comparison
    assert found.ci_low is None and "no interval of colors" in found.method


def test_a_score_that_runs_report_as_the_plain_mean_is_compared_as_that(tmp_path):
    """By hand: of scores 0, 0, 0 of one task and 1 of another the plain mean is 1/4, that of tasks 1/2."""
    tasks = [{"task": "counting"}] * 3 + [{"task": "colors"}]
    scored = [row | task for row, task in zip(rows(0.0, 0.0, 0.0, 1.0), tasks, strict=True)]
    for mean, notes in ((0.25, 0), (0.5, 0), (0.3, 1)):
        runs = [finished(tmp_path / f"{name}{mean}", scored, values={"score": {"mean": mean, "n": 4}}) for name in "ab"]
        found = compare_runs(*runs)
        assert found.scores["score"].first == (0.5 if notes else mean)
        assert len(found.notes) == notes and all("not how a report gives them" in note for note in found.notes)


def test_captions_are_not_compared_by_what_depends_on_how_many_were_scored_nor_bleu_taken_for_the_runs_own(tmp_path):
    """The same captions have another CIDEr-D among 12 images than among 30, and BLEU is no mean over captions."""
    words = np.random.default_rng(0).choice(list("abcdefgh"), size=(30, 3, 8))
    examples = [
        Example(id=f"e{i}", source="", target=[" ".join(each) for each in of[:2]]) for i, of in enumerate(words)
    ]
    said = {f"e{i}": " ".join([*of[0][:5], *of[2][:2]]) for i, of in enumerate(words)}
    scores = partial(CaptionScores, tokens="words", with_meteor=False)
    suite = Suite(
        name="s", version="1", task="caption", output="txt", examples=lambda _: [], metrics={"captions": scores}
    )

    class Said:
        name, identity = "said", {}

        def read(self, example_id, index):
            return said[example_id]

    places = [tmp_path / "whole", tmp_path / "part"]
    for place, n in zip(places, (30, 12), strict=True):
        settings = run.make_settings(suite, Said(), limit=n if n < 30 else None)
        whole = run.run(suite, Said(), settings, examples[:n], place)
    found = compare_runs(*places)
    assert found.scores.keys() == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"}
    assert all(score.comparison.difference == 0 for score in found.scores.values())
    assert found.scores["rouge_l"].second == pytest.approx(whole.values["rouge_l"].mean)
    assert "cider_d is left out" in found.notes[1]
    assert found.notes[2].startswith("bleu_2, bleu_3, bleu_4: means over examples")
    assert "cider_d" in compare_runs(places[0], places[0]).scores


class Colours:
    """The mean colour of an image."""

    name, weights_sha256, dim = "colours", "1" * 64, 3

    def __call__(self, images):
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)


class Painter:
    """Images of one colour each, some brighter than others."""

    def __init__(self, name, brightest):
        self.name, self.identity, self._brightest = name, {"brightest": brightest}, brightest

    def generate(self, sources, seeds):
        painted = [np.random.default_rng(seed).integers(0, self._brightest, 3, dtype=np.uint8) for seed in seeds]
        return [np.broadcast_to(colour, (4, 4, 3)) for colour in painted]


@pytest.fixture
def painted(tmp_path, monkeypatch):
    """Runs of two painters, of 60 and of 45 examples, of a suite with FID."""
    reference = np.random.default_rng(0).normal(128, 40, size=(99, 3))
    suite = dataclasses.replace(
        t2i.folder(),
        metrics={"image_statistics": ImageStatistics, "fid": lambda: FID(Colours(), reference, reference_name="r")},
    )
    monkeypatch.setattr("crossflow_eval.runs.compare.load_suite", lambda name, root: suite)
    examples = [Example(id=f"e{i}", source=f"prompt {i}") for i in range(60)]
    for name, brightest, n in (("dark", 100, 60), ("light", 250, 45)):
        model = Painter(name, brightest)
        settings = run.make_settings(suite, model, limit=n if n < 60 else None)
        run.run(suite, model, settings, examples[:n], tmp_path / name)
    return tmp_path, reference


def test_runs_of_different_limits_are_compared_on_the_examples_of_both_and_fid_too(painted):
    """Oracle: both distances, and the jackknife of their difference, of the outputs themselves."""
    place, reference = painted
    found = compare_runs(place / "dark", place / "light")
    assert (found.examples, found.first.examples, found.second.examples) == (45, 60, 45)
    assert found.notes == ("Over the 45 examples that both have, of 60 and 45.",)
    assert found.scores["brightness"].comparison.n == 45
    ids = sorted(f"e{i}" for i in range(45))
    features = [
        Colours()([np.asarray(Image.open(place / name / "outputs" / f"{each}-0.png")) for each in ids])
        for name in ("dark", "light")
    ]

    def distances(kept):
        target = Moments.of_features(reference)
        return [frechet_distance(Moments.of_features(each[kept]), target) for each in features]

    whole = distances(np.arange(45))
    expected = jackknife(lambda kept: distances(kept)[1] - distances(kept)[0], 45)
    score = found.scores["fid"]
    assert (score.first, score.second) == (pytest.approx(whole[0]), pytest.approx(whole[1]))
    of = score.comparison
    assert (of.difference, of.ci_low, of.ci_high) == pytest.approx((expected.mean, expected.ci_low, expected.ci_high))
    assert of.p < 0.05 and of.ci_high < 0 and "jackknife" in of.method


def test_the_printed_comparison_names_both_runs_with_both_values(painted):
    place, _ = painted
    said = CliRunner().invoke(app, ["compare", str(place / "dark"), str(place / "light")]).stdout
    assert f"A: dark, 60 examples, {place / 'dark' / 'n-60'}" in said
    assert f"B: light, 45 examples, {place / 'light' / 'n-45'}" in said
    assert "Over the 45 examples that both have, of 60 and 45." in said
    told = json.loads(CliRunner().invoke(app, ["compare", str(place / "dark"), str(place / "light"), "--json"]).stdout)
    line = next(line for line in said.splitlines() if line.strip().startswith("fid"))
    fid = told["scores"]["fid"]
    assert f"{fid['first']:.4f}" in line and f"{fid['second']:.4f}" in line


def test_an_fid_that_cannot_be_made_again_is_named_and_the_rest_compared(painted, monkeypatch):
    place, _ = painted

    def lacking(name, root):
        raise CrossFlowError("there are no weights")

    monkeypatch.setattr("crossflow_eval.runs.compare.load_suite", lacking)
    found = compare_runs(place / "dark", place / "light")
    assert found.notes[1:] == ("fid is left out: there are no weights",) and "brightness" in found.scores


def test_an_fid_that_would_be_of_another_reference_or_lacks_its_weights_is_named_and_not_made_up(painted, monkeypatch):
    place, reference = painted
    made = {
        "here it would be measured by another reference than": FID(Colours(), reference, reference_name="other"),
        "FID needs the file f.": Absent("FID needs the file f"),
    }
    for said, metric in made.items():
        suite = dataclasses.replace(t2i.folder(), metrics={"fid": lambda metric=metric: metric})
        monkeypatch.setattr("crossflow_eval.runs.compare.load_suite", lambda name, root, suite=suite: suite)
        found = compare_runs(place / "dark", place / "light")
        assert "fid" not in found.scores and said in found.notes[1] and "brightness" in found.scores
    bare = dataclasses.replace(t2i.folder(), metrics={})
    monkeypatch.setattr("crossflow_eval.runs.compare.load_suite", lambda name, root: bare)
    assert "has it no more" in compare_runs(place / "dark", place / "light").notes[1]


def test_runs_are_compared_where_one_has_too_many_outputs_for_an_interval(painted, monkeypatch):
    """How an interval is made follows from n, and so does the size of the subsets of a kernel distance."""
    place, _ = painted
    result = json.loads((place / "light" / "n-45" / "result.json").read_text())
    result["protocol"]["fid"] |= {"interval": NO_INTERVAL, "subsets": "100 of 45"}
    (place / "light" / "n-45" / "result.json").write_text(json.dumps(result | {"proof": None}))
    assert "fid" in compare_runs(place / "dark", place / "light").scores


def test_runs_of_other_data_or_without_an_example_in_common_are_refused(painted):
    place, _ = painted
    listed = place / "light" / "n-45" / "examples.jsonl"
    lines = listed.read_text().replace("prompt 7", "another")
    result = json.loads((place / "light" / "n-45" / "result.json").read_text())
    listed.write_text(lines)
    record = result | {"data_sha256": hashlib.sha256(lines.encode()).hexdigest(), "proof": None}
    (place / "light" / "n-45" / "result.json").write_text(json.dumps(record))
    with pytest.raises(CrossFlowError, match="differ in their data"):
        compare_runs(place / "dark", place / "light")
