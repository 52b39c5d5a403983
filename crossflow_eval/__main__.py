"""``python -m crossflow_eval``."""

from crossflow_eval.cli import app

if __name__ == "__main__":
    app(prog_name="crossflow-eval")
