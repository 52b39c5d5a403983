"""Models of other packages: found by name, built, checked, and known by the code that made them.

Nothing is trusted to be what it should: whatever such code raises is one sentence.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.environment import code_sha256
from crossflow_eval.records import is_file_name
from crossflow_eval.types import CODE, Model


class OtherModel:
    """A model of another package; its identity says of which code it is, beside what the model says itself."""

    def __init__(self, model: Model, code_sha256: str | None) -> None:
        self._model = model
        self.name = model.name
        self.identity: Mapping[str, Any] = {CODE: code_sha256, **model.identity}

    def generate(self, sources: Sequence[Any], seeds: Sequence[int]) -> Sequence[Any]:
        """As the model itself; CrossFlowError where it raises anything."""
        with _one_sentence(f"The model {self.name} could not generate"):
            return list(self._model.generate(sources, seeds))


def find(name: str) -> object:
    """The object that ``package.module:factory`` names. Raises CrossFlowError."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise CrossFlowError(f"--model {name}: expected package.module:factory.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        with _one_sentence(f"--model {name}: the module {module_name} cannot be imported", ModuleNotFoundError):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise CrossFlowError(
            f"--model {name}: there is no module {error.name!r}; install it or mend the name."
        ) from error
    if not hasattr(module, attribute):
        offered = [each for each in dir(module) if not each.startswith("_") and callable(getattr(module, each))]
        raise unknown(f"factory in {module_name}", attribute, offered)
    return getattr(module, attribute)


def loaded(name: str, entry: metadata.EntryPoint) -> object:
    """The object behind an entry point. Raises CrossFlowError."""
    with _one_sentence(f"--model {name} cannot be loaded"):
        return entry.load()


def build(name: str, factory: Any) -> Model:
    """The model that ``factory`` builds when it is called without arguments.

    Raises:
        CrossFlowError: it cannot be called so, or builds what is no model.
    """
    if not callable(factory):
        raise CrossFlowError(f"--model {name} is not a function or class that builds a model.")
    with _one_sentence(f"--model {name} builds no model when it is called without arguments"):
        model = factory()
    lacks = [part for part in ("name", "identity", "generate") if not hasattr(model, part)]
    if lacks or not isinstance(model, Model) or not callable(model.generate):
        raise CrossFlowError(
            f"--model {name} built a {type(model).__name__} without {', '.join(lacks) or 'a method generate'}."
        )
    try:
        json.dumps(dict(model.identity), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CrossFlowError(f"--model {name}: its identity is not plain JSON ({error}).") from error
    if not is_file_name(model.name):
        raise CrossFlowError(f"--model {name}: its name {str(model.name)[:80]!r} cannot name a folder.")
    return OtherModel(model, code_sha256(factory, type(model)))


@contextmanager
def _one_sentence(what: str, *passed: type[Exception]) -> Iterator[None]:
    """Code of others may raise anything, and may exit: the sentence says ``what`` that stopped, and where."""
    try:
        yield
    except (CrossFlowError, *passed):
        raise
    except (Exception, SystemExit) as error:
        why = " ".join(str(error).split())[:200]
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise CrossFlowError(f"{what} ({type(error).__name__}: {why}; {place}).") from error
