"""Options that commands share, and the commands that measure, made of the options of ``crossflow_eval.request``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from crossflow_eval.request import Command, Option, Request, options

RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and no progress.")]
Data = Annotated[Path | None, typer.Option(help="The suite's data root.", show_default=False)]


def command(name: str, of: Command, measure: Callable[[Request, bool], None]) -> Callable[..., None]:
    """The function behind the command ``name``, with the options that it takes: what it is given, it lets measure."""
    hints = get_type_hints(Request)
    parameters = [
        _parameter(
            field.name, hints[field.name], of.defaults.get(field.name, field.default), _worded(option, of, field)
        )
        for field, option in options()
        if option.belongs(of.task) and not (of.settled and option.chooses)
    ]
    parameters.append(_parameter("as_json", AsJson, False))

    def run(as_json: bool, **given: Any) -> None:
        measure(Request(task=of.task, **({"suite": of.suite} if of.settled else {}), **given), as_json)

    run.__name__, run.__doc__ = name, of.help
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    return run


def _worded(option: Option, of: Command, field: Field[Any]) -> Any:
    """An option as the command says it: its default is shown where it is the command's own, else what stands for it."""
    shown = of.suites if field.name == "suite" else option.shown
    shown = True if field.name in of.defaults else shown
    shown = False if field.name in of.needs else shown
    return typer.Option(option.flag, help=of.says.get(field.name, option.help), show_default=shown)


def _parameter(name: str, kind: Any, default: Any, option: Any = None) -> inspect.Parameter:
    annotation = kind if option is None else Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
