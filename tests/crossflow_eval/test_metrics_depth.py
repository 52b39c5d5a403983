"""Depth: Marigold's own numbers, the definitions in plain float64, the laws of the fit, the crops, and bad input."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_files import golden_file
from hypothesis import given
from hypothesis import strategies as st

from crossflow.errors import CrossFlowError
from crossflow_eval.metrics.crops import GARG, KB_EIGEN, KB_GARG, NYU_EIGEN, WHOLE, Crop, kept_columns
from crossflow_eval.metrics.depth import ERRORS, UNITS, DepthErrors, DepthProtocol, align, depth_errors
from crossflow_eval.types import Example, Metric

CASES = json.loads(golden_file("depth_metrics.json").read_text())
MARIGOLD = (
    *("abs_relative_difference", "squared_relative_difference", "rmse_linear", "rmse_log", "log10"),
    *("delta1_acc", "delta2_acc", "delta3_acc", "i_rmse", "silog_rmse"),
)
METRIC = DepthProtocol(min_depth=1e-3, max_depth=80.0, crops={"": WHOLE})
AFFINE = replace(METRIC, space="depth")


@pytest.fixture(scope="module")
def arrays():
    with np.load(golden_file("depth_metrics.npz")) as stored:
        return dict(stored)


def scene(height: int = 30, width: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prediction 10 % off a target from 1 to 60 m, float32, and a mask of about two thirds of the pixels."""
    generator = np.random.default_rng(seed)
    target = generator.uniform(1, 60, size=(height, width)).astype(np.float32)
    prediction = (target * np.exp(generator.normal(0, 0.1, size=target.shape))).astype(np.float32)
    return prediction, target, generator.random(target.shape) < 0.66


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['index']}-{case['alignment']}")
def test_they_are_marigolds_own_numbers(case, arrays):
    """Golden: float32 results of the original functions, to 1e-5; the masks exactly."""
    prediction, target, mask = (arrays[f"{case['index']}.{name}"] for name in ("pred", "gt", "mask"))
    how = DepthProtocol(
        min_depth=case["min_depth"], max_depth=case["max_depth"], space=case["alignment"], crops={"": WHOLE}
    )
    assert np.array_equal(how.valid(target), mask)
    alignment = align(prediction, target, mask, case["alignment"])
    assert alignment == pytest.approx((case["scale"], case["shift"]), rel=1e-5)
    judged = how.judge(prediction, target, mask)
    expected = [case["metrics"][name] for name in MARIGOLD]
    assert [judged[name] for name in ERRORS] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [(1, 2), (30, 40), (128, 128), (200, 201)])
def test_the_errors_are_their_definitions(size):
    """Oracle: each formula alone in float64; sizes below, at and above a block of the sums."""
    prediction, target, mask = scene(*size)
    mask[0] = True
    d, g = prediction[mask].astype(np.float64), target[mask].astype(np.float64)
    e, worst = np.log(d) - np.log(g), np.maximum(d / g, g / d)
    expected = {
        "abs_rel": np.mean(np.abs(d - g) / g),
        "sq_rel": np.mean((d - g) ** 2 / g),
        "rmse": np.sqrt(np.mean((d - g) ** 2)),
        "rmse_log": np.sqrt(np.mean(e**2)),
        "log10": np.mean(np.abs(np.log10(d) - np.log10(g))),
        **{f"delta{k}": np.mean(worst < 1.25**k) for k in (1, 2, 3)},
        "i_rmse": np.sqrt(np.mean((1 / d - 1 / g) ** 2)),
        "si_log": 100 * np.std(e),
    }
    found = depth_errors(prediction, target, mask)
    assert tuple(found) == ERRORS
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("space", ["depth", "disparity"])
def test_the_fit_is_numpys_least_squares(space):
    prediction, target, mask = scene(seed=1)
    if space == "disparity":
        prediction = 1 / prediction
    seen = prediction[mask].astype(np.float64)
    goal = target[mask].astype(np.float64)
    system = np.stack([seen, np.ones_like(seen)], axis=1)
    exact = np.linalg.lstsq(system, goal if space == "depth" else 1 / goal, rcond=None)[0]
    assert align(prediction, target, mask, space) == pytest.approx(tuple(exact), rel=1e-10)


