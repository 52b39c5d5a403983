"""Training pairs in the layout of the authors' code: precomputed features, one file per image.

::

    <folder>/img_text_pair.jsonl        a line per item, with img_path and prompt
    <folder>/imgs/<img_path>            the image, where the recipe's image tower reads pixels
    <folder>/features/<name>.npy        a pickled dict, or <name>.npz with the same arrays
        image_latent_256, _512          moments of the latent, [8 s/8 s/8], not scaled
        token_embedding_clip, _t5       [77 768], [77 4096] (already times 10)
        token_mask_clip, _t5            [77], 1 for a token and 0 for padding
        batch_caption                   the text that was embedded

``name`` is the last part of img_path without its suffix. The authors' extraction script writes ``feature``, their
loader reads ``features``; either is accepted. The pickles are read by ``crossflow.files.arrays``, which executes
nothing in them.
"""

import hashlib
import os
from array import array
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.arrays import read_arrays
from crossflow.files.images import read_image
from crossflow.files.plain_json import read_json
from crossflow.modalities.kl_autoencoder import center_crop
from crossflow.training.data.shards import KeptPair

PAIRS = "img_text_pair.jsonl"
TOKENS = 77
WIDTHS = {"clip": 768, "t5": 4096}
FLOATS, MASKS = "ef", "?" + np.typecodes["AllInteger"]
"""numpy type codes: float16 and float32; bool and integers."""


class OfficialFeatures:
    """A source of pairs over the authors' layout, for images of ``size`` pixels and the embeddings of ``text``.

    With ``images`` each item includes its image, centre-cropped. Opening reads the list of pairs once and stores line
    offsets; ``fingerprint`` identifies the list, not the files that it names. CrossFlowError, with file and line, for a
    line that is not a pair, a path outside the folder, and a file that is missing, damaged or of other shapes.
    """

    def __init__(
        self, folder: Path, size: Literal[256, 512], text: Literal["clip", "t5"], images: bool = False
    ) -> None:
        self.size, self.text = size, text
        self.pairs = folder / PAIRS
        self.features = _features_folder(folder)
        self.images, self._with_images = folder / "imgs", images
        self._starts, digest = _line_starts(self.pairs)
        self.fingerprint = hashlib.sha256(f"{digest} {size} {text} {images}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._starts)

    def item(self, index: int) -> KeptPair:
        """Item ``index``, in the order of the list."""
        if not 0 <= index < len(self):
            raise IndexError(f"There is no item {index}: {self.pairs} lists {len(self)}.")
        with self.pairs.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline()
        try:
            name, prompt = _pair(line)
            image = _inside(self.images, name)
            pixels = self._cropped(image) if self._with_images else None
            return self._item(self._features_of(image.stem), prompt, pixels)
        except CrossFlowError as error:
            raise CrossFlowError(f"{self.pairs}, line {self._number(index)}: {error}") from error

    def _features_of(self, name: str) -> Path:
        path = _inside(self.features, f"{name}.npy")
        packed = _inside(self.features, f"{name}.npz")
        return packed if os.path.exists(packed) and not os.path.exists(path) else path

    def _cropped(self, image: Path) -> Tensor:
        return torch.from_numpy(np.array(center_crop(read_image(image), self.size)))

    def _item(self, path: Path, prompt: str, image: Tensor | None) -> KeptPair:
        found, side = read_arrays(path), self.size // 8
        mask = _array(path, found, f"token_mask_{self.text}", MASKS, (TOKENS,))
        if not mask.any() or ((mask != 0) & (mask != 1)).any():
            raise CrossFlowError(f"token_mask_{self.text} in {path} must be 1 for tokens, 0 for padding, not all 0.")
        moments = _array(path, found, f"image_latent_{self.size}", FLOATS, (8, side, side))
        tokens = _array(path, found, f"token_embedding_{self.text}", FLOATS, (TOKENS, WIDTHS[self.text]))
        text = found.get("batch_caption")
        return KeptPair(
            moments=torch.from_numpy(moments),
            tokens=torch.from_numpy(tokens),
            mask=torch.from_numpy(mask.astype(bool)),
            caption=prompt if text is None else str(text),
            image=image,
        )

    def _number(self, index: int) -> int:
        with self.pairs.open("rb") as file:
            return file.read(self._starts[index]).count(b"\n") + 1


def _features_folder(folder: Path) -> Path:
    there = [folder / name for name in ("features", "feature") if (folder / name).is_dir()]
    if len(there) != 1:
        found = "both folders, features and feature" if there else "neither a folder features nor a folder feature"
        raise CrossFlowError(f"{folder} holds {found}: keep the one with the .npy files in it.")
    return there[0]


def _line_starts(path: Path) -> tuple[np.ndarray, str]:
    """Byte offsets of the lines that are not blank, and the sha256 of the file."""
    starts, position, digest = array("q"), 0, hashlib.sha256()
    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                if not line.isspace():
                    starts.append(position)
                position += len(line)
    except OSError as error:
        raise CrossFlowError(f"The list of pairs {path} cannot be read ({error.strerror}): give its folder.") from error
    if not starts:
        raise CrossFlowError(f"The list of pairs {path} is empty: write one JSON object a line.")
    return np.array(starts), digest.hexdigest()


def _pair(line: bytes) -> tuple[str, str]:
    """img_path and prompt of one line."""
    match read_json(line, "the line"):
        case {"img_path": str(image), "prompt": str(prompt)}:
            return image, prompt
    raise CrossFlowError("expected an object with img_path and prompt, both text.")


def _inside(folder: Path, relative: str) -> Path:
    """A path below ``folder``; CrossFlowError if it leads outside, by a symbolic link or otherwise."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or "\0" in relative:
        raise CrossFlowError(f"the path {relative!r} leaves its folder: name files below {folder}.")
    path = folder / parts
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CrossFlowError(f"the path {relative!r} is a link that leaves its folder: put the file itself there.")
    return path


def _array(path: Path, found: dict[str, Any], name: str, types: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array ``name`` of a features file; CrossFlowError for another dtype or shape, or non-finite values."""
    values = found.get(name)
    if not isinstance(values, np.ndarray):
        raise CrossFlowError(f"{path} holds no array {name}: make the features for this size and text encoder.")
    if values.dtype.char not in types or values.shape != shape:
        raise CrossFlowError(f"{name} in {path} is {values.dtype} {list(values.shape)}, and {list(shape)} is expected.")
    if not np.isfinite(values).all():
        raise CrossFlowError(f"{name} in {path} holds numbers that are not finite: make the features again.")
    return values
