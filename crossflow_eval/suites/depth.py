"""The depth suites: metric depth after Table 5 of the paper, and zero-shot affine-invariant depth after Table 9.

``kitti_eigen`` and ``nyuv2`` take depth in metres, as AdaBins and its successors do: nothing is aligned. KITTI is
judged under the field's three crops at once, because the paper does not say which is its own. The ``*_affine`` suites
take any depth up to scale and shift, fit it to each target, and follow Marigold's evaluation; ``*_affine_disparity`` do
so with disparity. ``*_midas`` align disparity as MiDaS does, where there is a largest depth. ``own-depth*`` take
references of one's own (``suites.own``), all pixels deeper than a millimetre. Sources are images,
targets depth maps; a prediction has its target's size, or on KITTI that of the benchmark crop.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import get_args

from crossflow.errors import CrossFlowError, unknown
from crossflow.files.depth_maps import METRES
from crossflow_eval.datasets.depth import (
    DIODE,
    ETH3D,
    KITTI,
    NYUV2,
    SCANNET,
    DepthSet,
    OwnDepth,
)
from crossflow_eval.metrics.crops import GARG, KB_EIGEN, KB_GARG, NYU_EIGEN, WHOLE
from crossflow_eval.metrics.depth import DepthErrors, DepthProtocol, Space
from crossflow_eval.models.depth_folder import DepthFolderModel
from crossflow_eval.types import Suite

VERSION = "1"
_OF_DEPTH: dict[str, tuple[DepthSet, DepthProtocol]] = {
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
_AFFINE = {name: made for name, made in _OF_DEPTH.items() if made[1].space is not None}
SUITES: dict[str, tuple[DepthSet, DepthProtocol]] = {
    **_OF_DEPTH,
    **{f"{name}_disparity": (data, replace(how, space="disparity")) for name, (data, how) in _AFFINE.items()},
    **{
        name.replace("_affine", "_midas"): (data, replace(how, space="disparity", alignment="midas"))
        for name, (data, how) in _AFFINE.items()
        if how.max_depth < math.inf
    },
}
OWN = OwnDepth()
OWN_SUITES = {
    "own-depth": (OWN, DepthProtocol(min_depth=1e-3, crops={"": WHOLE})),
    "own-depth_affine": (OWN, DepthProtocol(min_depth=1e-3, space="depth", crops={"": WHOLE})),
    "own-depth_affine_disparity": (OWN, DepthProtocol(min_depth=1e-3, space="disparity", crops={"": WHOLE})),
}
"""The same of references of one's own."""


def _known() -> dict[str, tuple[DepthSet | OwnDepth, DepthProtocol]]:
    return {**SUITES, **OWN_SUITES}


def in_space(name: str, space: str) -> str:
    """The suite ``name``, or its sister, for predictions in ``space``, depth or disparity.

    CrossFlowError for another space, and for a suite that takes depth in metres alone, or disparity alone.
    """
    if space not in get_args(Space):
        raise unknown("space", space, get_args(Space))
    known = _known()
    own = "disparity" if name in known and known[name][1].space == "disparity" else "depth"
    if space == own:
        return name
    sister = f"{name}_affine_disparity" if name == "own-depth" else f"{name}_disparity"
    if sister in known:
        return sister
    raise CrossFlowError(
        f"The suite {name} takes {own}{' in metres' if own == 'depth' else ''}, not {space}; "
        f"those that take either are {', '.join([*_AFFINE, *list(OWN_SUITES)[:2]])}."
    )


def suite(name: str) -> Suite:
    """Build one of ``SUITES`` or ``OWN_SUITES``; its data root is the folder of the data set, or of the references."""
    data, protocol = _known()[name]
    return Suite(
        name=name,
        version=VERSION,
        task="depth",
        output="npy",
        examples=data.examples,
        metrics={"depth": partial(DepthErrors, protocol, data.read)},
        made_elsewhere=partial(DepthFolderModel, png_scale=data.png_scale),
        root="references" if isinstance(data, OwnDepth) else "data",
        some=data.examples if isinstance(data, DepthSet) else None,
        unit=METRES if protocol.space is None else "",
    )
