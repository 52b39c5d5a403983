"""What the two programs share: they print on any terminal, and what libraries say of themselves reaches no user."""

import functools
import inspect
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from crossflow.errors import CrossFlowError, Notice, one_line, one_sentence
from crossflow.files.processes import rank_and_world

Commands = Mapping[str, Sequence[tuple[Callable[..., None], str]]]
"""The commands of a program, by the group that its help shows them in: the function and an example of a call."""
WRITTEN = ("out", "results", "root")
"""The parameters of commands that name what is written; every other path is read."""
PLANNED = ("dry_run", "print_commands")
"""The parameters by which a command only says what would be done, maybe elsewhere, where the paths are."""
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
            warnings.simplefilter("default", Notice)  # each once
            warnings.showwarning = _show
            return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named, once the place among several processes is known to make sense."""
        with one_sentence():
            rank_and_world()
        return super().invoke(ctx)


def reading(command: Callable[..., None], named: Collection[str] = ()) -> Callable[..., None]:
    """The command, once the paths that it is to read are found: before it loads what takes seconds.

    What is ``named`` stands for a path that the command knows. CrossFlowError, as a sentence, for one that is not
    there.
    """

    @functools.wraps(command)
    def found(**given: Any) -> None:
        with one_sentence():
            read = {} if any(given.get(name) for name in PLANNED) else given
            for name, value in read.items():
                for each in value if isinstance(value, list) else [value]:
                    if isinstance(each, Path) and name not in WRITTEN and str(each) not in named:
                        look_for(each)
        command(**given)

    return found


def look_for(path: Path) -> None:
    """Raise CrossFlowError where there is nothing at a path that is to be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CrossFlowError(f"There is no file or folder {path}: give one that is there.") from error
    except (OSError, ValueError):  # whoever reads it says what is wrong with it
        return


class OneLine(logging.Formatter):
    """Writes what a log says as ``one_line``."""

    def format(self, record: logging.LogRecord) -> str:
        """The message alone."""
        return one_line(record.getMessage())


def new_app(
    name: str,
    says: str | None,
    commands: Commands,
    prepare: Callable[[], None] = lambda: None,
    named: Collection[str] = (),
) -> typer.Typer:
    """The program ``name`` with its ``commands``, ``-h``, ``--version``, completion; ``prepare`` runs before each.

    What is ``named`` may stand in the place of a path.
    """
    app = typer.Typer(
        cls=Program,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help=says,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def say_version(wanted: bool) -> bool:
        if wanted:
            typer.echo(f"{name} {metadata.version('crossflow')}")
            raise typer.Exit
        return wanted

    def main(version: bool = False) -> None:
        prepare()

    option = typer.Option("--version", callback=say_version, is_eager=True, help="Print the version and exit.")
    main.__annotations__["version"] = Annotated[bool, option]
    app.callback()(main)
    for group, of in commands.items():
        for command, example in of:
            said, epilog = _paragraphs(command), f"Example: {example}"
            reads = reading(command, named)
            app.command(example.split()[1], help=said, rich_help_panel=group, epilog=epilog)(reads)
    return app


def _paragraphs(command: Callable[..., None]) -> str:
    """What a command says of itself, a line a paragraph: where the terminal ends is where its lines are broken."""
    return "\n\n".join(" ".join(each.split()) for each in (inspect.getdoc(command) or "").split("\n\n"))


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"Warning: {message}", err=True)
