"""What the project promises as a whole: quick help, import directions, few hard dependencies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Outside the repository, so that only what is installed can be imported."""
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("program", ["crossflow", "crossflow-eval"])
def test_help_takes_less_than_a_second_of_cpu(program: str) -> None:
    """The best of three, since a first run may compile; CPU time, since other tests run beside it."""
    seconds = []
    for _ in range(3):
        before = os.times()
        done = run(BIN / program, "--help")
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert "Usage" in done.stdout
    assert 0.01 < min(seconds) < 1


@pytest.mark.parametrize("package", ["crossflow", "crossflow_eval"])
def test_help_imports_no_torch(package: str) -> None:
    run(
        sys.executable,
        "-c",
        f"""
import sys
from typer.testing import CliRunner
from {package}.cli import app
shown = CliRunner().invoke(app, ["--help"])
assert shown.exit_code == 0, shown.output
heavy = {{"torch", "transformers", "diffusers", "scipy", "pandas", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
""",
    )


def test_reports_import_no_torch() -> None:
    run(sys.executable, "-c", "import sys, crossflow_eval.report; assert 'torch' not in sys.modules")


def test_all_shipped_weights_together_are_at_most_40_mb() -> None:
    sizes = [path.stat().st_size for path in (ROOT / "crossflow" / "weights").glob("*.safetensors")]
    assert len(sizes) > 4
    assert sum(sizes) <= 40e6


def test_import_directions_hold() -> None:
    done = subprocess.run(
        [BIN / "lint-imports", "--no-logo", "--no-cache"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_crossflow_imports_without_the_packages_that_only_measure() -> None:
    """Every module of the package, with those packages hidden from every finder, as if not installed."""
    run(
        sys.executable,
        "-c",
        """
import importlib, pkgutil, sys

class Hiding:
    names = {"cleanfid", "open_clip", "diffusers", "pycocoevalcap", "torchvision", "torchmetrics", "pandas"}
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in self.names else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
for name in Hiding.names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(name + " is not hidden")
import crossflow
found = [module.name for module in pkgutil.walk_packages(crossflow.__path__, "crossflow.")]
assert "crossflow.flow.solver" in found, found
for name in found:
    if not name.endswith("__main__"):
        importlib.import_module(name)
""",
    )
