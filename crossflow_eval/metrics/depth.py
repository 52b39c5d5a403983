"""Monocular depth: least-squares alignment, ten errors and the crops of the field, in float64.

With prediction d and target g in metres over the n valid pixels, and e = ln(d / g):

    abs_rel   mean |d - g| / g              rmse_log  sqrt(mean e^2)
    sq_rel    mean (d - g)^2 / g            log10     mean |e| / ln 10
    rmse      sqrt(mean (d - g)^2)          si_log    100 sqrt(mean e^2 - (mean e)^2)
    i_rmse    sqrt(mean (1/d - 1/g)^2)      delta k   share of max(d/g, g/d) < 1.25^k, strictly

An image's errors are over its own pixels; a suite's are the mean over its images (D. Eigen, C. Puhrsch and R. Fergus,
2014; KITTI's benchmark for si_log and i_rmse). Affine-invariant predictions are first fitted to the target, as by
R. Ranftl et al., 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.resizing import BENCHMARK, benchmark_corner
from crossflow_eval.metrics.crops import Crop, kept_columns
from crossflow_eval.stats import BOOTSTRAP, bootstrap_mean
from crossflow_eval.types import Example, Output, Row, Value

ERRORS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "delta1", "delta2", "delta3", "i_rmse", "si_log")
MIN_DISPARITY = 1e-3
"""What an aligned disparity is raised to before it is inverted, in 1 / metre."""
MIN_PREDICTION = 1e-6
"""What every prediction is raised to before it is judged, in metres."""
TURNED = -0.3
"""Below which mean correlation with the target predictions are taken for the other of depth and disparity: these two
have -0.4 to -0.9 with each other, and what says nothing of depth has about 0."""
_UNIT_PIXELS = 1 << 13
"""About how many pixels a unit is judged by."""
_BLOCK = 1 << 14
"""Pixels summed at a time, so that all of a block's arrays stay in the processor's cache."""

Space = Literal["depth", "disparity"]
UNITS = {
    1000.0: "millimetres",
    100.0: "centimetres",
    256.0: "KITTI's PNG values, 256 to a metre",
    0.256: "PNG values of 256 to a metre, read as millimetres",
    3.90625: "PNG values in millimetres, read as 256 to a metre",
    1 / 100: "units of 100 metres",
    1 / 256: "metres, divided by 256",
    1 / 1000: "kilometres, or metres read as millimetres",
}
"""What predictions may be in by mistake, by how many make a metre."""


class Alignment(NamedTuple):
    """The affine map ``scale * prediction + shift`` that brings a prediction to depth, or to disparity."""

    scale: float
    shift: float


def align(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray, space: Space = "depth") -> Alignment:
    """Fit a prediction [h w] to the target depth [h w] on the pixels of the mask (bool [h w]) by least squares.

    In space "depth" it minimises the sum of (scale p + shift - g)^2. In space "disparity" the prediction is a
    disparity: it is fitted to 1 / g, on those pixels of the mask where it is positive. A prediction that is constant
    there says nothing of the scale, which is then 0.

    Raises:
        CrossFlowError: shapes that differ, an empty mask, an unknown space, and under the mask a prediction that is not
            finite or a target that is not positive and finite.
    """
    return _fit(*_valid_pixels(prediction, target, mask), space)


def depth_errors(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """The ten errors (``ERRORS``) of a depth prediction [h w] in metres, on the pixels of the mask (bool [h w]).

    Nothing is aligned or clipped.

    Raises:
        CrossFlowError: as ``align``, and for a prediction that is not positive under the mask.
    """
    predicted, measured = _valid_pixels(prediction, target, mask)
    if not predicted.min() > 0:
        raise CrossFlowError(
            f"{int((predicted <= 0).sum())} of {predicted.size} predicted depths are not positive; "
            "give depth in metres, clipped from below."
        )
    return _errors(predicted, measured, lambda depth: depth)


def _valid_pixels(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and target under the mask: [n] in their own precision, checked."""
    if prediction.ndim != 2 or not prediction.shape == target.shape == mask.shape:
        shapes = ", ".join(str(list(array.shape)) for array in (prediction, target, mask))
        raise CrossFlowError(f"prediction, target and mask have the shapes {shapes}; they must be one [h w].")
    places = np.flatnonzero(mask)
    if not places.size:
        raise CrossFlowError("no pixel is valid, so there is nothing to judge; check the target's unit and the crop.")
    predicted, measured = (array.ravel().take(places) for array in (prediction, target))
    if not np.isfinite(predicted).all():
        bad = int((~np.isfinite(predicted)).sum())
        raise CrossFlowError(
            f"the prediction is NaN or infinite at {bad} of {places.size} valid pixels; mend the model."
        )
    if not (measured.min() > 0 and measured.max() < math.inf):
        raise CrossFlowError("the target holds depths under its mask that are not positive and finite; mend the mask.")
    return predicted, measured


