"""The published references of FID: statistics files by name, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.judges.local_weights import HOME, home
from crossflow_eval.judges.statistics_files import Statistics, read_statistics


@dataclass(frozen=True, kw_only=True)
class PublishedReference:
    """A file of statistics as its authors publish it; it does not record the FID ``protocol`` it was made under."""

    file: str
    protocol: str
    origin: str


REFERENCES = {
    "coco-uvit": PublishedReference(
        file="fid_stats_mscoco256_val.npz", protocol="crossflow", origin="U-ViT's assets/fid_stats"
    ),
    "coco-t2ibenchmark": PublishedReference(
        file="MS-COCO_val2014_fid_stats.npz",
        protocol="t2ibenchmark",
        origin="github.com/boomb0om/text2image-benchmark, release v0.0.1",
    ),
    "imagenet256-adm": PublishedReference(
        file="VIRTUAL_imagenet256_labeled.npz", protocol="adm", origin="guided-diffusion's reference batches"
    ),
}
"""COCO's validation images of 2014 as U-ViT, CrossFlow and T2IBenchmark take them, and ImageNet's training images."""


def look_for_set(given: str) -> None:
    """Raise CrossFlowError for what names no set of images: no path that is there, and no published reference."""
    if given not in REFERENCES and not Path(given).exists():
        raise CrossFlowError(
            f"{given} is no folder, no file and no published reference; give a folder of images, an .npz file, or one "
            f"of {', '.join(REFERENCES)}."
        )


def read_reference(name: str, *, tap: str = "pool") -> Statistics:
    """The statistics of one tap of a published reference, out of the folder of the evaluator weights.

    Raises CrossFlowError for another name, a file that is not there or is not what it should be.
    """
    if name not in REFERENCES:
        raise unknown("published reference", name, REFERENCES)
    reference = REFERENCES[name]
    path = home() / reference.file
    if not path.is_file():
        raise CrossFlowError(
            f"The reference {name} is {reference.file}: fetch it from {reference.origin} and put it at {path}, or set "
            f"{HOME} to its folder."
        )
    return read_statistics(path, reference.protocol, tap=tap)
