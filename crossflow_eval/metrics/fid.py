"""FID: the Frechet distance between the features of the outputs and those of a reference, and files of references.

Features stream: beyond ``KEPT`` numbers only their moments are held, so memory does not grow with n.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.writing import make_folder, refuse_existing
from crossflow_eval.environment import environment
from crossflow_eval.judges import efficientnet
from crossflow_eval.judges.features import CHUNK, FeatureExtractor, OnFeatures, extract
from crossflow_eval.judges.statistics_files import Statistics, check_name, write_statistics
from crossflow_eval.metrics.distances import image_of
from crossflow_eval.metrics.frechet import METHOD, Moments, frechet_distance, rank_warning
from crossflow_eval.metrics.pictures import open_pictures
from crossflow_eval.stats import JACKKNIFE, jackknife
from crossflow_eval.types import Example, Output, Value

if TYPE_CHECKING:
    from crossflow_eval.judges.inception import Weights

_log = logging.getLogger(__name__)
KEPT = 1 << 24
"""Numbers up to which features are kept (64 MiB): 8,192 outputs of 2,048 dimensions."""
NO_INTERVAL = f"none: more than {KEPT} numbers are not kept"
CHECKED = 4 * CHUNK
"""Outputs on which the effect of 16 bits is measured."""


class RunningMoments:
    """Mean and covariance of features that arrive in chunks, exact in float64.

    Chunks of n and m are joined by M = M1 + M2 + n m / (n + m) (m1 - m2)(m1 - m2)' on the sums of squares about the
    means (T. Chan, G. Golub and R. LeVeque, 1979), which does not cancel as a running sum of x x' does.
    """

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean = np.zeros(dim)
        self._squares = np.zeros((dim, dim))

    def add(self, features: np.ndarray) -> None:
        """Take the next features [n dim], at least one."""
        data = features.astype(np.float64)
        mean = data.mean(axis=0)
        total = self.n + len(data)
        moved, centred = mean - self.mean, data - mean
        self._squares += centred.T @ centred
        self._squares += np.outer(moved * (self.n * len(data) / total), moved)
        self.mean = self.mean + moved * (len(data) / total)
        self.n = total

    @property
    def covariance(self) -> np.ndarray:
        """Float64 [dim dim], with the divisor n - 1."""
        return self._squares / (self.n - 1)


class KeptFeatures:
    """Features [n dim] that arrive in chunks: themselves up to ``most`` numbers (``KEPT``), beyond it their moments."""

    def __init__(self, dim: int, most: int | None = None) -> None:
        self.n = 0
        self._dim, self._most = dim, KEPT if most is None else most
        self._chunks: list[np.ndarray] = []
        self._running: RunningMoments | None = None

    def add(self, features: np.ndarray) -> None:
        """Take the next features."""
        self.n += len(features)
        self._chunks.append(features)
        if self._running is None and self.n * self._dim > self._most:
            self._running = RunningMoments(self._dim)
        if self._running is not None:
            for chunk in self._chunks:
                self._running.add(chunk)
            self._chunks.clear()

    @property
    def features(self) -> np.ndarray | None:
        """The features, float32 [n dim]; None where they were too many."""
        empty = np.zeros((0, self._dim), dtype=np.float32)
        return np.concatenate([empty, *self._chunks]) if self._running is None else None

    def moments(self) -> Moments:
        """Their mean and covariance. Raises CrossFlowError for fewer than two."""
        if self.n < 2:
            raise CrossFlowError(f"A distance between sets needs two images a side or more, got {self.n}; give more.")
        if self._running is not None:
            return Moments.of_covariance(self._running.mean, self._running.covariance)
        return Moments.of_features(np.concatenate(self._chunks))


class FID(OnFeatures):
    """The Frechet distance between the outputs' features and a reference's, on the given extractor.

    ``reference`` is statistics, or features, float32 [m dim], or those kept when the distance is asked for, or makes
    features when first needed. The value, called ``name``, is of all outputs, and so is its n: reports print ``FID@n``.
    It has an interval up to ``KEPT`` numbers. Where a covariance is singular, ``compute`` adds a ``warning`` to the
    protocol.

    ``reference()`` gives the moments that outputs are compared with, and of how many features they are, where known.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        reference: Reference,
        *,
        reference_name: str,
        name: str = "fid",
    ) -> None:
        super().__init__(extractor)
        self._name = name
        self.reference = _target(reference, extractor.dim)
        self._kept = KeptFeatures(extractor.dim)
        self.higher_is_better: Mapping[str, bool] = {name: False}
        self.protocol: Mapping[str, Any] = {
            "extractor": extractor.name,
            "weights_sha256": extractor.weights_sha256,
            "dim": extractor.dim,
            "reference": reference_name,
            "method": METHOD,
            "interval": JACKKNIFE,
        }

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> None:
        """Take the outputs' features; an output alone has no distance, so there are no rows."""
        images = [image_of(output) for output in outputs]
        self._kept.add(self.features_of(images, features))

    @property
    def n(self) -> int:
        """How many outputs were taken."""
        return self._kept.n

    def by_part(self) -> Callable[[np.ndarray], float] | None:
        """What gives the distance of the outputs at some places, int [m]; None where their moments alone are kept."""
        features, (target, _) = self._kept.features, self.reference()
        return None if features is None else lambda kept: frechet_distance(Moments.of_features(features[kept]), target)

    def compute(self) -> dict[str, Value]:
        """The distance, with its jackknife interval. Raises CrossFlowError for fewer than two outputs."""
        if self._kept.n < 2:
            raise CrossFlowError(f"FID needs at least two outputs, got {self._kept.n}; measure more of them.")
        target, references = self.reference()
        self.protocol = {
            **self.protocol,
            **singular(self.extractor.dim, outputs=self._kept.n, references=references),
        }
        distance = self.by_part()
        if distance is None:
            self.protocol = {**self.protocol, "interval": NO_INTERVAL}
            return {self._name: Value(mean=frechet_distance(self._kept.moments(), target), n=self._kept.n)}
        return {self._name: not_negative(jackknife(distance, self._kept.n))}


