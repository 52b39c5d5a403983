"""What a user can do wrong, said in one sentence with the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class CrossFlowError(Exception):
    """A call, a file or a setting is wrong. The message is one sentence with its remedy; the CLI exits with 2."""


def named(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``; an unknown name raises CrossFlowError with the nearest and with all the known names."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise CrossFlowError(f"Unknown {kind} '{name}'.{hint} Available: {', '.join(table)}.")
