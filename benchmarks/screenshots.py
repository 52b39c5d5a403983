"""The README's pictures of pages and terminal: ``python -m benchmarks.screenshots``, after ``make demo``.

Looks at runs/demo/report.html, and at ``crossflow-eval view`` of a folder in which a run goes on, with a headless
Chromium, and writes results/screenshots/*.webp, each of less than LARGEST bytes.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from benchmarks.browser import Browser, browser
from crossflow.errors import CrossFlowError, one_sentence
from crossflow.files.writing import write_whole

LARGEST = 200_000
"""Bytes of a picture, so that the README opens at once."""
SCREEN, PHONE = (1280, 860), (390, 844)


def main(
    demo: Annotated[Path, typer.Option(help="What make demo leaves.")] = Path("runs/demo"),
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("results/screenshots"),
) -> None:
    """Make every picture."""
    with one_sentence():
        page = demo / "report.html"
        if not page.is_file():
            raise CrossFlowError(f"There is no {page}: run make demo first.")
        with browser() as session:
            for name, tab, dark in (("scores", "scores", False), ("outputs", "run-0", True)):
                write(out / f"{name}.webp", [seen(session, page, tab, SCREEN, dark)])
            phone = [seen(session, page, tab, PHONE, dark) for tab, dark in (("scores", False), ("run-0", True))]
            write(out / "phone.webp", phone)
            with viewed(demo) as address:
                write(out / "view.webp", [seen(session, f"{address}show?run=t2i", "run-0", SCREEN, False)])
        for path in sorted(out.glob("*.webp")):
            typer.echo(f"{path}: {path.stat().st_size:,} bytes")


def seen(session: Browser, page: Path | str, tab: str, screen: tuple[int, int], dark: bool) -> Image.Image:
    """What is on a screen of a tab of a page."""
    session.screen(*screen, dark=dark)
    session.open(page, tab)
    return Image.open(io.BytesIO(session.picture())).convert("RGB")


@contextmanager
def viewed(demo: Path) -> Iterator[str]:
    """The address of ``crossflow-eval view`` of a run that is at two thirds of its outputs."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "t2i"
        (run / "outputs").mkdir(parents=True)
        for name in ("settings.json", "examples.jsonl"):
            shutil.copy(demo / "t2i" / name, run)
        outputs = sorted((demo / "t2i" / "outputs").iterdir())
        for output in outputs[: 2 * len(outputs) // 3]:
            shutil.copy(output, run / "outputs")
        command = [sys.executable, "-m", "crossflow_eval", "view", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = server.stdout.readline().strip()
                if not address:
                    raise CrossFlowError("crossflow-eval view did not start.")
                yield address
            finally:
                server.terminate()


def write(path: Path, images: list[Image.Image]) -> None:
    """Write images side by side as one picture, as good as LARGEST allows."""
    whole = Image.new("RGB", (sum(each.width for each in images) + 12 * (len(images) - 1), images[0].height), "white")
    left = 0
    for each in images:
        whole.paste(each, (left, 0))
        left += each.width + 12
    for quality in (90, 80, 70, 55):
        stream = io.BytesIO()
        whole.save(stream, "WEBP", quality=quality, method=6)
        if stream.tell() < LARGEST:
            return write_whole(path, stream.getvalue())
    raise CrossFlowError(f"{path} is too large at any quality: take a smaller screen.")


if __name__ == "__main__":
    typer.run(main)
