"""The suites by name: functions of the data root, called only when their suite is wanted.

Another package adds its own under the entry point group ``crossflow_eval.suites``: a ``Suite``, or such a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import metadata
from pathlib import Path

from crossflow.errors import CrossFlowError, unknown
from crossflow_eval.suites import audiocaps, caption, coco, depth, geneval, msrvtt, own, superres, t2i, ucf101
from crossflow_eval.suites.scenes import any_to_any as scene_any
from crossflow_eval.suites.scenes import arithmetic as scene_arithmetic
from crossflow_eval.suites.scenes import compression as scene_compression
from crossflow_eval.suites.scenes import t2i as scenes
from crossflow_eval.suites.scenes import tasks as scene_tasks
from crossflow_eval.types import Suite

ENTRY_POINTS = "crossflow_eval.suites"
Factory = Callable[[Path | None], Suite]
"""Builds a suite on its data root, which is None where none is given."""


def _of(make: Callable[[str], Suite], names: Iterable[str]) -> dict[str, Factory]:
    """Suites whose data root is asked for by their examples alone."""
    return {name: lambda root, name=name: make(name) for name in names}


SUITES: dict[str, Factory] = {
    **_of(scenes.suite, scenes.SPLIT_OF),
    **_of(scene_tasks.suite, scene_tasks.SUITES),
    **_of(scene_arithmetic.suite, scene_arithmetic.SPLIT_OF),
    **_of(scene_compression.suite, scene_compression.SPLIT_OF),
    **_of(scene_any.suite, scene_any.SUITES),
    "folder": lambda root: t2i.folder(),
    **own.SUITES,
    **_of(depth.suite, {**depth.SUITES, **depth.OWN_SUITES}),
    **_of(superres.suite, superres.SUITES),
    **_of(caption.suite, caption.SUITES),
    **{name: partial(coco.suite, name) for name in coco.SUITES},
    **{name: partial(audiocaps.suite, name) for name in audiocaps.SUITES},
    **_of(msrvtt.suite, msrvtt.SUITES),
    "ucf101": lambda root: ucf101.SUITE,
    "geneval": lambda root: geneval.SUITE,
}


def suite_names() -> list[str]:
    """Every suite that can be asked for: our own, then those of installed packages."""
    return [*SUITES, *(entry.name for entry in metadata.entry_points(group=ENTRY_POINTS))]


def load_suite(name: str, root: Path | None = None) -> Suite:
    """Return the suite called ``name`` on the data ``root``.

    Raises CrossFlowError, with the nearest name, where there is none.
    """
    found = SUITES.get(name)
    if found is None:
        others = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
        if name not in others:
            raise unknown("suite", name, suite_names())
        found = others[name].load()
    suite = found if isinstance(found, Suite) else found(root)
    if not isinstance(suite, Suite):
        raise CrossFlowError(f"The suite {name!r} is a {type(suite).__name__}, not a crossflow_eval Suite.")
    return suite
