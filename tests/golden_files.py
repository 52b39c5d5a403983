"""The golden files: each lies once in tests/golden, packed by xz; ``golden_file`` unpacks it to the byte."""

import lzma
import tempfile
from functools import cache
from pathlib import Path

PACKED = Path(__file__).parent / "golden"
UNPACKED = tempfile.TemporaryDirectory(prefix="golden-")
"""Removed when the tests end."""


@cache
def golden_file(name: str) -> Path:
    """Where the file of that name lies unpacked, read-only; tests/golden/*.LICENSE.md says what it is and whose."""
    path = Path(UNPACKED.name) / name
    path.write_bytes(lzma.decompress((PACKED / f"{name}.xz").read_bytes()))
    path.chmod(0o444)
    return path