def distance_of(moments: Callable[[np.ndarray], Moments], reference: Moments, n: int) -> Value:
    """The distance of n outputs with its jackknife interval; ``moments`` are those of the outputs at some places."""
    return not_negative(jackknife(lambda kept: frechet_distance(moments(kept), reference), n))


def not_negative(value: Value) -> Value:
    """A value whose interval ends at 0."""
    return value.model_copy(update={"ci_low": None if value.ci_low is None else max(value.ci_low, 0.0)})


def singular(dim: int, **counts: int | None) -> dict[str, str]:
    """The ``warning`` of a protocol where so many features, by what they are of, do not span ``dim`` dimensions."""
    warnings = [said for what, n in counts.items() if n and (said := rank_warning(what, n, dim))]
    return {"warning": "; ".join(warnings)} if warnings else {}


Reference = Statistics | KeptFeatures | np.ndarray | Callable[[], np.ndarray | KeptFeatures]
"""What a distance is measured from."""


def _target(reference: Reference, dim: int) -> Callable[[], tuple[Moments, int | None]]:
    """What gives the reference's moments, and of how many features they are. CrossFlowError for bad statistics."""
    if not isinstance(reference, Statistics):
        return lambda: _of_features(reference() if callable(reference) else reference)
    moments = moments_of(reference, dim)
    return lambda: (moments, reference.n)


def moments_of(statistics: Statistics, dim: int) -> Moments:
    """The moments that a file holds. Raises CrossFlowError where they are not of features of ``dim`` dimensions."""
    file = statistics.origin["file"]
    if statistics.mean.size != dim:
        raise CrossFlowError(
            f"{file} holds statistics of {statistics.mean.size} dimensions; these features have {dim}."
        )
    try:
        return Moments.of_covariance(statistics.mean, statistics.covariance)
    except ValueError as error:
        raise CrossFlowError(f"{file} holds no statistics of features: {error}. Make it again.") from error


def _of_features(features: np.ndarray | KeptFeatures) -> tuple[Moments, int]:
    if isinstance(features, KeptFeatures):
        return features.moments(), features.n
    return Moments.of_features(features), len(features)


class InceptionFID(FID):
    """FID as it is published: Inception under one of the ``PROTOCOLS`` of ``crossflow_eval.judges.resize``.

    ``tap="spatial"`` is sFID. A reference of another protocol, or of other weights, is refused; where its file does
    not record them, the protocol of the result says so. ``precision="bfloat16"`` prints by how much it moved FID on
    the first ``CHECKED`` outputs, and puts it into the protocol as ``bfloat16_shift``.
    """

    def __init__(
        self,
        weights: Weights,
        protocol: str,
        reference: Statistics,
        *,
        tap: str = "pool",
        precision: str = "float32",
        device: str = "cpu",
        name: str = "fid",
    ) -> None:
        from crossflow_eval.judges.inception import InceptionFeatures

        extractor = InceptionFeatures(weights, protocol, (tap,), precision=precision, device=device)
        refuse_another_protocol(reference, extractor.fingerprint)
        super().__init__(extractor, reference, reference_name=reference.origin["file"], name=name)
        known = "unknown" if reference.n is None else reference.n
        self.protocol = {**self.protocol, **extractor.fingerprint, "reference": {**reference.origin, "n": known}}
        exact = InceptionFeatures(weights, protocol, (tap,), device=device) if precision != "float32" else None
        self._pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self._exact = exact

    def update(
        self, examples: Sequence[Example], outputs: Sequence[Output], features: np.ndarray | None = None
    ) -> None:
        """Take the outputs' features; the first ones in both precisions."""
        if self._exact is not None and self._kept.n < CHECKED:
            images = [image_of(output) for output in outputs[: CHECKED - self._kept.n]]
            self._pairs.append((extract(self.extractor, images), extract(self._exact, images)))
        super().update(examples, outputs, features)

    def compute(self) -> dict[str, Value]:
        """The distance; the protocol then holds n, and what 16 bits changed."""
        values = super().compute()
        self.protocol = {**self.protocol, "n": self._kept.n}
        if self._pairs:
            target, _ = self.reference()
            rough, exact = (np.concatenate(each) for each in zip(*self._pairs, strict=True))
            shift = frechet_distance(Moments.of_features(rough), target)
            shift -= frechet_distance(Moments.of_features(exact), target)
            _log.warning("bfloat16 moves %s by %+.2g on the first %d outputs.", self._name, shift, len(rough))
            self.protocol = {**self.protocol, "bfloat16_shift": shift, "bfloat16_shift_n": len(rough)}
        return values


