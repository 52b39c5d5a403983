"""The error that both packages raise, and helpers for its messages: one sentence that names the remedy."""

from __future__ import annotations

import difflib
import errno
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class CrossFlowError(Exception):
    """A call, a file, a setting or the machine is wrong. The message is one sentence that names the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Notice(UserWarning):
    """One sentence of ours for whoever runs a program, which shows no other warnings."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str) -> str:
    r"""Text for a terminal: in one line, and what would steer the terminal, or hide, as an escape (``\x1b``).

    Names of files and what stands in them may be anything.
    """
    if text.isprintable():
        return text
    shown = (each if each.isprintable() or unicodedata.category(each) == "Zs" else _escaped(each) for each in text)
    return "".join(shown)


def _escaped(character: str) -> str:
    return " " if character == "\n" else character.encode("unicode_escape").decode()


@contextmanager
def one_sentence() -> Iterator[None]:
    """End a program on CrossFlowError with its message on stderr and exit code 2, and on Ctrl-C with exit code 130.

    So it ends, too, on what the system says of a path that nobody could use, such as a name that is too long.
    """
    import typer

    try:
        yield
    except CrossFlowError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        limit = " (255 bytes on most systems)" if error.errno == errno.ENAMETOOLONG else ""
        typer.echo(f"Error: {error.filename}: {error.strerror or error}{limit}; give another path.", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo("Stopped. What is finished is kept: the same command goes on (train: with --resume).", err=True)
        raise typer.Exit(130) from error


def named(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``; an unknown name raises CrossFlowError that lists the nearest and all known names."""
    if name in table:
        return table[name]
    raise unknown(kind, name, table)


def unknown(kind: str, name: str, available: Iterable[str]) -> CrossFlowError:
    """The error for an unknown ``name`` of a ``kind`` ("suite", "model", ...), with the nearest known name."""
    known = list(available)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return CrossFlowError(f"Unknown {kind} {name!r}.{hint} Available: {', '.join(known) or 'none'}.")


def first_few(names: Iterable[str], show: int = 5) -> str:
    """Join the first ``show`` names for a message and count the rest: ``a, b and 7 more``."""
    listed = list(names)
    return ", ".join(listed[:show]) + (f" and {len(listed) - show} more" if len(listed) > show else "")
