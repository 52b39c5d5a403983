"""How far apart two sets of images are: FID and its kin, of two folders, ADM files, statistics or published references.

Each side is read once, in chunks; every network sees each image once, however many numbers are made of its features.
Under a protocol of Inception's the numbers bear their published names. Under ``efficientnet-lite0`` they are named for
that network, and none is a published one: ``fd_efficientnet``, and ``kd_efficientnet`` where KID would stand.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.arrays import plain_arrays
from crossflow_eval.judges import efficientnet
from crossflow_eval.judges.features import CHUNK, FeatureExtractor, extract
from crossflow_eval.judges.local_weights import find_weights
from crossflow_eval.judges.references import REFERENCES, look_for_set, read_reference
from crossflow_eval.judges.resize import PROTOCOLS
from crossflow_eval.judges.statistics_files import KEYS, Statistics, read_statistics
from crossflow_eval.judges.weights import PUBLISHED
from crossflow_eval.metrics import distances
from crossflow_eval.metrics.fid import FID, KeptFeatures, moments_of, refuse_another_protocol
from crossflow_eval.metrics.frechet import METHOD, frechet_distance, rank_warning
from crossflow_eval.metrics.pictures import Pictures, open_pictures
from crossflow_eval.types import Value

ALL_PROTOCOLS = (*PROTOCOLS, efficientnet.PROTOCOL)
DEFAULT = "clean"

Track = Callable[[Sequence[range], str], Iterable[range]]
"""Passes batches of indices through, to show progress under a stage's name."""


_Metric = FID | distances.FeatureMetric


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two sets: its images, or the statistics of their features by tap of the network."""

    name: str
    pictures: Pictures | None = None
    statistics: Mapping[str, Statistics] | None = None

    @property
    def n(self) -> int | None:
        """How many images it is of; None where nobody knows."""
        if self.pictures is not None:
            return self.pictures.n
        return next(iter((self.statistics or {}).values())).n

    @property
    def record(self) -> dict[str, Any]:
        """What it is, as plain JSON."""
        if self.pictures is not None:
            return {"name": self.name, "n": self.n, **self.pictures.record}
        return {"name": self.name, "n": self.n, **next(iter((self.statistics or {}).values())).origin}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number, or several: the features it is made of, and what makes it of the two sides.

    ``judge`` is "" for the protocol's own network, of which ``tap`` is a part, or names other weights. ``whole``: it
    needs all features of both sides at once. ``alone``: it is of the first side. ``protocols``: those that have it; all
    where empty.
    """

    said: str
    make: Callable[[FeatureExtractor, Any, str, int], _Metric]
    judge: str = ""
    tap: str = "pool"
    whole: bool = False
    alone: bool = False
    protocols: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, str]:
        """Where its features come from."""
        return self.judge, self.tap


def _frechet(name: str, extractor: FeatureExtractor, second: Statistics | KeptFeatures, called: str, n: int) -> FID:
    if isinstance(second, Statistics):
        refuse_another_protocol(second, getattr(extractor, "fingerprint", {}))
    metric = FID(extractor, second, reference_name=called, name=name)
    metric.protocol = {**metric.protocol, **getattr(extractor, "fingerprint", {})}
    return metric


def _of_features(make: Callable[[distances.Features, str], distances.Statistic]) -> Callable[..., _Metric]:
    """A metric of the whole features of both sides."""

    def made(extractor: FeatureExtractor, second: KeptFeatures, called: str, n: int) -> _Metric:
        def reference() -> np.ndarray:
            features = second.features
            assert features is not None, "a measure of whole features keeps them"
            return features

        return distances.FeatureMetric(extractor, make(reference, called))

    return made


def _kid(extractor: FeatureExtractor, second: KeptFeatures, called: str, n: int) -> _Metric:
    """KID is of subsets of 1,000; a kernel distance that is not published takes what there is."""
    size = min(n, 1000) if extractor.name == efficientnet.PROTOCOL else 1000
    return _of_features(partial(distances.kid, size=size))(extractor, second, called, n)


def _infinity(extractor: FeatureExtractor, second: Statistics | KeptFeatures, called: str, n: int) -> _Metric:
    def moments() -> Any:
        return second.moments() if isinstance(second, KeptFeatures) else moments_of(second, extractor.dim)

    return distances.FeatureMetric(extractor, distances.fid_infinity(moments, called))


def _alone(make: Callable[[], distances.Statistic]) -> Callable[..., _Metric]:
    """A metric of the first side alone."""
    return lambda extractor, second, called, n: distances.FeatureMetric(extractor, make())