@given(st.floats(0.01, 100), st.floats(-5, 5), st.integers(0, 1000))
def test_an_affine_map_of_the_target_is_undone(scale, shift, seed):
    """Law: any affine map of depth, or of disparity, has no error once aligned."""
    _, target, mask = scene(seed=seed)
    target = target.astype(np.float64)
    for space, goal in (("depth", target), ("disparity", 1 / target)):
        prediction = goal * scale + shift
        if space == "disparity":
            prediction = goal * scale + abs(shift)
        judged = replace(METRIC, space=space).judge(prediction, target, mask)
        assert judged["abs_rel"] == pytest.approx(0, abs=1e-9)
        assert judged["delta1"] == 1


def test_a_constant_prediction_is_fitted_by_the_targets_mean():
    _, target, mask = scene()
    alignment = align(np.full_like(target, 0.1), target, mask)
    assert alignment.scale == 0
    assert alignment.shift == pytest.approx(target[mask].astype(np.float64).mean(), rel=1e-12)


def test_in_disparity_space_only_positive_predictions_are_fitted():
    prediction, target, mask = scene()
    prediction = 3 / target.astype(np.float64) - 1
    prediction[0] = -prediction[0] - 10
    mask[0] = True
    alignment = align(prediction, target, mask & (prediction > 0), "disparity")
    assert align(prediction, target, mask, "disparity") == alignment


def test_what_lies_outside_the_mask_does_not_count():
    prediction, target, mask = scene()
    other, empty = prediction.copy(), target.copy()
    other[~mask], empty[~mask] = np.nan, 0
    assert depth_errors(other, empty, mask) == depth_errors(prediction, target, mask)
    assert align(other, empty, mask) == align(prediction, target, mask)


def test_the_thresholds_are_strict_on_both_sides():
    """Quotients of exactly 1.25, either way, are not within delta 1; exactly 1.25^2 is not within delta 2."""
    target = np.array([[4.0, 5.0, 4.0, 1.0]])
    prediction = np.array([[5.0, 4.0, 4.9999, 1.25**2]])
    found = depth_errors(prediction, target, np.ones((1, 4), bool))
    assert [found[f"delta{k}"] for k in (1, 2, 3)] == [0.25, 0.75, 1.0]


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_wrong_scale_is_seen_by_all_but_si_log(factor):
    _, target, mask = scene()
    found = depth_errors(target.astype(np.float64) * factor, target, mask)
    assert found["abs_rel"] == pytest.approx(abs(factor - 1), rel=1e-12)
    assert found["rmse_log"] == pytest.approx(abs(math.log(factor)), rel=1e-12)
    assert found["si_log"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("crop", "rows", "columns"),
    [
        (GARG, (153, 371), (44, 1197)),
        (KB_GARG, (23 + 143, 23 + 349), (13 + 43, 13 + 1172)),
        (KB_EIGEN, (23 + 117, 23 + 321), (13 + 43, 13 + 1172)),
        (replace(KB_EIGEN, benchmark=False), (124, 342), (44, 1197)),
        (WHOLE, (0, 375), (0, 1242)),
    ],
)
def test_the_crops_of_a_kitti_image(crop, rows, columns):
    """The pixels that BTS, AdaBins and Marigold cut from 375 x 1242."""
    assert crop.window(375, 1242) == (slice(*rows), slice(*columns))


def test_nyu_is_cut_to_eigens_box_and_nothing_else_is():
    assert NYU_EIGEN.window(480, 640) == (slice(45, 471), slice(41, 601))
    with pytest.raises(CrossFlowError, match="240 x 320 px and the crop is rows 45 to 471"):
        NYU_EIGEN.window(240, 320)
    with pytest.raises(CrossFlowError, match="too small for KITTI's benchmark crop"):
        KB_GARG.window(340, 1242)


