"""Everything whose number needs a GPU, in one call: ``python -m benchmarks.gpu --minutes 4``.

Writes results/benchmarks/gpu.json and gpu.md after every row, so that a cut at any minute leaves what was measured. The
next call begins with what is not there yet, and no call begins a part that would not end in its minutes. With
``--device cpu`` the same parts run at small sizes, as a trial, into runs/gpu.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

import torch

from benchmarks import gpu_parts
from benchmarks.gpu_parts import Cell, Row
from benchmarks.plain import machine
from crossflow.errors import CrossFlowError
from crossflow.files.devices import usable_device
from crossflow.files.plain_json import read_json
from crossflow.files.writing import write_whole

COMMAND = "python -m benchmarks.gpu"


class Part(NamedTuple):
    """What is measured, and about how many seconds a GPU needs for it; ``compiles`` is left out on a CPU."""

    title: str
    rows: Callable[[torch.device], Iterator[Row]]
    seconds: int
    compiles: bool = False


PARTS: Mapping[str, Part] = {
    "check": Part("CUDA works", gpu_parts.check, 10),
    "sampling": Part("Sampling DiMR-256, 50 steps with guidance", gpu_parts.sample, 40),
    "training-1b": Part("A training step, 0.95 B", partial(gpu_parts.step, name=gpu_parts.LARGE, pairs=24), 40),
    "training-70m": Part(
        "A training step, 70 M, ours with cached image features",
        partial(gpu_parts.step, name=gpu_parts.SMALL, pairs=128, pixels=True),
        40,
    ),
    "fid": Part("Inception features of 2,000 PNG files", gpu_parts.fid, 30),
    "equality": Part("The GPU against the CPU, TF32 off", gpu_parts.equality, 20),
    "nccl": Part("NCCL with one process", gpu_parts.nccl, 10),
    "resume": Part("Training resumed on the GPU", gpu_parts.resume, 15),
    "scenes": Part("Shipped recipes trained", gpu_parts.scenes, 50),
    "sampling-compiled": Part(
        "Sampling DiMR-256, blocks compiled", partial(gpu_parts.sample, compiled=True), 110, compiles=True
    ),
    "training-1b-compiled": Part(
        "A training step, 0.95 B, blocks compiled",
        partial(gpu_parts.step, name=gpu_parts.LARGE, pairs=24, compiled=True),
        150,
        compiles=True,
    ),
}
"""By name, in the order of their value."""


class Goal(NamedTuple):
    """The least value of a column, among our rows of some parts, that is wanted of a H200."""

    what: str
    least: float
    column: str
    parts: tuple[str, ...]
    row: str


_SAMPLING, _TRAINING = ("sampling", "sampling-compiled"), ("training-1b", "training-1b-compiled")
GOALS = (
    Goal("sampling, times the official sampler", 1.6, "times faster", _SAMPLING, "ours"),
    Goal("sampling, share of the bfloat16 peak", 0.55, "share of the peak", _SAMPLING, "ours"),
    Goal("training 0.95 B, times the official step", 1.8, "times faster", _TRAINING, "ours"),
    Goal("training 0.95 B, share of the bfloat16 peak", 0.5, "share of the peak", _TRAINING, "ours"),
    Goal("training 70 M with cached features, times the official step", 5, "times faster", ("training-70m",), "ours"),
    Goal("FID from PNG files in float32, times clean-fid's way", 4, "times faster", ("fid",), "ours, float32"),
    Goal("scenes-t2i, times two cores", 10, "times two cores", ("scenes",), "scenes-t2i"),
    Goal("scenes-depth, times two cores", 10, "times two cores", ("scenes",), "scenes-depth"),
)


class Record:
    """What was measured on one machine, kept in ``gpu.json`` and shown in ``gpu.md``."""

    def __init__(self, folder: Path, where: str) -> None:
        self.path = folder / "gpu.json"
        found: Any = read_json(self.path.read_bytes(), str(self.path)) if self.path.exists() else {}
        if found and not (isinstance(found, dict) and {"machine", "parts"} <= found.keys()):
            raise CrossFlowError(f"{self.path} is no record of this benchmark: choose another --out.")
        if found and found["machine"] != where:
            raise CrossFlowError(f"{self.path} is of another machine, {found['machine']}: choose another --out.")
        self.where = where
        self.parts: dict[str, dict[str, Any]] = dict(found["parts"]) if found else {}

    def whole(self, name: str) -> bool:
        """Whether the part was measured to its end."""
        return self.parts.get(name, {}).get("state") == "whole"

    def keep(self, name: str, rows: Sequence[Row], state: str, seconds: float) -> None:
        """Write the rows of a part as they are now; ``state`` is whole, or what stopped it.

        A part that is whole stays as it is until it is whole again.
        """
        if self.whole(name) and state != "whole":
            return
        told = [{column: finite(value) for column, value in row.items()} for row in rows]
        self.parts[name] = {"state": state, "seconds": round(seconds, 1), "rows": told}
        plain = {"machine": self.where, "parts": {each: self.parts[each] for each in PARTS if each in self.parts}}
        write_whole(self.path, (json.dumps(plain, indent=1) + "\n").encode())
        write_whole(self.path.with_suffix(".md"), page(self.where, self.parts).encode())


class Cut(BaseException):
    """The minutes are over."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise Cut in the block when the seconds are over."""

    def cut(number: int, frame: FrameType | None) -> None:
        raise Cut

    before = signal.signal(signal.SIGALRM, cut)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def measure(names: Sequence[str], device: torch.device, record: Record, seconds: float) -> list[str]:
    """Measure the parts that fit into the seconds, each kept as it goes; returns those that are not whole."""
    end = monotonic() + seconds
    for name in names:
        part, rows, start = PARTS[name], list[Row](), monotonic()
        if end - start < (part.seconds if device.type == "cuda" else 1):
            continue
        state = "whole"
        try:
            with at_most(end - start):
                for row in part.rows(device):
                    rows.append(row)
                    record.keep(name, rows, "cut", monotonic() - start)
        except Cut:
            state = "cut"
        except Exception as error:  # whatever stops a part is written down, and the others are measured
            traceback.print_exception(error)
            state = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        record.keep(name, rows, state, monotonic() - start)
        gc.collect()
        torch.cuda.empty_cache()
        print(f"{name}: {state}, {monotonic() - start:.0f} s", file=sys.stderr)
    return [name for name in names if not record.whole(name)]


