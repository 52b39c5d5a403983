"""What the machine was when a number was made: versions and commit, never a date, a path or a host name."""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "crossflow",
    "numpy",
    "pillow",
    "pydantic",
    "safetensors",
    "scipy",
    "torch",
    "torchmetrics",
    "torchvision",
    "transformers",
)


def environment() -> dict[str, str]:
    """Return versions of what can change a number, the platform, and the commit with a dirty flag in a checkout."""
    record = {"python": platform.python_version(), "platform": f"{platform.system()}-{platform.machine()}"}
    for package in PACKAGES:
        try:
            record[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            record[package] = "not installed"
    return record | _commit(Path(__file__).resolve().parent.parent)


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
