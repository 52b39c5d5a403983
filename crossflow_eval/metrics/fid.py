"""FID: the Frechet distance between the features of the outputs and those of a reference, and files of references.

Features stream: beyond ``KEPT`` numbers only their moments are held, so memory does not grow with n.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.writing import make_folder, refuse_existing
from crossflow_eval.datasets.folder import read_folder, read_image
from crossflow_eval.environment import environment
from crossflow_eval.judges.features import CHUNK, FeatureExtractor, OnFeatures, extract
from crossflow_eval.judges.statistics_files import Statistics, check_name, file_sha256, read_samples, write_statistics
from crossflow_eval.metrics.distances import image_of
from crossflow_eval.metrics.frechet import METHOD, Moments, frechet_distance, rank_warning
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


class FID(OnFeatures):
    """The Frechet distance between the outputs' features and a reference's, on the given extractor.

    ``reference`` is statistics, or features, float32 [m dim], or makes features when first needed. The value, called
    ``name``, is of all outputs, and so is its n: reports print ``FID@n``. It has an interval up to ``KEPT`` numbers.
    Where a covariance is singular, ``compute`` adds a ``warning`` to the protocol.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        reference: Statistics | np.ndarray | Callable[[], np.ndarray],
        *,
        reference_name: str,
        name: str = "fid",
    ) -> None:
        super().__init__(extractor)
        self._name = name
        self._target = _target(reference, extractor.dim)
        self._features: list[np.ndarray] = []
        self._moments: RunningMoments | None = None
        self._n = 0
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
        features = self.features_of(images, features)
        self._n += len(features)
        self._features.append(features)
        if self._moments is None and self._n * self.extractor.dim > KEPT:
            self._moments = RunningMoments(self.extractor.dim)
        if self._moments is not None:
            for chunk in self._features:
                self._moments.add(chunk)
            self._features.clear()

    def compute(self) -> dict[str, Value]:
        """The distance, with its jackknife interval. Raises CrossFlowError for fewer than two outputs."""
        if self._n < 2:
            raise CrossFlowError(f"FID needs at least two outputs, got {self._n}; raise --limit.")
        target, references = self._target()
        counts = (("outputs", self._n), ("references", references))
        warnings = [warning for what, n in counts if n and (warning := rank_warning(what, n, self.extractor.dim))]
        if warnings:
            self.protocol = {**self.protocol, "warning": "; ".join(warnings)}
        if self._moments is not None:
            self.protocol = {**self.protocol, "interval": NO_INTERVAL}
            own = Moments.of_covariance(self._moments.mean, self._moments.covariance)
            return {self._name: Value(mean=frechet_distance(own, target), n=self._n)}
        features = np.concatenate(self._features)

        def distance(kept: np.ndarray) -> float:
            return frechet_distance(Moments.of_features(features[kept]), target)

        value = jackknife(distance, len(features))
        low = None if value.ci_low is None else max(value.ci_low, 0.0)
        return {self._name: value.model_copy(update={"ci_low": low})}


def _target(
    reference: Statistics | np.ndarray | Callable[[], np.ndarray], dim: int
) -> Callable[[], tuple[Moments, int | None]]:
    """What gives the reference's moments, and of how many features they are. CrossFlowError for bad statistics."""
    if not isinstance(reference, Statistics):
        return lambda: _of_features(reference() if callable(reference) else reference)
    file = reference.origin["file"]
    if reference.mean.size != dim:
        raise CrossFlowError(f"{file} holds statistics of {reference.mean.size} dimensions; these features have {dim}.")
    try:
        moments = Moments.of_covariance(reference.mean, reference.covariance)
    except ValueError as error:
        raise CrossFlowError(f"{file} holds no statistics of features: {error}. Make it again.") from error
    return lambda: (moments, reference.n)


