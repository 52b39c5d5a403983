"""The depth suites: metric depth after Table 5 of the paper, and zero-shot affine-invariant depth after Table 9.

``kitti_eigen`` and ``nyuv2`` take depth in metres, as AdaBins and its successors do: nothing is aligned. KITTI is
judged under the field's three crops at once, because the paper does not say which is its own. The ``*_affine`` suites
take any depth up to scale and shift, fit it to each target, and follow Marigold's evaluation. Sources are images,
targets depth maps; a prediction has its target's size, or on KITTI that of the benchmark crop.
"""

from __future__ import annotations

from functools import partial

from crossflow_eval.datasets.depth import (
    DIODE,
    ETH3D,
    KITTI,
    NYUV2,
    SCANNET,
    DepthSet,
)
from crossflow_eval.metrics.crops import GARG, KB_EIGEN, KB_GARG, NYU_EIGEN, WHOLE
from crossflow_eval.metrics.depth import DepthErrors, DepthProtocol
from crossflow_eval.models.depth_folder import DepthFolderModel
from crossflow_eval.types import Suite

VERSION = "1"
SUITES: dict[str, tuple[DepthSet, DepthProtocol]] = {
    "kitti_eigen": (
        KITTI,
        DepthProtocol(min_depth=1e-3, max_depth=80.0, crops={"garg": GARG, "kb_garg": KB_GARG, "kb_eigen": KB_EIGEN}),
    ),
    "nyuv2": (NYUV2, DepthProtocol(min_depth=1e-3, max_depth=10.0, crops={"": NYU_EIGEN})),
    "kitti_affine": (KITTI, DepthProtocol(min_depth=1e-5, max_depth=80.0, space="depth", crops={"": KB_EIGEN})),
    "nyuv2_affine": (NYUV2, DepthProtocol(min_depth=1e-3, max_depth=10.0, space="depth", crops={"": NYU_EIGEN})),
    "eth3d_affine": (ETH3D, DepthProtocol(min_depth=1e-5, space="depth", crops={"": WHOLE}, fit_side=1024)),
    "scannet_affine": (SCANNET, DepthProtocol(min_depth=1e-3, max_depth=10.0, space="depth", crops={"": WHOLE})),
    "diode_affine": (DIODE, DepthProtocol(min_depth=0.6, max_depth=350.0, space="depth", crops={"": WHOLE})),
}


def suite(name: str) -> Suite:
    """Build one of ``SUITES``; its data root is the folder of the data set."""
    data, protocol = SUITES[name]
    return Suite(
        name=name,
        version=VERSION,
        task="depth",
        output="npy",
        examples=data.examples,
        metrics={"depth": partial(DepthErrors, protocol, data.read)},
        made_elsewhere=partial(DepthFolderModel, png_scale=data.png_scale),
    )