@pytest.mark.parametrize(("height", "width", "side"), [(40, 60, 10), (4032, 6048, 1024), (60, 41, 17), (50, 49, 48)])
def test_the_fit_keeps_the_columns_that_marigolds_shrinking_keeps(height, width, side):
    """Oracle: torch's nearest upsampling of [1 h w], which takes h for channels and shrinks the last axis alone."""
    factor = min(side / height, side / width)
    index = torch.arange(width, dtype=torch.float32)[None, None]
    theirs = torch.nn.functional.interpolate(index, scale_factor=factor, mode="nearest").flatten().int().tolist()
    ours = kept_columns(height, width, side=side)
    assert ours is not None
    assert ours.tolist() == theirs
    assert kept_columns(height, width, side=None) is None
    assert kept_columns(height, width, side=max(height, width)) is None


def test_a_thinned_fit_is_applied_to_every_pixel():
    prediction, target, mask = scene(20, 60)
    judged = replace(AFFINE, fit_side=24).judge(prediction, target, mask)
    columns = kept_columns(20, 60, side=24)
    alignment = align(prediction[:, columns], target[:, columns], mask[:, columns])
    fitted = (alignment.scale * prediction.astype(np.float64) + alignment.shift).clip(1e-3, 80)
    assert (judged["scale"], judged["shift"]) == alignment
    assert judged["rmse"] == pytest.approx(depth_errors(fitted, target, mask)["rmse"], rel=1e-12)


def test_predictions_are_clipped_to_the_bounds():
    target = np.full((2, 2), 5.0)
    judged = METRIC.judge(np.array([[0.0, -3.0], [500.0, 5.0]]), target, np.ones((2, 2), bool))
    clipped = depth_errors(np.array([[1e-3, 1e-3], [80.0, 5.0]]), target, np.ones((2, 2), bool))
    assert judged == pytest.approx(clipped, rel=1e-12)


def kitti(n: int = 3, seed: int = 0) -> tuple[list[Example], list[np.ndarray], dict[str, np.ndarray]]:
    """Examples whose target is a key, predictions of the whole image, and the targets, measured at a sixth of it."""
    generator = np.random.default_rng(seed)
    examples, outputs, targets = [], [], {}
    for index in range(n):
        prediction, target, _ = scene(375, 1242, seed + index)
        target[generator.random(target.shape) > 0.16] = 0
        examples.append(Example(id=f"e{index}", source="", target=f"t{index}"))
        outputs.append(prediction)
        targets[f"t{index}"] = target
    return examples, outputs, targets


CROPS = {"garg": GARG, "kb_garg": KB_GARG, "kb_eigen": KB_EIGEN}


def test_a_suite_is_the_mean_over_images_whatever_the_batches():
    examples, outputs, targets = kitti()
    how = replace(METRIC, crops=CROPS)
    whole, parts = (DepthErrors(how, lambda key: (targets[key], None)) for _ in range(2))
    assert isinstance(whole, Metric)
    rows = whole.update(examples, outputs)
    for example, output in zip(examples, outputs, strict=True):
        parts.update([example], [output])
    values = whole.compute()
    assert parts.compute() == values
    assert list(values) == [f"{crop}/{error}" for crop in CROPS for error in ERRORS]
    assert values["garg/rmse"].mean == pytest.approx(np.mean([row["garg/rmse"] for row in rows]), rel=1e-12)
    assert values["garg/rmse"].n == 3
    rows_of, columns_of = KB_EIGEN.window(375, 1242)
    assert rows[0]["kb_eigen/pixels"] == np.count_nonzero(targets["t0"][rows_of, columns_of])
    assert len({values[f"{crop}/abs_rel"].mean for crop in CROPS}) == 3
    assert [name for name, better in whole.higher_is_better.items() if better] == [
        f"{crop}/delta{k}" for crop in CROPS for k in (1, 2, 3)
    ]


