"""The suites by name: plain functions, called only when their suite is wanted.

Another package adds its own under the entry point group ``crossflow_eval.suites``: a ``Suite``, or a function without
arguments that gives one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.models import Lookup
from crossflow_eval.suites import caption, coco, depth, geneval, superres, t2i
from crossflow_eval.suites.scenes import references as scene_references
from crossflow_eval.suites.scenes import t2i as scenes
from crossflow_eval.suites.scenes import tasks as scene_tasks
from crossflow_eval.tables import Role
from crossflow_eval.types import Suite

ENTRY_POINTS = "crossflow_eval.suites"

SUITES: dict[str, Suite | Callable[[], Suite]] = {
    **{name: partial(scenes.suite, name) for name in scenes.SPLIT_OF},
    **{name: partial(scene_tasks.suite, name) for name in scene_tasks.SUITES},
    "folder": t2i.folder,
    **{name: partial(depth.suite, name) for name in depth.SUITES},
    **{name: partial(superres.suite, name) for name in superres.SUITES},
    **{name: partial(caption.suite, name) for name in caption.SUITES},
    **{name: partial(coco.suite, name) for name in coco.SUITES},
    "geneval": geneval.SUITE,
}


def suite_names() -> list[str]:
    """Every suite that can be asked for: our own, then those of installed packages."""
    return [*SUITES, *(entry.name for entry in metadata.entry_points(group=ENTRY_POINTS))]


def load_suite(name: str, root: Path | None = None) -> Suite:
    """Return the suite called ``name``. Raises CrossFlowError, with the nearest name, where there is none.

    ``root`` is the data root, of which the suites on COCO and MJHQ-30K need the references too, not the examples alone.
    """
    found = partial(coco.suite, name, root) if name in coco.SUITES else SUITES.get(name)
    if found is None:
        others = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
        if name not in others:
            raise unknown("suite", name, suite_names())
        found = others[name].load()
    suite = found if isinstance(found, Suite) else found()
    if not isinstance(suite, Suite):
        raise CrossFlowError(f"The suite {name!r} is a {type(suite).__name__}, not a crossflow_eval Suite.")
    return suite


def references(name: str) -> dict[Role, Lookup]:
    """What a run of the suite called ``name`` stands between, by role; empty for a suite of another world."""
    return dict([*scenes.references(name).items(), *scene_references.references(name).items()])
