"""Distances between sets of images: clean-fid's and torch-fidelity's arithmetic, on their own features where they can.

Their networks need the weights that ours have. Where no package has the network (the embedded world's judges), or it
cannot read a protocol's weights, the features are ours. The moments of a reference are ours too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from crossflow_eval.judges import efficientnet
from crossflow_eval.judges.features import CHUNK, extract, in_chunks
from crossflow_eval.judges.local_weights import home
from crossflow_eval.metrics.distances import FeatureMetric
from crossflow_eval.metrics.fid import FID
from crossflow_eval.metrics.scenes import SceneCLIPScore, SceneInceptionScore
from crossflow_eval.peers.peer import Pairs, Peer, Said, Theirs, quiet, version

ROUNDING = 1e-7
RELATIVE, LEAST = 1e-5, 1e-3
"""Of a Frechet distance, and at least: the roots that clean-fid takes of singular matrices are off by as much."""
CLEAN, LITE = "clean-fid", "efficientnet-lite-pytorch"
NVIDIA = "inception-2015-12-05.pt"
Embed = Callable[[Sequence[np.ndarray]], np.ndarray]


def _features(pairs: Pairs, embed: Embed) -> np.ndarray:
    """The features, float64 [n d], of a run's images."""
    images: Iterator[np.ndarray] = (np.asarray(output) for _, output in pairs())
    parts: list[np.ndarray] = []
    while chunk := list(islice(images, CHUNK)):
        parts.append(embed(chunk).astype(np.float64))
    return np.concatenate(parts)


def _network(metric: FID | FeatureMetric) -> tuple[Embed, str]:
    """The network of another package behind a protocol of ours, and which that is; ours where there is none."""
    fingerprint = getattr(metric.extractor, "fingerprint", {})
    if fingerprint.get("protocol") == efficientnet.PROTOCOL and version(LITE):
        return efficientnet_lite(), LITE
    clean = fingerprint.get("protocol") == "clean" and fingerprint["taps"] == ["pool"]
    if clean and (home() / NVIDIA).is_file():
        return clean_inception(home()), CLEAN
    return partial(extract, metric.extractor), ""


def _whose(package: str) -> str:
    return f"features of the outputs by {package or 'this project, for no package here has the network'}"


def clean_inception(folder: Path) -> Embed:
    """clean-fid's resizer and its Inception, of the file ``inception-2015-12-05.pt`` in a folder."""
    import torch
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    network, resize = InceptionV3W(str(folder), download=False).eval(), build_resizer("clean")

    def embed(images: Sequence[np.ndarray]) -> np.ndarray:
        found: list[np.ndarray] = []
        with torch.inference_mode():
            for image in images:
                x = torch.from_numpy(resize(image).transpose(2, 0, 1))[None]
                found.append(network(x).numpy())
        return np.concatenate(found)

    return embed


def efficientnet_lite() -> Embed:
    """The network of efficientnet-lite-pytorch, for which the weights were made, behind Pillow's bicubic."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]
    from PIL import Image

    with quiet():
        network: Any = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=str(efficientnet.weights_file())
        ).eval()

    def embed(images: Sequence[np.ndarray]) -> np.ndarray:
        found: list[np.ndarray] = []
        side = (efficientnet.SIDE, efficientnet.SIDE)
        with torch.inference_mode():
            for image in images:
                bands = (band.convert("F") for band in Image.fromarray(image).split())
                resized = np.stack([np.asarray(band.resize(side, Image.Resampling.BICUBIC)) for band in bands])
                x = torch.from_numpy((resized.clip(0, 255) - 127) / 128)[None]
                found.append(network.extract_features(x).mean((2, 3)).numpy())
        return np.concatenate(found)

    return embed


def frechet(features: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    """clean-fid's distance of features [n d] to a Gaussian."""
    from cleanfid.fid import frechet_distance

    own = np.cov(features, rowvar=False)
    return float(np.real(frechet_distance(features.mean(axis=0), own, mean, covariance)))


