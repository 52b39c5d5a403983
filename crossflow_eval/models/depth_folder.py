"""Depth maps made elsewhere, as the outputs of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.depth_maps import MILLIMETRES, read_map
from crossflow_eval.datasets.depth import read_depth_folder
from crossflow_eval.models.folder import FolderModel


class DepthFolderModel(FolderModel):
    """The depth maps of a folder, looked up by example id: ``<id>.npy``, ``.npz`` or 16-bit ``.png``.

    A PNG holds metres times ``png_scale``.
    """

    what = "depth map"

    def __init__(self, folder: Path, png_scale: float = MILLIMETRES) -> None:
        self.folder = folder
        self._png_scale = png_scale
        self.images = read_depth_folder(folder, png_scale)
        self.identity: Mapping[str, Any] = {
            "depth_maps_sha256": self.images.sha256,
            "depth_maps": len(self.images.files),
            "formats": dict(sorted(Counter(self.images.formats.values()).items())),
            "png_scale": png_scale,
        }

    def read(self, example_id: str, index: int) -> np.ndarray:
        """Return the ``index``-th depth map of an example as float32 [h w]. CrossFlowError where there is none."""
        key = self._key(example_id, index)
        if key is None:
            raise CrossFlowError(f"The folder {self.folder} holds no depth map for {example_id}.")
        depth = read_map(self.images.files[key], self._png_scale)
        self.images.check_unchanged(key)
        return depth
