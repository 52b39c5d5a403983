"""Output of the commands: errors as one sentence, and lines on stderr."""

from __future__ import annotations

import typer

from crossflow.errors import one_line
from crossflow.errors import one_sentence as one_sentence


def to_stderr(line: str) -> None:
    """Print a line on stderr; see ``one_line``."""
    typer.echo(one_line(line), err=True)
