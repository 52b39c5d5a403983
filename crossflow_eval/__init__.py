"""The measurement: suites, metrics, runs that resume, and reports whose numbers carry their protocol."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossflow_eval.report.frame import frame

__all__ = ["frame"]


def __getattr__(name: str) -> Any:
    """Import the public name on first use, so that ``crossflow-eval --help`` does not wait for it."""
    if name != "frame":
        raise AttributeError(f"module 'crossflow_eval' has no attribute {name!r}")
    from crossflow_eval.report.frame import frame

    return frame
