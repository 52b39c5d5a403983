"""What is said when a name is not known, in one place so that every list of names answers alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from crossflow_eval.types import SetupError


def unknown(kind: str, name: str, available: Iterable[str]) -> SetupError:
    """Build the error for an unknown ``name`` of a ``kind`` ("suite", "model", ...), with the nearest known name."""
    known = sorted(available)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return SetupError(f"Unknown {kind} {name!r}.{hint} Available: {', '.join(known) or 'none'}.")


def first_few(names: Iterable[str], show: int = 5) -> str:
    """Join the first ``show`` names for a message: ``a, b, c, …``."""
    listed = list(names)
    return ", ".join(listed[:show]) + (", …" if len(listed) > show else "")
