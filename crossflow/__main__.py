"""``python -m crossflow``."""

from crossflow.cli import app

if __name__ == "__main__":
    app(prog_name="crossflow")
