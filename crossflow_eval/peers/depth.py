"""Depth errors by Marigold's formulas, written out: its evaluation is a script, and in no package.

Sources: ``src/util/metric.py`` and ``src/util/alignment.py`` of github.com/prs-eth/Marigold (Apache-2.0), and for
``*_midas`` the fit of R. Ranftl et al., 2020.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from crossflow_eval.metrics.crops import kept_columns
from crossflow_eval.metrics.depth import ERRORS, DepthErrors, DepthProtocol
from crossflow_eval.peers.peer import Pairs, Peer, Said, Theirs

WAY = "Marigold's formulas written out, float64; targets and crops as this project reads and cuts them"
ROUNDING = 1e-7
"""Of a value: by this much numpy's least squares and the sums of ours may round apart."""


def marigold_errors(prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """The ten errors of depth [h w] in metres, aligned and clipped, under the mask (bool [h w]), in its own type."""
    import torch

    d, g, valid = (torch.from_numpy(np.ascontiguousarray(array)) for array in (prediction, target, mask))
    n = valid.sum()

    def mean(values: torch.Tensor) -> torch.Tensor:
        values[~valid] = 0
        return values.sum() / n

    def within(threshold: float) -> torch.Tensor:
        worst = torch.max(d / g, g / d)
        return mean(torch.where(worst < threshold, torch.ones_like(d), torch.zeros_like(d)))

    def root_mean_square(values: torch.Tensor) -> torch.Tensor:
        values[~valid] = 0
        return (values.pow(2).sum() / n).sqrt()

    def silog() -> torch.Tensor:
        values = torch.log(d) - torch.log(g)
        values[~valid] = 0
        return 100 * (values.pow(2).sum() / n - values.sum().pow(2) / n**2).sqrt()

    errors = (
        mean((d - g).abs() / g),
        mean((d - g).abs().pow(2) / g),
        root_mean_square(d - g),
        root_mean_square(torch.log(d) - torch.log(g)),
        (torch.log10(d[valid]) - torch.log10(g[valid])).abs().mean(),
        *(within(1.25**k) for k in (1, 2, 3)),
        root_mean_square(1 / d - 1 / g),
        silog(),
    )
    return dict(zip(ERRORS, (error.item() for error in errors), strict=True))


def least_squares(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Scale and shift that bring a prediction [n] to the target [n]."""
    seen = prediction.reshape(-1, 1)
    scale, shift = np.linalg.lstsq(np.concatenate([seen, np.ones_like(seen)], 1), target, rcond=None)[0]
    return scale, shift


def aligned(how: DepthProtocol, prediction: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A prediction [h w] as depth in metres: fitted on the mask where the protocol fits, and clipped."""
    if how.space is None:
        return np.clip(np.clip(prediction, how.min_depth, how.max_depth), 1e-6, None)
    columns = kept_columns(*target.shape, side=how.fit_side)
    part = slice(None) if columns is None else columns
    seen, measured, valid = prediction[:, part], target[:, part], mask[:, part]
    if how.space == "depth":
        scale, shift = least_squares(seen[valid], measured[valid])
        depth = prediction * scale + shift
    else:
        valid = valid if how.alignment == "midas" else valid & (seen > 0)
        scale, shift = least_squares(seen[valid], 1 / measured[valid])
        lowest = 1 / how.max_depth if how.alignment == "midas" else 1e-3
        depth = 1 / np.clip(prediction * scale + shift, lowest, None)
    bounded = depth if how.alignment == "midas" else np.clip(depth, how.min_depth, how.max_depth)
    return np.clip(bounded, 1e-6, None)


def _compute(metric: DepthErrors, pairs: Pairs) -> Mapping[str, Said]:
    how = metric.how
    scores: dict[str, list[float]] = defaultdict(list)
    for example, output in pairs():
        target, mask = metric.read(example.target)
        prediction = metric.placed(np.asarray(output), target.shape).astype(np.float64)
        target = target.astype(np.float64)
        mask = (target > how.min_depth) & (target < how.max_depth) if mask is None else mask
        for crop, part in how.crops.items():
            window = part.window(*target.shape)
            cut = prediction[window], target[window], mask[window]
            for name, error in marigold_errors(aligned(how, *cut), *cut[1:]).items():
                scores[f"{crop}/{name}" if crop else name].append(error)
    return {
        name: Theirs(value=value, tolerance=ROUNDING * max(1.0, abs(value)), way=WAY)
        for name, each in scores.items()
        for value in [float(np.mean(each))]
    }


PEER = Peer(packages=("numpy", "torch"), compute=_compute)