def page(where: str, parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The Markdown page: the goals beside what was measured, then a table a part."""
    goals: list[Row] = [
        {"goal on a H200": goal.what, "at least": goal.least, "measured": reached(goal, parts)} for goal in GOALS
    ]
    lines = [
        "# On a GPU",
        "",
        f"`{COMMAND} --minutes 4`; {where}.",
        "",
        *table(goals),
    ]
    for name, part in PARTS.items():
        if name not in parts:
            continue
        found = parts[name]
        state = "" if found["state"] == "whole" else f" ({found['state']})"
        lines += ["", f"## {part.title}{state}", "", f"Part `{name}`, {found['seconds']:.0f} s.", ""]
        lines += table(found["rows"])
    return "\n".join(lines) + "\n"


def reached(goal: Goal, parts: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The best value that was measured; None where nothing was."""
    rows = [row for name in goal.parts for row in parts.get(name, {}).get("rows", ())]
    ours = [row.get(goal.column) for row in rows if str(next(iter(row.values()))).startswith(goal.row)]
    return max((value for value in ours if isinstance(value, float)), default=None)


def table(rows: Sequence[Row]) -> list[str]:
    """A pipe table of rows that share their columns."""
    if not rows:
        return ["Nothing was measured."]
    lines = [list(rows[0]), ["---", *["---:"] * (len(rows[0]) - 1)]]
    lines += [[cell(value) for value in row.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def finite(value: Cell) -> Cell:
    """The value, or the name of one that JSON has no number for."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def cell(value: Cell) -> str:
    """Four digits of a number; a dash for what was not measured."""
    if value is None or isinstance(value, str):
        return value or "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def main() -> None:
    """Measure what is not there yet; ends with 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="measure these, again where they are there")
    parser.add_argument("--out", type=Path, help="results/benchmarks on a GPU, else runs/gpu")
    args = parser.parse_args()
    try:
        device = torch.device(usable_device(args.device))
        on_gpu = device.type == "cuda"
        folder: Path = args.out or Path("results/benchmarks" if on_gpu else "runs/gpu")
        where = machine(device) if on_gpu else f"a trial on a CPU at small sizes; Python {platform.python_version()}"
        record = Record(folder, where)
        wanted = [name for name, part in PARTS.items() if (on_gpu or not part.compiles) and not record.whole(name)]
        left = measure(args.parts or wanted, device, record, 60 * args.minutes)
    except CrossFlowError as error:
        sys.exit(f"Error: {error}")
    print(folder / "gpu.md")
    if left:
        print(f"Left for the next call: {', '.join(left)}", file=sys.stderr)
    sys.exit(any(record.parts.get(name, {}).get("state", "").startswith("failed") for name in left))


if __name__ == "__main__":
    main()