def _of_features(features: np.ndarray) -> tuple[Moments, int]:
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
        _compare(reference, extractor.fingerprint)
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
        if self._exact is not None and self._n < CHECKED:
            images = [image_of(output) for output in outputs[: CHECKED - self._n]]
            self._pairs.append((extract(self.extractor, images), extract(self._exact, images)))
        super().update(examples, outputs, features)

    def compute(self) -> dict[str, Value]:
        """The distance; the protocol then holds n, and what 16 bits changed."""
        values = super().compute()
        self.protocol = {**self.protocol, "n": self._n}
        if self._pairs:
            target, _ = self._target()
            rough, exact = (np.concatenate(each) for each in zip(*self._pairs, strict=True))
            shift = frechet_distance(Moments.of_features(rough), target)
            shift -= frechet_distance(Moments.of_features(exact), target)
            _log.warning("bfloat16 moves %s by %+.2g on the first %d outputs.", self._name, shift, len(rough))
            self.protocol = {**self.protocol, "bfloat16_shift": shift, "bfloat16_shift_n": len(rough)}
        return values


def _compare(reference: Statistics, ours: Mapping[str, Any]) -> None:
    """Raise CrossFlowError where the reference was made under another protocol or with other weights."""
    from crossflow_eval.judges.inception import CONVERSIONS

    file, theirs = reference.origin["file"], reference.protocol
    if theirs["protocol"] != ours["protocol"]:
        raise CrossFlowError(
            f"{file} was made under the protocol {theirs['protocol']!r}, the outputs are measured under "
            f"{ours['protocol']!r}; their distance is no FID. Take statistics of one protocol."
        )
    pair = {theirs.get("weights_sha256", ours["weights_sha256"]), ours["weights_sha256"]}
    if len(pair) > 1 and not pair <= CONVERSIONS.keys():
        raise CrossFlowError(f"{file} was made with other weights ({theirs['weights_sha256'][:8]}); make it again.")


def make_statistics(
    images: Path,
    out: Path,
    protocol: str,
    weights: Weights,
    *,
    n: int | None = None,
    precision: str = "float32",
    device: str = "cpu",
    track: Callable[[Sequence[range], str], Iterable[range]] = lambda batches, stage: batches,
) -> None:
    """Write the statistics of the first ``n`` images (by name) of a folder, or of an ADM file's ``arr_0``, to ``out``.

    Under ``adm`` the file also holds those of sFID. The JSON beside it records n, the protocol with its ``precision``,
    the images and the versions of what made it. ``track`` passes batches of indices through, to show progress.

    Raises:
        CrossFlowError: images that cannot be read, or fewer than ``n`` or than two; a file that is there already, be it
            that of the images, or cannot be written.
    """
    from crossflow_eval.judges.inception import TAPS, InceptionFeatures

    check_name(out)
    refuse_existing((out, out.with_suffix(".json")))
    make_folder(out.parent)
    taps = ("pool", "spatial") if protocol == "adm" else ("pool",)
    extractor = InceptionFeatures(weights, protocol, taps, precision=precision, device=device)
    there, pictures, source = _open(images)
    n = there if n is None else n
    if not 2 <= n <= there:
        raise CrossFlowError(
            f"{images} holds {there} images, asked for {n}; statistics need two or more that are there."
        )
    moments = {tap: RunningMoments(TAPS[tap]) for tap in extractor.taps}
    for batch in track([range(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)], "features"):
        features = extract(extractor, list(islice(pictures, len(batch))))
        for tap, part in extractor.split(features).items():
            moments[tap].add(part)
    provenance = {"n": n, "protocol": extractor.fingerprint, "images": source, "environment": environment()}
    if warning := rank_warning("images", n, TAPS["pool"]):
        _log.warning("%s.", warning)
        provenance["warning"] = warning
    write_statistics(out, {tap: (each.mean, each.covariance) for tap, each in moments.items()}, provenance)


def _open(images: Path) -> tuple[int, Iterator[np.ndarray], dict[str, Any]]:
    """How many images there are, each of them, and what they are."""
    if images.suffix == ".npz":
        count, pictures = read_samples(images)
        return count, pictures, {"file": images.name, "sha256": file_sha256(images), "count": count}
    folder = read_folder(images, by="path")
    pictures = (read_image(path) for path in folder.files.values())
    formats = dict(Counter(folder.formats.values()))
    return len(folder.files), pictures, {"folder": images.resolve().name, "sha256": folder.sha256, "count": formats}
