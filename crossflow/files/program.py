"""What the two programs share: they print on any terminal, and what libraries say of themselves reaches no user."""

import io
import logging
import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from crossflow.errors import Notice, one_line, one_sentence
from crossflow.files.processes import rank_and_world

QUIET = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Variables that keep the notices of libraries off the terminal, where the user has not set them."""


class Program(TyperGroup):
    """The group of a program's commands."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command, with characters that the terminal lacks printed as escapes (``\\\\u2192``)."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what no handler takes
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", Notice)
            warnings.showwarning = _show
            return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named, once the place among several processes is known to make sense."""
        with one_sentence():
            rank_and_world()
        return super().invoke(ctx)


class OneLine(logging.Formatter):
    """Writes what a log says as ``one_line``."""

    def format(self, record: logging.LogRecord) -> str:
        """The message alone."""
        return one_line(record.getMessage())


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"Warning: {message}", err=True)
