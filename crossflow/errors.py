"""The error that both packages raise, and helpers for its messages: one sentence that names the remedy."""

from __future__ import annotations

import difflib
import errno
import os
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
MANY = 40
"""Names that are listed of what is available: of more, as of recipes, a message shows the first and the nearest."""


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


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or a scheduler's SIGTERM; the message says what is kept, ``adds`` is an option for the next call."""

    def __init__(self, kept: str, adds: str = "") -> None:
        super().__init__(kept)
        self.adds = adds


@contextmanager
def one_sentence(goes_on: bool = True) -> Iterator[None]:
    """End a program on CrossFlowError with its message on stderr and exit code 2, and on Ctrl-C with exit code 130.

    So it ends, too, on what the system says of a path that nobody could use, such as a name that is too long, and where
    memory is at its end. A reader of the output that went away, as ``head`` does, is left to Typer, which says nothing.
    ``goes_on`` is whether the same command goes on where it was stopped.
    """
    import typer

    try:
        yield
    except CrossFlowError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        limit = " (255 bytes on most systems)" if error.errno == errno.ENAMETOOLONG else ""
        typer.echo(f"Error: {place}{error.strerror or error}{limit}; give another path.", err=True)
        raise typer.Exit(2) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        why = ". ".join(str(error).split(". ")[:2]).rstrip(".")
        typer.echo(
            f"Error: Memory is at its end{why and f' ({one_line(why)})'}: free some, take another --device, or do less "
            "at once, by options such as --batch-size, --accumulate and --checkpointing.",
            err=True,
        )
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        typer.echo(f"Stopped. {_kept(error, goes_on)}", err=True)
        raise typer.Exit(130) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error is of no memory: Python's or, without torch, a GPU's by its name and a CPU's by its words."""
    of_a_gpu, of_a_cpu = type(error).__name__ == "OutOfMemoryError", "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or of_a_gpu or of_a_cpu


def _kept(error: KeyboardInterrupt, goes_on: bool) -> str:
    """What is kept of a command that was stopped, and the command that goes on."""
    if not isinstance(error, Stopped):
        return f"What is finished is kept{', and the same command goes on' if goes_on else ''}."
    words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
    words += [error.adds] if error.adds and error.adds not in words else []
    return f"{error} Go on by: {shlex.join(words)}"


def named(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``; an unknown name raises CrossFlowError that lists the nearest and the known names."""
    if name in table:
        return table[name]
    raise unknown(kind, name, table)


def unknown(kind: str, name: str, available: Iterable[str]) -> CrossFlowError:
    """The error for an unknown ``name`` of a ``kind`` ("suite", "model", ...), with the nearest known name.

    Suffixes of files (".mp3") have none: they are too short for a likeness to mean anything.
    """
    known = list(available)
    near = [] if name.startswith(".") else difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return CrossFlowError(f"Unknown {kind} {name!r}.{hint} Available: {first_few(known, MANY) or 'none'}.")


def first_few(names: Iterable[str], show: int = 5) -> str:
    """Join the first ``show`` names for a message and count the rest: ``a, b and 7 more``."""
    listed = list(names)
    return ", ".join(listed[:show]) + (f" and {len(listed) - show} more" if len(listed) > show else "")