def _fid(metric: FID, pairs: Pairs) -> Mapping[str, Said]:
    (name,) = metric.higher_is_better
    moments, _ = metric.reference()
    embed, package = _network(metric)
    with quiet():
        value = frechet(_features(pairs, embed), moments.mean, moments.root.T @ moments.root)
    way = f"distance by clean-fid; {_whose(package)}; the reference's moments by this project"
    tolerance = max(LEAST, RELATIVE * abs(value))
    return {name: Theirs(value=value, tolerance=tolerance, way=way, beside=(package,) if package else ())}


def _of_features(metric: FeatureMetric, pairs: Pairs) -> Mapping[str, Said]:
    """KID and the Inception Score; of the others there is no package here."""
    names = set(metric.higher_is_better)
    if names & {"kid", "kd_efficientnet"} and metric.statistic.reference is not None:
        return _kid(metric, pairs, names.pop(), metric.statistic.reference().astype(np.float64))
    if "inception_score" in names:
        return inception_score(_features(pairs, partial(extract, metric.extractor)), "inception_score")
    return dict.fromkeys(names, "no package among the peers computes it")


def _kid(metric: FeatureMetric, pairs: Pairs, name: str, reference: np.ndarray) -> Mapping[str, Said]:
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    embed, package = _network(metric)
    features = _features(pairs, embed)
    size = min(len(features), len(reference), 1000)
    with quiet():
        found = kid_features_to_metric(
            torch.from_numpy(features), torch.from_numpy(reference), kid_subset_size=size, verbose=False
        )
    value = float(found["kernel_inception_distance_mean"])
    way = f"distance by torch-fidelity; {_whose(package)}; the reference's by this project"
    return {name: Theirs(value=value, tolerance=1e-6, way=way, beside=(package,) if package else ())}


def inception_score(logits: np.ndarray, name: str) -> Mapping[str, Said]:
    """torch-fidelity's Inception Score of logits [n classes], over ten shuffled parts."""
    import torch
    from torch_fidelity.metric_isc import isc_features_to_metric

    with quiet():
        found = isc_features_to_metric(torch.from_numpy(logits))
    spread = {f"{name}_std": found["inception_score_std"]} if name == "inception_score" else {}
    values = {name: found["inception_score_mean"], **spread}
    way = "score by torch-fidelity; probabilities of the outputs by this project"
    return {each: Theirs(value=float(value), tolerance=ROUNDING, way=way) for each, value in values.items()}


def _looks(metric: SceneInceptionScore, pairs: Pairs) -> Mapping[str, Said]:
    probabilities = _features(pairs, lambda images: metric.classify(extract(metric.extractor, images)))
    if len(probabilities) < metric.PARTS:
        return {}
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probabilities), -1e4)
    return inception_score(logits, "inception_score_looks")


def _cosine(metric: SceneCLIPScore, pairs: Pairs) -> Mapping[str, Said]:
    """torchmetrics' cosine, floored at 0, of each output; an example's is the mean of its outputs'."""
    import torch
    from torchmetrics.functional import cosine_similarity

    examples = [example for example, _ in pairs()]
    images = _features(pairs, partial(extract, metric.extractor))
    prompts = [str(example.source) for example in examples]
    texts = in_chunks(metric.embed_texts, prompts, images.shape[1], "the text encoder").astype(np.float64)
    cosines = cosine_similarity(torch.from_numpy(images), torch.from_numpy(texts), reduction="none")
    of_example: dict[str, list[float]] = {}
    for example, cosine in zip(examples, cosines.tolist(), strict=True):
        of_example.setdefault(example.id, []).append(max(cosine, 0.0))
    value = float(np.mean([np.mean(scores) for scores in of_example.values()]))
    way = "cosine by torchmetrics; the embeddings by this project: no package has the world's encoder"
    return {"clip_score": Theirs(value=value, tolerance=ROUNDING, way=way)}


FRECHET = Peer(packages=(CLEAN,), compute=_fid)
KERNEL = Peer(packages=("torch-fidelity",), compute=_of_features)
LOOKS = Peer(packages=("torch-fidelity",), compute=_looks)
COSINE = Peer(packages=("torchmetrics",), compute=_cosine)