def refuse_another_protocol(reference: Statistics, ours: Mapping[str, Any]) -> None:
    """Raise CrossFlowError where the reference was made under another protocol or, where both say, other weights."""
    from crossflow_eval.judges.inception import CONVERSIONS

    file, theirs = reference.origin["file"], reference.protocol
    if theirs["protocol"] != ours["protocol"]:
        raise CrossFlowError(
            f"{file} was made under the protocol {theirs['protocol']!r}, the outputs are measured under "
            f"{ours['protocol']!r}; their distance is no FID. Take statistics of one protocol."
        )
    pair = {of["weights_sha256"] for of in (theirs, ours) if "weights_sha256" in of}
    if len(pair) > 1 and not pair <= CONVERSIONS.keys():
        raise CrossFlowError(f"{file} was made with other weights ({theirs['weights_sha256'][:8]}); make it again.")


def make_statistics(
    images: Path,
    out: Path,
    protocol: str,
    weights: Weights | None = None,
    *,
    n: int | None = None,
    precision: str = "float32",
    device: str = "cpu",
    track: Callable[[Sequence[range], str], Iterable[range]] = lambda batches, stage: batches,
) -> None:
    """Write the statistics of the first ``n`` images (by name) of a folder, or of an ADM file's ``arr_0``, to ``out``.

    ``weights`` are those of a protocol of Inception's, the published ones if None; ``efficientnet-lite0`` has its own,
    in float32 alone. Under ``adm`` the file also holds those of sFID. The JSON beside it records n, the protocol with
    its ``precision``, the images and the versions of what made it. ``track`` passes batches of indices through, to show
    progress.

    Raises:
        CrossFlowError: images that cannot be read, or fewer than ``n`` or than two; a file that is there already, be it
            that of the images, or cannot be written.
    """
    check_name(out)
    refuse_existing((out, out.with_suffix(".json")))
    make_folder(out.parent)
    extractor, dims = _judge(protocol, weights, precision, device)
    pictures = open_pictures(images)
    if pictures.left:
        _log.info("%s", pictures.left)
    n = pictures.n if n is None else n
    if not 2 <= n <= pictures.n:
        raise CrossFlowError(
            f"{images} holds {pictures.n} images, asked for {n}; statistics need two or more that are there."
        )
    each = pictures.each()
    moments = {tap: RunningMoments(dim) for tap, dim in dims.items()}
    for batch in track([range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)], "features"):
        features = extract(extractor, list(islice(each, len(batch))))
        for tap, part in zip(moments, np.split(features, np.cumsum(list(dims.values()))[:-1], axis=1), strict=True):
            moments[tap].add(part)
    provenance = {
        "n": n,
        "protocol": extractor.fingerprint,
        "images": dict(pictures.record),
        "environment": environment(),
    }
    if warning := rank_warning("images", n, dims["pool"]):
        _log.warning("%s.", warning)
        provenance["warning"] = warning
    write_statistics(out, {tap: (each.mean, each.covariance) for tap, each in moments.items()}, provenance)


def _judge(protocol: str, weights: Weights | None, precision: str, device: str) -> tuple[Any, dict[str, int]]:
    """The network of a protocol, and how many of its features are of which tap, in their order."""
    if protocol == efficientnet.PROTOCOL:
        if precision != "float32":
            raise CrossFlowError(f"The protocol {protocol} is in float32 alone; leave --precision {precision} out.")
        return efficientnet.EfficientNetFeatures(device=device), {"pool": efficientnet.DIM}
    from crossflow_eval.judges.inception import TAPS, InceptionFeatures, published_weights

    taps = ("pool", "spatial") if protocol == "adm" else ("pool",)
    judge = InceptionFeatures(
        weights or published_weights(protocol), protocol, taps, precision=precision, device=device
    )
    return judge, {tap: TAPS[tap] for tap in judge.taps}
