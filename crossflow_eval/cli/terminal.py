"""What the commands share: errors as one sentence, tables, progress."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer


@contextmanager
def one_sentence() -> Iterator[None]:
    """Let an error that a user can mend end the program with its sentence on stderr and exit code 2."""
    from crossflow_eval.types import SetupError

    try:
        yield
    except SetupError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout, as wide as the terminal; 200 columns where there is none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(str, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