def test_a_prediction_of_the_benchmark_crop_is_put_where_it_was_cut_from():
    examples, outputs, targets = kitti(1)
    how = replace(METRIC, crops=CROPS)
    rows = [
        DepthErrors(how, lambda key: (targets[key], None)).update(examples, [output])
        for output in (outputs[0], outputs[0][23:, 13:1229])
    ]
    assert rows[0] == rows[1]
    with pytest.raises(CrossFlowError, match=r"e0: the prediction has the shape \[352, 1216\] and the target \["):
        DepthErrors(METRIC, lambda key: (targets[key], None)).update(examples, [outputs[0][23:, 13:1229]])


def test_the_data_sets_own_mask_stands_in_for_the_bounds():
    prediction, target, mask = scene()
    target[0, 0], mask[0, 0] = 90.0, True  # beyond the bounds, and yet judged, as Marigold judges DIODE
    (row,) = DepthErrors(METRIC, lambda _: (target, mask)).update([Example(id="a", source="")], [prediction])
    assert row["pixels"] == np.count_nonzero(mask)
    assert row["rmse"] == pytest.approx(METRIC.judge(prediction, target, mask)["rmse"], rel=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"min_depth": 1e-5},
        {"max_depth": math.inf},
        {"space": "depth"},
        {"space": "disparity"},
        {"fit_side": 1024},
        {"crops": {"": Crop(rows=(0.0, 0.9999999))}},
        {"crops": {"": NYU_EIGEN}},
        {"crops": {"whole": WHOLE}},
    ],
)
def test_every_constant_changes_the_fingerprint(change):
    prints = [json.dumps(DepthErrors(how, lambda _: None).protocol) for how in (METRIC, replace(METRIC, **change))]
    assert prints[0] != prints[1]
    assert "Infinity" not in prints[1]


def spoiled(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[3, 4] = value
    return array


PREDICTION, TARGET, MASK = scene()
MASK[3, 4] = True
INSIDE = np.count_nonzero(MASK)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: align(spoiled(PREDICTION, np.nan), TARGET, MASK), f"NaN or infinite at 1 of {INSIDE} valid pixels"),
        (lambda: align(spoiled(PREDICTION, np.nan), TARGET, MASK, "disparity"), "NaN or infinite at 1"),
        (lambda: depth_errors(spoiled(PREDICTION, np.inf), TARGET, MASK), "NaN or infinite at 1"),
        (lambda: depth_errors(spoiled(PREDICTION, 0.0), TARGET, MASK), f"1 of {INSIDE} predicted depths are not posi"),
        (lambda: depth_errors(PREDICTION, spoiled(TARGET, 0.0), MASK), "target holds depths under its mask"),
        (lambda: depth_errors(PREDICTION, spoiled(TARGET, np.nan), MASK), "target holds depths under its mask"),
        (lambda: align(PREDICTION, spoiled(TARGET, np.inf), MASK), "target holds depths under its mask"),
        (lambda: align(PREDICTION, TARGET, MASK & False), "no pixel is valid"),
        (lambda: align(-PREDICTION, TARGET, MASK, "disparity"), "no valid pixel has a positive disparity"),
        (lambda: align(PREDICTION[:20], TARGET, MASK), r"\[20, 40\], \[30, 40\], \[30, 40\]"),
        (lambda: depth_errors(PREDICTION[None], TARGET[None], MASK[None]), r"\[1, 30, 40\].* one \[h w\]"),
        (lambda: METRIC.judge(PREDICTION * 1000, TARGET, MASK), "about 1000 times larger .* millimetres"),
        (lambda: METRIC.judge(PREDICTION / 1000, TARGET, MASK), "about 1000 times smaller .* millimetres"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(call, sentence):
    with pytest.raises(CrossFlowError, match=sentence):
        call()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (
            TARGET * 1000,
            "a: no depth of the target lies between 0.001 and 80.0 m, .* 1000 times less would: are these millimetres",
        ),
        (TARGET * 0, "the median is 0 m; check the file and its scale"),
    ],
)
def test_a_target_in_another_unit_is_named(target, sentence):
    with pytest.raises(CrossFlowError, match=sentence):
        DepthErrors(METRIC, lambda _: (target, None)).update([Example(id="a", source="")], [PREDICTION])