def _fit(predicted: np.ndarray, measured: np.ndarray, space: Space, *, everywhere: bool = False) -> Alignment:
    if space not in get_args(Space):
        raise unknown("space", space, get_args(Space))
    if space == "disparity":
        seen = np.ones(predicted.shape, dtype=bool) if everywhere else predicted > 0
        if not seen.any():
            raise CrossFlowError("no valid pixel has a positive disparity; give disparity, or align in depth space.")
        predicted, measured = predicted[seen], 1 / measured[seen].astype(np.float64)
    origin, level = np.float64(predicted[0]), np.float64(measured[0])
    sums = np.zeros(4)
    for block in _blocks(predicted.size):
        x, y = predicted[block] - origin, measured[block] - level  # of a constant prediction exactly 0
        sums += (x.sum(), y.sum(), x @ x, x @ y)
    x_mean, y_mean, xx_mean, xy_mean = (sums / predicted.size).tolist()
    variance = xx_mean - x_mean**2
    scale = (xy_mean - x_mean * y_mean) / variance if variance > 0 else 0.0
    return Alignment(scale, float(level + y_mean - scale * (origin + x_mean)))


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))


def _errors(
    predicted: np.ndarray, measured: np.ndarray, to_depth: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float]:
    """The ten errors of [n] pixels; ``to_depth`` first maps predictions, float64, to metres, block by block."""
    sums = np.zeros(len(ERRORS))
    for block in _blocks(predicted.size):
        d, g = predicted[block].astype(np.float64), measured[block].astype(np.float64)
        sums += _sums(to_depth(d), g)
    mean = sums / predicted.size
    relative, relative_square, square, log_square, log_size, log, *shares, inverse_square = mean.tolist()
    values = (
        relative,
        relative_square,
        math.sqrt(square),
        math.sqrt(log_square),
        log_size / math.log(10),
        *shares,
        math.sqrt(inverse_square),
        100 * math.sqrt(max(log_square - log**2, 0.0)),
    )
    return dict(zip(ERRORS, values, strict=True))


