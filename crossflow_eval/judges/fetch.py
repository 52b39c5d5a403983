"""Downloads of evaluator weights: resumed where they stopped, checked by sha256, there whole or not at all."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.local_weights import checked_sha256, home
from crossflow_eval.judges.weights import EvaluatorWeights

CHUNK = 1 << 20
TIMEOUT = 30
"""Seconds without an answer after which a download ends; what came is kept."""

Advance = Callable[[int, int | None], None]
"""Called with the bytes that are there and with those expected, None where the server does not say."""


def fetch(weights: EvaluatorWeights, advance: Advance = lambda done, total: None) -> Path:
    """Download ``weights`` into :func:`local_weights.home` and return the path; nothing where it is there already.

    A file that is there and differs is never overwritten. Raises CrossFlowError, with what came kept for the next call,
    where the server cannot be reached or ends early; and, with what came removed, where its sha256 is another.
    """
    path = home() / weights.file
    if path.exists():
        checked_sha256(path, weights.sha256)
        return path
    if not weights.url:
        raise CrossFlowError(
            f"{weights.file} has no address of its own: take it from {weights.source}, put it at {path}."
        )
    partial = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(weights.url, partial, advance)
    except urllib.error.HTTPError as error:
        raise CrossFlowError(
            f"{weights.url} answers {error.code} {error.reason}; take the file from {weights.source}."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise CrossFlowError(
            f"Cannot fetch {weights.url} ({getattr(error, 'reason', error)}); "
            f"call again to go on, or put the file at {path}."
        ) from error
    except OSError as error:
        raise CrossFlowError(f"Cannot write {partial}: {error.strerror}; make room and call again to go on.") from error
    try:
        checked_sha256(partial, weights.sha256)
    except CrossFlowError:
        partial.unlink()
        raise
    partial.replace(path)
    return path


def _download(url: str, partial: Path, advance: Advance) -> None:
    """Write what ``url`` gives to ``partial``, going on after what is there if the server can."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # everything is there already
            return
        raise
    with answer, partial.open("ab") as file:
        if answer.status != http.client.PARTIAL_CONTENT:
            start = 0
            file.truncate(0)
        length = answer.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            start += len(chunk)
            advance(start, total)
    if total is not None and start < total:
        raise ConnectionError(f"the connection ended after {start} of {total} bytes")
