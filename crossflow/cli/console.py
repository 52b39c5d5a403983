"""What the commands share: one sentence for what a user can mend, and lines on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def one_sentence() -> Iterator[None]:
    """Let what a user can mend end the program with a sentence on stderr and exit code 2, and Ctrl-C with 130."""
    from crossflow.errors import CrossFlowError

    try:
        yield
    except CrossFlowError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("Stopped. What is finished is kept: the same command goes on (train: with --resume).", err=True)
        raise typer.Exit(130) from error


def to_stderr(line: str) -> None:
    """Print a line on stderr."""
    typer.echo(line, err=True)