def _sums(d: np.ndarray, g: np.ndarray) -> np.ndarray:
    """What the errors are made of, summed over a block. One quotient serves for all but 1/d, one logarithm for both."""
    difference = d - g
    ratio = d / g
    relative = ratio - 1
    log = np.log(ratio)
    worst = np.maximum(ratio, g / d)
    inverse = relative / d
    sums = [
        np.abs(relative).sum(),
        relative @ difference,
        difference @ difference,
        log @ log,
        np.abs(log).sum(),
        log.sum(),
        *(np.count_nonzero(worst < 1.25**k) for k in (1, 2, 3)),
        inverse @ inverse,
    ]
    return np.array(sums, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class DepthProtocol:
    """How predictions become errors. Depths in metres; a target's pixel is valid strictly between the two bounds.

    ``space`` None takes predictions as depth in metres; else each is first fitted to its target (:func:`align`).
    Predictions are then clipped to the bounds. ``crops`` are judged one by one: the values of a crop called "a" are
    "a/abs_rel" and so on, those of the crop "" have the bare names. ``fit_side``: alignment uses only as many columns
    as would shrink the longer side to this many pixels.
    """

    min_depth: float
    max_depth: float = math.inf
    space: Space | None = None
    crops: Mapping[str, Crop]
    fit_side: int | None = None
    alignment: Literal["marigold", "midas"] = "marigold"

    def __post_init__(self) -> None:
        if self.alignment == "midas" and (self.space != "disparity" or math.isinf(self.max_depth)):
            raise CrossFlowError("MiDaS aligns in disparity under a largest depth; give both, or align as Marigold.")

    @property
    def said(self) -> str:
        """How predictions are aligned, as fingerprints say it."""
        if self.space is None:
            return "none"
        if self.alignment == "midas":
            return "MiDaS: least squares in disparity on all valid pixels, raised to 1 / max_depth; no clip from below"
        on = ", where predictions are positive" if self.space == "disparity" else ""
        return f"Marigold: least squares in {self.space}{on}"

    def valid(self, target: np.ndarray) -> np.ndarray:
        """Where a target [h w] lies between the bounds: bool [h w]. NaN and infinite depths do not."""
        return (target > self.min_depth) & (target < self.max_depth)

    def judge(self, prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> dict[str, float]:
        """The errors of one prediction on one mask, all [h w]; with ``scale`` and ``shift`` where it is aligned.

        Raises:
            CrossFlowError: as ``align``; for a prediction that is in one of ``UNITS``.
        """
        predicted, measured = _valid_pixels(prediction, target, mask)
        if self.space is None:
            _check_unit(predicted, measured)
            return _errors(predicted, measured, self._clip)
        columns = kept_columns(*target.shape, side=self.fit_side)
        if columns is None:
            alignment = _fit(predicted, measured, self.space, everywhere=self.alignment == "midas")
        else:
            fewer = _valid_pixels(prediction[:, columns], target[:, columns], mask[:, columns])
            alignment = _fit(*fewer, self.space, everywhere=self.alignment == "midas")
        return _errors(predicted, measured, partial(self._aligned, alignment)) | alignment._asdict()

    def agreement(self, prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> float:
        """The correlation of a prediction with what it is fitted to, on some of the mask's pixels; 0 where it has none.

        Its sign is that of the fit's scale.
        """
        predicted, measured = _valid_pixels(prediction, target, mask)
        step = slice(None, None, predicted.size // _UNIT_PIXELS + 1)
        x, y = predicted[step].astype(np.float64), measured[step].astype(np.float64)
        x, y = x - x.mean(), (y if self.space != "disparity" else 1 / y)
        spread = math.sqrt(float((x @ x) * ((y - y.mean()) @ (y - y.mean()))))
        return float(x @ (y - y.mean())) / spread if spread > 0 else 0.0

    def _clip(self, depth: np.ndarray) -> np.ndarray:
        return depth.clip(max(self.min_depth, MIN_PREDICTION), self.max_depth)

    def _aligned(self, alignment: Alignment, predicted: np.ndarray) -> np.ndarray:
        fitted = alignment.scale * predicted + alignment.shift
        if self.alignment == "midas":
            return np.maximum(1 / np.maximum(fitted, 1 / self.max_depth), MIN_PREDICTION)
        return self._clip(fitted if self.space == "depth" else 1 / np.maximum(fitted, MIN_DISPARITY))


def _check_unit(predicted: np.ndarray, measured: np.ndarray) -> None:
    """Raise CrossFlowError where the medians are apart by the factor of a unit, and it explains the pixels' errors.

    About 1000 is enough by itself. A model may be as far off as the others, but is not then right but for a factor.
    """
    step = slice(None, None, predicted.size // _UNIT_PIXELS + 1)
    d, g = predicted[step].astype(np.float64), measured[step].astype(np.float64)
    ratio = float(np.median(d) / np.median(g))
    if not ratio > 0:
        return
    factor, unit = min(UNITS.items(), key=lambda item: abs(math.log(ratio / item[0])))
    apart = abs(math.log(ratio / factor))
    scatter = float(np.median(np.abs(np.log(np.maximum(d, MIN_PREDICTION) / g / ratio))))
    size = factor if factor > 1 else 1 / factor
    sure = apart < math.log(2) if size == 1000 else apart < 0.25 and scatter < 0.25
    if size < 10:
        sure = apart < 0.05 and scatter < 0.05
    if sure:
        is_off = "larger" if factor > 1 else "smaller"
        raise CrossFlowError(
            f"the prediction is about {round(size, 2):g} times {is_off} than the target: {unit}? Give metres."
        )


def _check_target(target: np.ndarray, bounded: np.ndarray, protocol: DepthProtocol) -> None:
    if bounded.any():
        return
    seen = target[np.isfinite(target) & (target > 0)]
    median = float(np.median(seen)) if seen.size else 0.0
    hint = "check the file and its scale"
    if protocol.min_depth < median / 1000 < protocol.max_depth:
        hint = "1000 times less would: are these millimetres, read as metres?"
    raise CrossFlowError(
        f"no depth of the target lies between {protocol.min_depth} and {protocol.max_depth} m, "
        f"the median is {median:.6g} m; {hint}"
    )


def _named(crop: str, what: str) -> str:
    return f"{crop}/{what}" if crop else what


class DepthErrors:
    """The ten errors under a protocol: each image's over its valid pixels, then the mean over the images.

    ``read`` gives an example's target as depth in metres, float [h w], and the data set's own mask, bool [h w], or None
    where the protocol's bounds make it. Rows: the errors of each crop, ``pixels``, and ``scale`` and ``shift`` where
    predictions are aligned. Under a protocol with KITTI's benchmark crop a prediction may be of that crop alone.
    """

    def __init__(self, protocol: DepthProtocol, read: Callable[[Any], tuple[np.ndarray, np.ndarray | None]]) -> None:
        self.how, self.read = protocol, read
        self._names = [_named(crop, error) for crop in protocol.crops for error in ERRORS]
        self._scores: dict[str, list[float]] = {name: [] for name in self._names}
        self._agreements: list[float] = []
        self.higher_is_better: Mapping[str, bool] = {name: "delta" in name for name in self._names}
        self.protocol: Mapping[str, Any] = {
            "min_depth": protocol.min_depth,
            "max_depth": None if math.isinf(protocol.max_depth) else protocol.max_depth,
            "alignment": protocol.said,
            "clip": f"to the bounds, at least {MIN_PREDICTION} m; aligned disparity at least {MIN_DISPARITY} / m",
            "delta": "below 1.25^k, strictly",
            "fit_side": protocol.fit_side,
            "crops": {name: str(crop) for name, crop in protocol.crops.items()},
            "mean": "over pixels, then over images",
            "interval": BOOTSTRAP,
        }

    def update(self, examples: Sequence[Example], outputs: Sequence[Output]) -> list[Row]:
        """Judge the outputs, float [h w]. Raises CrossFlowError with the example's id for what cannot be judged."""
        return [self._judge(example, output) for example, output in zip(examples, outputs, strict=True)]

    def _judge(self, example: Example, output: Output) -> Row:
        target, mask = self.read(example.target)
        row: Row = {}
        try:
            prediction = self.placed(np.asarray(output), target.shape)
            bounded = self.how.valid(target)
            _check_target(target, bounded, self.how)
            valid = bounded if mask is None else mask
            for name, crop in self.how.crops.items():
                window = crop.window(*target.shape)
                judged = self.how.judge(prediction[window], target[window], valid[window])
                said = judged | {"pixels": int(np.count_nonzero(valid[window]))}
                row |= {_named(name, key): value for key, value in said.items()}
                if self.how.space is not None:
                    self._agreements.append(self.how.agreement(prediction[window], target[window], valid[window]))
        except CrossFlowError as error:
            raise CrossFlowError(f"{example.id}: {error}") from error
        for name in self._names:
            self._scores[name].append(row[name])
        return row

    def placed(self, prediction: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The prediction at the target's size; one of KITTI's benchmark crop is put where it was cut from."""
        if prediction.shape == shape:
            return prediction
        if prediction.shape == BENCHMARK and any(crop.benchmark for crop in self.how.crops.values()):
            top, left = benchmark_corner(*shape)
            whole = np.full(shape, np.nan, dtype=prediction.dtype)
            whole[top : top + BENCHMARK[0], left : left + BENCHMARK[1]] = prediction
            return whole
        raise CrossFlowError(
            f"the prediction has the shape {list(prediction.shape)} and the target {list(shape)}; "
            "resize predictions to their target."
        )

    def compute(self) -> dict[str, Value]:
        """The mean of each error over the images.

        CrossFlowError where the fits turn the predictions around: they are disparity, taken for depth, or depth for it.
        """
        agreement = float(np.mean(self._agreements)) if self.how.space is not None else 1.0
        if agreement < TURNED:
            taken, other = ("depth", "disparity") if self.how.space == "depth" else ("disparity", "depth")
            raise CrossFlowError(
                f"the predictions seem to be {other}, not {taken}: they fall where {taken} grows (correlation "
                f"{agreement:.2f}), and the fit turns them around; give --space {other}."
            )
        return {name: bootstrap_mean(scores) for name, scores in self._scores.items()}
