"""The parts of an image on which depth is judged, as the field's protocols cut them.

"KITTI AbsRel" is at least three numbers: Garg's crop of the whole image (BTS, DPT), Garg's crop of the benchmark crop
(AdaBins, NeWCRFs) and Eigen's crop of the benchmark crop (Marigold) give different ones for the same predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.resizing import BENCHMARK, benchmark_corner


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The part of an image that is judged: from and to as fractions of its height and width, rounded down.

    With ``benchmark`` they are fractions of KITTI's benchmark crop; with ``size`` they are pixels of images [h w] that
    have this size.
    """

    rows: tuple[float, float] = (0.0, 1.0)
    columns: tuple[float, float] = (0.0, 1.0)
    benchmark: bool = False
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        frame = "KITTI's benchmark crop" if self.benchmark else "the image"
        if self.size is not None:
            frame = "{} x {} px".format(*self.size)
        return "rows {:.10g} to {:.10g}, columns {:.10g} to {:.10g} of ".format(*self.rows, *self.columns) + frame

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns judged of an image. Raises CrossFlowError for an image that cannot be cropped so."""
        if self.size is not None:
            if (height, width) != self.size:
                raise CrossFlowError(f"the target is {height} x {width} px and the crop is {self}; give such targets.")
            return slice(*map(int, self.rows)), slice(*map(int, self.columns))
        top, left = benchmark_corner(height, width) if self.benchmark else (0, 0)
        height, width = BENCHMARK if self.benchmark else (height, width)
        rows = slice(*(top + int(fraction * height) for fraction in self.rows))
        return rows, slice(*(left + int(fraction * width) for fraction in self.columns))


GARG = Crop(rows=(0.40810811, 0.99189189), columns=(0.03594771, 0.96405229))
"""R. Garg et al., 2016."""
KB_GARG = Crop(rows=GARG.rows, columns=GARG.columns, benchmark=True)
KB_EIGEN = Crop(rows=(0.3324324, 0.91351351), columns=(0.0359477, 0.96405229), benchmark=True)
"""D. Eigen, C. Puhrsch and R. Fergus, 2014."""
NYU_EIGEN = Crop(rows=(45.0, 471.0), columns=(41.0, 601.0), size=(480, 640))
WHOLE = Crop()


def kept_columns(height: int, width: int, *, side: int | None) -> np.ndarray | None:
    """The columns that Marigold fits on where the longer side exceeds ``side``: int [n]; None for all of them.

    Its nearest-neighbour shrinking acts on the last axis alone, in float32, and leaves every row.
    """
    if side is None or max(height, width) <= side:
        return None
    factor = min(side / height, side / width)
    nearest = np.floor(np.arange(int(width * factor), dtype=np.float32) * np.float32(1 / factor)).astype(int)
    return np.minimum(nearest, width - 1)