_INCEPTIONS = tuple(PROTOCOLS)
MEASURES: dict[str, Measure] = {
    "fid": Measure(said="Frechet distance", make=partial(_frechet, "fid")),
    "sfid": Measure(
        said="FID of spatial features", make=partial(_frechet, "sfid"), tap="spatial", protocols=_INCEPTIONS
    ),
    "fid_infinity": Measure(said="FID without the bias of n", make=_infinity),
    "kid": Measure(said="kernel distance", make=_kid, whole=True),
    "precision_recall": Measure(
        said="improved precision and recall, k = 3", make=_of_features(distances.precision_recall), whole=True
    ),
    "prdc": Measure(said="precision, recall, density, coverage, k = 5", make=_of_features(distances.prdc), whole=True),
    "is": Measure(
        said="Inception Score of the first side",
        make=_alone(distances.inception_score),
        tap="logits_unbiased",
        alone=True,
        protocols=_INCEPTIONS,
    ),
    "is_adm": Measure(
        said="the same as guided-diffusion has it",
        make=_alone(distances.inception_score_adm),
        tap="logits_unbiased",
        alone=True,
        protocols=_INCEPTIONS,
    ),
    "fd_dinov2": Measure(said="Frechet distance on DINOv2", make=partial(_frechet, "fd_dinov2"), judge="FD-DINOv2"),
    "cmmd": Measure(said="CMMD on CLIP", make=_of_features(distances.cmmd), judge="CMMD", whole=True),
}
"""What can be measured between two sets, by name; ``fid`` always is."""


@dataclass(frozen=True, kw_only=True)
class Distances:
    """What was measured: values with their intervals, which way is better, and the protocol of each measure."""

    protocol: str
    first: Mapping[str, Any]
    second: Mapping[str, Any]
    values: Mapping[str, Value]
    higher_is_better: Mapping[str, bool]
    protocols: Mapping[str, Mapping[str, Any]]
    warnings: Sequence[str]
    left: Sequence[str]