def test_an_aligned_prediction_may_be_of_any_unit():
    judged = [AFFINE.judge(PREDICTION * factor, TARGET, MASK) for factor in (np.float64(1.0), np.float64(1000.0))]
    assert judged[0]["abs_rel"] == pytest.approx(judged[1]["abs_rel"], rel=1e-9)


@pytest.mark.parametrize("spikes", [False, True])
@pytest.mark.parametrize("factor", UNITS)
def test_depth_in_another_unit_is_named_whatever_its_spikes(factor, spikes):
    """Perfect depth but for 1 % of pixels at 1e7; in metres the same spikes are clipped and scored."""
    _, target, mask = scene()
    places = np.random.default_rng(1).random(target.shape) < 0.01 * spikes
    named = UNITS[factor].split(",")[0]
    with pytest.raises(CrossFlowError, match=f"times (larger|smaller) than the target: .*{named}"):
        METRIC.judge(np.where(places, 1e7, target * factor), target, mask)
    assert METRIC.judge(np.where(places, 1e7, target), target, mask)["delta1"] > 0.98


@pytest.mark.parametrize("factor", [0.256, 1 / 3.90625, 1 / 100, 2.0])
def test_a_bad_model_is_judged_though_its_scale_is_a_units(factor):
    """Errors of 60 % at a scale of 1 / 100, and of 10 % at 0.256, are a model's; so is a plain factor of 2."""
    prediction, target, mask = scene()
    noise = np.exp(np.random.default_rng(2).normal(0, 0.6, size=target.shape))
    assert METRIC.judge(prediction * factor * (noise if factor == 1 / 100 else 1), target, mask)["delta1"] < 0.1


@given(st.integers(0, 1000))
def test_midas_alignment_is_midas_own(seed):
    """Oracle: MiDaS's BadPixelMetric in plain float64 (normal equations on the whole mask, disparity capped)."""
    generator = np.random.default_rng(seed)
    _, target, mask = scene(seed=seed)
    prediction = 1 / target + generator.normal(-0.05, 0.05, size=target.shape)
    p, g = prediction[mask], target[mask].astype(np.float64)
    scale, shift = np.linalg.solve([[p @ p, p.sum()], [p.sum(), len(p)]], [p @ (1 / g), (1 / g).sum()])
    depth = 1 / np.maximum(scale * p + shift, 1 / 80)
    how = replace(METRIC, space="disparity", alignment="midas")
    judged = how.judge(prediction, target, mask)
    assert (judged["scale"], judged["shift"]) == pytest.approx((scale, shift), rel=1e-6)
    assert judged["abs_rel"] == pytest.approx((abs(depth - g) / g).mean(), rel=1e-6)
    assert judged["delta1"] == (np.maximum(depth / g, g / depth) < 1.25).mean()
    marigold = replace(METRIC, space="disparity")
    assert judged["scale"] != pytest.approx(marigold.judge(prediction, target, mask)["scale"], rel=1e-3)
    assert how.said != marigold.said and "MiDaS" in how.said and "Marigold" in marigold.said


@pytest.mark.parametrize("how", [{"space": "depth"}, {"space": "disparity", "max_depth": math.inf}, {}])
def test_midas_alignment_needs_disparity_and_a_cap(how):
    with pytest.raises(CrossFlowError, match="MiDaS aligns in disparity"):
        replace(METRIC, alignment="midas", **how)
