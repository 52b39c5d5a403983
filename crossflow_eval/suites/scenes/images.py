"""Renders of the embedded world as files, for suites whose sources are images.

They are drawn anew each time and compared with what is there, so that a file that is missing, damaged or of another
world is never measured; a thousand small renders take less time than their hashes would save.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow.files.writing import write_whole

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MOST = (1 << 16) - 1
"""Bytes that fit into one block of a stream that is not compressed."""


def cache_folder(split: str, side: int) -> Path:
    """Where the renders of a split are kept, in ``CROSSFLOW_CACHE``; another world has another folder."""
    from crossflow.files.folders import cache_folder as root
    from crossflow.scenes import VERSION as WORLD

    return root() / f"scenes-v{WORLD}-{split}-{side}px"


def keep(folder: Path, images: Mapping[str, np.ndarray]) -> dict[str, Path]:
    """Let ``folder`` hold exactly these images, uint8 [h w 3], as ``<name>.png``; returns the files by name.

    Only what is not there byte for byte is written, each file at once. CrossFlowError where it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossFlowError(
            f"Cannot make {folder} ({error.strerror}); let CROSSFLOW_CACHE name a folder that can be written."
        ) from error
    files = {name: folder / f"{name}.png" for name in images}
    for name, path in files.items():
        content = encode_png(images[name])
        if not (path.is_file() and path.read_bytes() == content):
            write_whole(path, content, writer=os.getpid())
    return files


def encode_png(image: np.ndarray) -> bytes:
    """An image, uint8 [h w 3] of at most 64 KiB, as a PNG that is not compressed.

    The files' sha256 name the data of a run, so no library's way to compress may be part of them.
    """
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # the first byte of a row is its filter, 0 for none
    rows[:, 1:] = image.reshape(height, -1)
    raw = rows.tobytes()
    if len(raw) > MOST:
        raise ValueError(f"an image of {height} x {width} pixels does not fit into one block")
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT": b"\x78\x01\x01" + struct.pack("<HH", len(raw), len(raw) ^ MOST) + raw + _big(zlib.adler32(raw)),
        b"IEND": b"",
    }
    parts = (_big(len(data)) + kind + data + _big(zlib.crc32(kind + data)) for kind, data in chunks.items())
    return SIGNATURE + b"".join(parts)


def _big(number: int) -> bytes:
    return struct.pack(">I", number)
