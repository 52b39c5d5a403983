"""Train CrossFlow models, sample from them, inspect their checkpoints. Results on stdout, all else on stderr."""

# Nothing heavy is imported here, so that ``--help`` is fast: each command imports what it needs.
from __future__ import annotations

import typer

from crossflow.cli import cache, checkpoints, from_image, latent_space, sample, train
from crossflow.files.program import Program

app = typer.Typer(cls=Program, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

for command in (train.train, train.train_reader, cache.cache, sample.sample, from_image.from_image):
    app.command()(command)
for command in (latent_space.interpolate, latent_space.arithmetic):
    app.command()(command)
for command in (checkpoints.convert, checkpoints.export, checkpoints.info):
    app.command()(command)
