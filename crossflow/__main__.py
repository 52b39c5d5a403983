"""``python -m crossflow``."""

from crossflow.cli import app

app(prog_name="crossflow")