class _Inception:
    """Inception, asked for several taps at once."""

    def __init__(self, protocol: str, taps: Sequence[str], device: str) -> None:
        from crossflow_eval.judges.inception import InceptionFeatures, published_weights

        try:
            weights = published_weights(protocol)
        except CrossFlowError as error:
            raise CrossFlowError(
                f"{error} Or measure FD-EfficientNet, whose weights are here: --protocol {efficientnet.PROTOCOL}."
            ) from error
        self._all = InceptionFeatures(weights, protocol, taps, device=device)

    def parts(self, images: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        return self._all.split(extract(self._all, images))

    def only(self, tap: str) -> FeatureExtractor:
        return self._all.only(tap)


class _OneTap:
    """A network with one kind of features."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor = extractor

    def parts(self, images: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        return {"pool": extract(self._extractor, images)}

    def only(self, tap: str) -> FeatureExtractor:
        return self._extractor


_Network = _Inception | _OneTap
"""What looks at each image once, for all that is asked of it: ``parts`` are features [n d] by tap, ``only`` one tap."""


def read_side(given: str, protocol: str | None) -> Mapping[str, Statistics] | None:
    """The statistics by tap that a side is given as; None where it is images, of a folder or an ADM file.

    Raises CrossFlowError for what is neither, nor the name of a published reference; for statistics that cannot be read
    or are of another ``protocol``.
    """
    path = Path(given)
    if path.is_dir() or (path.is_file() and path.suffix == ".npz" and not _holds_statistics(path)):
        return None
    if path.is_file():
        taps = [tap for tap, (key, _) in KEYS.items() if key in plain_arrays(path, "statistics")]
        return {tap: read_statistics(path, protocol, tap=tap) for tap in taps or ["pool"]}
    look_for_set(given)
    taps = KEYS if REFERENCES[given].protocol == "adm" else ["pool"]
    return {tap: read_reference(given, tap=tap) for tap in taps}


def _holds_statistics(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return True  # whose reader says what is wrong with it
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return True  # likewise
    return "mu.npy" in names or "arr_0.npy" not in names


def measure(
    first: str,
    second: str,
    *,
    protocol: str | None = None,
    also: Sequence[str] = (),
    device: str = "cpu",
    track: Track = lambda batches, stage: batches,
) -> Distances:
    """The distance of the set ``first`` to the set ``second`` (see :func:`read_side`), and ``also`` other ``MEASURES``.

    Without ``protocol`` it is that of the statistics that are given, else ``clean``. A set is the reference where it is
    ``second``: precision is of the first side's images. Statistics on the first side have a Frechet distance alone.

    Raises:
        CrossFlowError: an unknown protocol or measure; sides that cannot be read, or are too small; statistics of
            another protocol, or where images are needed; weights that are not there.
    """
    if protocol is not None and protocol not in ALL_PROTOCOLS:
        raise unknown("FID protocol", protocol, ALL_PROTOCOLS)
    chosen = list(dict.fromkeys(["fid", *also]))
    for name in chosen:
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)
    statistics = {given: read_side(given, protocol) for given in (first, second)}
    protocol = _one_protocol(statistics.values(), protocol)
    _check(chosen, first, second, statistics, protocol)
    images = any(each is None for each in statistics.values())
    networks = _networks(chosen, protocol, device) if images else {}  # first, so that what is not there costs no work
    opened = {given: open_pictures(Path(given)) for given, each in statistics.items() if each is None}
    sides = [Side(name=given, pictures=opened.get(given), statistics=statistics[given]) for given in (first, second)]
    for side in sides:
        if side.n is not None and side.n < 2:
            raise CrossFlowError(f"{side.name} holds {side.n} image; a distance between sets needs two or more.")
    if not images:
        return _of_statistics(chosen, sides, protocol)
    turned = sides[0].pictures is None
    return _of_pictures(chosen, sides[::-1] if turned else sides, sides, protocol, networks, track)


def _one_protocol(statistics: Iterable[Mapping[str, Statistics] | None], asked: str | None) -> str:
    """The protocol of all that is given, or ``clean``. Raises CrossFlowError where there are several."""
    given = [each.protocol["protocol"] for taps in statistics for each in (taps or {}).values()]
    names: list[str] = sorted({*given, *([asked] if asked else [])})
    if len(names) > 1:
        raise CrossFlowError(
            f"The sides are of the protocols {' and '.join(names)}, between which there is no distance; take "
            "statistics of one protocol."
        )
    return names[0] if names else DEFAULT


def _check(
    chosen: Sequence[str],
    first: str,
    second: str,
    statistics: Mapping[str, Mapping[str, Statistics] | None],
    protocol: str,
) -> None:
    """Raise CrossFlowError where a side cannot give what is asked for, before any work."""
    for name in chosen:
        measure = MEASURES[name]
        if measure.protocols and protocol not in measure.protocols:
            raise CrossFlowError(f"{name} is made of Inception's features, which {protocol} has none of; leave it out.")
        frechet = name in ("fid", "sfid")
        needing = [*([] if frechet else [first]), *([second] if measure.whole or measure.judge else [])]
        if lacking := [given for given in needing if statistics[given] is not None]:
            raise CrossFlowError(f"{name} needs images, and {lacking[0]} holds statistics; give their folder.")
        short = [given for given, each in statistics.items() if each is not None and measure.tap not in each]
        if short and not measure.judge and not measure.alone:
            raise CrossFlowError(f"{short[0]} holds no statistics for {name}; make them with `stats --protocol adm`.")


def _networks(chosen: Sequence[str], protocol: str, device: str) -> dict[str, _Network]:
    """The networks that are needed, by the judge of the measures. Raises CrossFlowError where weights are not there."""
    taps = list(dict.fromkeys(MEASURES[name].tap for name in chosen if not MEASURES[name].judge))
    found: dict[str, _Network] = {}
    if protocol == efficientnet.PROTOCOL:
        found[""] = _OneTap(efficientnet.EfficientNetFeatures(device=device))
    else:
        found[""] = _Inception(protocol, taps, device)
    for judge in dict.fromkeys(MEASURES[name].judge for name in chosen if MEASURES[name].judge):
        weights = next(each for each in PUBLISHED if each.metric == judge)
        path = find_weights(weights)
        if judge == "CMMD":
            from crossflow_eval.judges.clip import load_clip

            found[judge] = _OneTap(load_clip(path, weights.sha256, device=device).images("cmmd"))
        else:
            from crossflow_eval.judges.dinov2 import load_dinov2

            found[judge] = _OneTap(load_dinov2(path, weights.sha256, device=device))
    return found


def _of_pictures(
    chosen: Sequence[str],
    ordered: Sequence[Side],
    sides: Sequence[Side],
    protocol: str,
    networks: Mapping[str, _Network],
    track: Track,
) -> Distances:
    """The measures of the first of ``ordered``, which has images, against the second; recorded as of ``sides``."""
    measured, reference = ordered
    assert measured.pictures is not None
    kept: dict[tuple[str, str], KeptFeatures] = {}
    metrics: dict[str, _Metric] = {}
    smaller = min(side.n for side in ordered if side.n is not None)
    for name in chosen:
        each = MEASURES[name]
        extractor, place = networks[each.judge].only(each.tap), each.place
        statistics = (reference.statistics or {}).get(each.tap) if not each.judge else None
        if statistics is None and not each.alone:
            whole = any(MEASURES[other].whole and MEASURES[other].place == place for other in chosen)
            kept.setdefault(place, KeptFeatures(extractor.dim, sys.maxsize if whole else None))
        second = kept.get(place, statistics)
        metrics[name] = metric = each.make(extractor, second, reference.name, smaller)
        least = metric.least if isinstance(metric, distances.FeatureMetric) else 2
        for side in ordered if each.whole else ordered[:1]:
            if side.n is not None and side.n < least:
                raise CrossFlowError(f"{name} needs {least} images a side, and {side.name} holds {side.n}.")
    if reference.pictures is not None:
        for place, features in _features(networks, reference.pictures, track, f"features of {reference.name}"):
            if place in kept:
                kept[place].add(features)
    for place, features in _features(networks, measured.pictures, track, f"features of {measured.name}"):
        for name, metric in metrics.items():
            if MEASURES[name].place == place:
                metric.update((), (), features)
    values: dict[str, Value] = {}
    better: dict[str, bool] = {}
    for name, metric in metrics.items():
        values |= {_called(key, name, protocol): value for key, value in metric.compute().items()}
        better |= {_called(key, name, protocol): up for key, up in metric.higher_is_better.items()}
    protocols = {_called(name, name, protocol): dict(metric.protocol) for name, metric in metrics.items()}
    return _found(protocol, sides, values, better, protocols)


def _features(
    networks: Mapping[str, _Network], pictures: Pictures, track: Track, stage: str
) -> Iterable[tuple[tuple[str, str], np.ndarray]]:
    """The features of all pictures in chunks, each with its network and tap."""
    each = pictures.each()
    batches = [range(start, min(start + CHUNK, pictures.n)) for start in range(0, pictures.n, CHUNK)]
    for batch in track(batches, stage):
        images = list(islice(each, len(batch)))
        for judge, network in networks.items():
            for tap, features in network.parts(images).items():
                yield (judge, tap), features
    if next(each, None) is not None:
        raise CrossFlowError("There are more images than were found; measure again when their folder is still.")


def reference_features(pictures: Pictures, extractor: FeatureExtractor, *, whole: bool = False) -> KeptFeatures:
    """The features of all pictures; their moments alone where they are many and not asked for ``whole``."""
    kept = KeptFeatures(extractor.dim, sys.maxsize if whole else None)
    for _, features in _features({"": _OneTap(extractor)}, pictures, lambda batches, stage: batches, ""):
        kept.add(features)
    return kept


def _of_statistics(chosen: Sequence[str], sides: Sequence[Side], protocol: str) -> Distances:
    """The Frechet distances of two sides that are statistics."""
    values: dict[str, Value] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    for name in chosen:
        first, second = ((side.statistics or {})[MEASURES[name].tap] for side in sides)
        refuse_another_protocol(first, second.protocol)
        dim, called = second.mean.size, _called(name, name, protocol)
        distance = frechet_distance(moments_of(first, dim), moments_of(second, dim))
        warnings = [rank_warning("images", each.n, dim) for each in (first, second) if each.n is not None]
        warned = {"warning": "; ".join(filter(None, warnings))} if any(warnings) else {}
        values[called] = Value(mean=distance, n=first.n or 0)
        protocols[called] = {**second.protocol, "method": METHOD, "interval": "none", **warned}
    return _found(protocol, sides, values, dict.fromkeys(values, False), protocols)


def _found(
    protocol: str,
    sides: Sequence[Side],
    values: Mapping[str, Value],
    better: Mapping[str, bool],
    protocols: Mapping[str, Mapping[str, Any]],
) -> Distances:
    warnings = list(dict.fromkeys(f"{each['warning']}." for each in protocols.values() if "warning" in each))
    if warnings and not any(name.startswith(("kid", "kd_")) for name in values):
        warnings.append("A kernel distance needs no covariance: --also kid.")
    for side in sides:
        rough = {str(each.protocol.get("precision", "float32")) for each in (side.statistics or {}).values()}
        warnings += [f"{side.name} was made in {each}, which moves distances." for each in rough - {"float32"}]
    pictures = [side.pictures for side in sides if side.pictures is not None]
    if len(pictures) == 2 and pictures[0].record["sha256"] == pictures[1].record["sha256"]:
        warnings.append("Both sides hold the same images.")
    return Distances(
        protocol=protocol,
        first=sides[0].record,
        second=sides[1].record,
        values=values,
        higher_is_better=better,
        protocols=protocols,
        warnings=warnings,
        left=[each.left for each in pictures if each.left],
    )


def _called(value: str, measure: str, protocol: str) -> str:
    """What a value is called: by its published name, or for the network where that is not the published one."""
    if protocol != efficientnet.PROTOCOL or MEASURES[measure].judge:
        return value
    head, slash, rest = value.partition("/")
    head = re.sub("^([fk])id", r"\1d", head)
    return f"{head}_efficientnet{slash}{rest}"
