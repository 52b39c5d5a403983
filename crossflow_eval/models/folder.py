"""Images made elsewhere, as the outputs of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossflow.errors import CrossFlowError, first_few
from crossflow_eval.datasets.folder import ImageFolder, read_folder, read_image
from crossflow_eval.types import Example


class FolderModel:
    """Outputs made elsewhere: the images of a folder, looked up by example id (``<id>.png`` or ``<id>-<k>.png``)."""

    name, what = "folder", "image"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: ImageFolder = read_folder(folder)
        self.identity: Mapping[str, Any] = {
            "images_sha256": self.images.sha256,
            "images": len(self.images.files),
            "formats": dict(sorted(Counter(self.images.formats.values()).items())),
        }

    def read(self, example_id: str, index: int) -> np.ndarray:
        """Return the ``index``-th image of an example as uint8 [h w 3]. Raises CrossFlowError where there is none.

        So it does where the file is no longer what was found.
        """
        key = self._key(example_id, index)
        if key is None:
            raise CrossFlowError(f"The folder {self.folder} holds no image for {example_id}.")
        image = read_image(self.images.files[key])
        self.images.check_unchanged(key)
        return image

    def check(self, needed: Sequence[Example], known: Sequence[Example], outputs_per_example: int) -> None:
        """Check that every needed output is there, and that every image belongs to one of the ``known`` examples.

        Raises:
            CrossFlowError: missing or foreign images, and those whose names are of two examples ("a-0" and the first
                of "a"); counted, the first ones named.
        """
        indices = range(outputs_per_example)
        missing = [f"{e.id}-{k}" for e in needed for k in indices if self._key(e.id, k) is None]
        if missing:
            raise CrossFlowError(
                f"{len(missing)} of {len(needed) * outputs_per_example} {self.what}s are missing in {self.folder}: "
                f"{first_few(missing)}; it holds {first_few(sorted(map(str, self.images.files)), 3)}."
            )
        claims = Counter(key for e in known for k in indices if (key := self._key(e.id, k)) is not None)
        if shared := sorted(self.images.files[key].name for key, times in claims.items() if times > 1):
            raise CrossFlowError(
                f"{len(shared)} {self.what}s in {self.folder} may be of either of two examples: {first_few(shared)}. "
                "Call each by its example and a number, ID-0 and so on."
            )
        foreign = self.images.files.keys() - claims.keys()
        if foreign:
            names = sorted(self.images.files[key].name for key in foreign)
            raise CrossFlowError(
                f"{len(foreign)} of {len(self.images.files)} {self.what}s in {self.folder} belong to no example: "
                f"{first_few(names)}."
            )

    def _key(self, example_id: str, index: int) -> str | None:
        if f"{example_id}-{index}" in self.images.files:
            return f"{example_id}-{index}"
        return example_id if index == 0 and example_id in self.images.files else None
