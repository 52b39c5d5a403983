"""Measure models: run a suite, score again, report, compare. Results on stdout, everything else on stderr."""

# Nothing heavy is imported here: ``--help`` answers at once, and each command imports what it needs.
from __future__ import annotations

import logging

import typer

from crossflow.files.program import Commands, OneLine, new_app
from crossflow_eval.cli import ablate, fid, measure, setup, show

EXAMPLES = {
    "t2i": "crossflow-eval t2i --ckpt runs/t2i/model.safetensors",
    "caption": "crossflow-eval caption --limit 250",
    "depth": "crossflow-eval depth --suite nyuv2 --data NYU --ckpt FOLDER",
    "sr": "crossflow-eval sr --ckpt FOLDER --data IMAGENET_SR",
    "t2a": "crossflow-eval t2a --ckpt FOLDER --data AUDIOCAPS",
    "t2v": "crossflow-eval t2v --ckpt FOLDER --data MSRVTT",
    "geneval": "crossflow-eval geneval --ckpt t2i_256px_clip_dimr.pth",
    "arithmetic": "crossflow-eval arithmetic --limit 100",
    "compression": "crossflow-eval compression --ckpt runs/t2i/model.safetensors",
    "any": "crossflow-eval any --ckpt runs/codi/model.safetensors --suite scenes-any-joint --limit 1000",
}
"""How each command that measures is called."""
COMMANDS: Commands = {
    "Measure": [
        *((command, EXAMPLES[command.__name__]) for command in measure.commands()),
        (fid.fid, "crossflow-eval fid FOLDER_A FOLDER_B --protocol efficientnet-lite0"),
        (measure.score, "crossflow-eval score runs/demo/t2i"),
        (ablate.ablate, "crossflow-eval ablate --suite table3 --scale smoke"),
    ],
    "Show": [
        (show.report, "crossflow-eval report runs/demo/* --format html --out runs/demo/report.html"),
        (show.view, "crossflow-eval view runs"),
        (show.compare, "crossflow-eval compare RUN_A RUN_B"),
        (show.check, "crossflow-eval check runs/demo/t2i"),
        (show.verify, "crossflow-eval verify runs/demo/t2i --out verified.html"),
        (show.list_all, "crossflow-eval list"),
    ],
    "Prepare": [
        (setup.stats, "crossflow-eval stats FOLDER reference.npz --protocol clean"),
        (setup.doctor, "crossflow-eval doctor --data COCO"),
    ],
}


class _ToStderr(logging.Handler):
    """Says what is logged on stderr as it is at that moment, which may be above a bar of progress."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        typer.echo(self.format(record), err=True)


def _speak() -> None:
    """What the package logs is said on stderr."""
    said = _ToStderr()
    said.setFormatter(OneLine())
    logger = logging.getLogger("crossflow_eval")
    logger.handlers = [said]
    logger.setLevel(logging.INFO)


app = new_app("crossflow-eval", __doc__, COMMANDS, _speak, fid.PUBLISHED)
app.add_typer(setup.prepare, name="prepare", rich_help_panel="Prepare")
app.add_typer(setup.weights, name="weights", rich_help_panel="Prepare")
