"""What the machine was when a number was made: versions, source and commit, never a date, a path or a host name."""

from __future__ import annotations

import inspect
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from crossflow.files.hashes import file_sha256

PACKAGES = (
    "crossflow",
    "ftfy",
    "numpy",
    "open_clip_torch",
    "opencv-python-headless",
    "pillow",
    "pycocoevalcap",
    "pydantic",
    "regex",
    "safetensors",
    "scipy",
    "timm",
    "tokenizers",
    "torch",
    "torchaudio",
    "torchmetrics",
    "torchvision",
    "transformers",
)
"""All that decode, cut, resize, embed or score: SSIM is OpenCV's filters, a prompt's tokens are open_clip's."""


_COMMIT = ("git_commit", "git_dirty")
_ROOT = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """Return versions of what can change a number, the platform, the GPU if there is one, and the digest of the source.

    In a checkout also its commit, with a flag that says whether the checkout is dirty.
    """
    return _decisive() | _commit(_ROOT)


def same_numbers(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether equal numbers are made in two environments: of one source, whatever its commit, and equal versions."""
    ours, theirs = ({name: of[name] for name in of if name not in _COMMIT} for of in (one, other))
    return "source_sha256" in ours and ours == theirs


def numbers_sha256() -> str:
    """The digest of all that ``same_numbers`` compares, here: what was computed under another is computed anew."""
    return sha256(repr(sorted(_decisive().items())).encode()).hexdigest()


def _decisive() -> dict[str, str]:
    import torch

    record = {"python": platform.python_version(), "platform": f"{platform.system()}-{platform.machine()}"}
    record |= {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    for package in PACKAGES:
        try:
            record[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            record[package] = "not installed"
    return record | {"source_sha256": source_sha256(_ROOT)}


@cache
def source_sha256(root: Path) -> str:
    """The digest of all files of both packages in ``root``: code, tables, prompts and shipped weights."""
    files = sorted(
        path
        for name in ("crossflow", "crossflow_eval")
        for path in (root / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    lines = [f"{path.relative_to(root).as_posix()} {file_sha256(path)}\n" for path in files]
    return sha256("".join(lines).encode()).hexdigest()


def code_sha256(*objects: object) -> str | None:
    """The digest of the source files of functions and classes; None where there are none.

    What these files import in their turn is not looked at.
    """
    paths: set[Path] = set()
    for each in objects:
        with suppress(TypeError, OSError):  # built in, or typed at a prompt
            paths.add(Path(inspect.getsourcefile(inspect.unwrap(each)) or ""))  # pyright: ignore[reportArgumentType]
    digests = sorted(file_sha256(path) for path in paths if path.is_file())
    return sha256("".join(digests).encode()).hexdigest() if digests else None


def hardware() -> str:
    """The processor's name and the number of cores that this process may use."""
    name = platform.processor() or "unknown processor"
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def _commit(root: Path) -> dict[str, str]:
    if not (root / ".git").exists():
        return {}
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"git_commit": "unknown"}
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": "unknown" if changes is None else str(bool(changes)).lower()}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
