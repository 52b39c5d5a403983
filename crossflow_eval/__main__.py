"""``python -m crossflow_eval``."""

from crossflow_eval.cli import app

app(prog_name="crossflow-eval")
