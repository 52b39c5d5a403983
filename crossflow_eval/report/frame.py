"""Finished runs as a pandas data frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossflow.errors import CrossFlowError
from crossflow_eval.report import tables_of
from crossflow_eval.report.runs import entries
from crossflow_eval.report.text import CSV_HEADER, cell_records

if TYPE_CHECKING:
    import pandas

NUMBERS = ("mean", "ci_low", "ci_high", "n", "published")
RUN = ("suite", "model", "digest", "role")
"""What an output's record begins with: the run that it is of."""


def frame(*runs: str | Path, outputs: bool = False, allow_mixed: bool = False) -> pandas.DataFrame:
    """The results of finished runs and their references, a row a number: what ``report --format csv`` writes.

    With ``outputs`` a row an output instead: its run (``suite``, ``model``, ``digest``, ``role``) and all that
    per_example.jsonl says of it. Runs that do not compare may be together with ``allow_mixed``, or as outputs.

    Raises:
        CrossFlowError: no runs; runs that are not finished, or not as they were scored; numbers that may not stand
            together; pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise CrossFlowError("A frame needs pandas, which is not installed: pip install pandas.") from error
    if not runs:
        raise CrossFlowError("A frame needs at least one run's folder.")
    found = entries([Path(run) for run in runs])
    if not outputs:
        records = cell_records(tables_of(found, allow_mixed=allow_mixed))
        return pandas.DataFrame(records, columns=list(CSV_HEADER)).astype(dict.fromkeys(NUMBERS, float))
    rows: list[dict[str, Any]] = []
    for entry in found:
        settings = entry.result.settings
        run = dict(zip(RUN, (settings.suite, settings.model, settings.digest, entry.role), strict=True))
        rows += [{**run, **row} for row in entry.rows]
    return pandas.DataFrame(rows)
