"""Both programs: their version, their help with an example a command, and ``python -m``."""

import shlex
import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import crossflow
import crossflow.cli
import crossflow_eval.cli

PROGRAMS = {"crossflow": crossflow.cli, "crossflow-eval": crossflow_eval.cli}
EXAMPLES = [
    (program, example) for program, cli in PROGRAMS.items() for group in cli.COMMANDS.values() for _, example in group
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_version_and_short_help(program):
    run = CliRunner().invoke
    assert run(PROGRAMS[program].app, ["--version"]).output == f"{program} {crossflow.__version__}\n"
    assert "--install-completion" in run(PROGRAMS[program].app, ["-h"]).output


@pytest.mark.parametrize(("program", "example"), EXAMPLES)
def test_the_example_of_a_commands_help_is_a_call_of_it(program, example):
    called, name, *words = shlex.split(example)
    command = get_command(PROGRAMS[program].app).commands[name]
    assert called == program and command.epilog == f"Example: {example}"
    command.make_context(name, words)


@pytest.mark.parametrize("package", ["crossflow", "crossflow_eval"])
def test_python_m(package):
    done = subprocess.run([sys.executable, "-m", package, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{package.replace('_', '-')} {crossflow.__version__}\n"


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("crossflow", "sample --ckpt none --prompt x --out o"), ("crossflow", "sample --prompts none --out o"),
        ("crossflow", "from-image none --out o"), ("crossflow", "train scenes-t2i --init none --out o"),
        ("crossflow", "train t2i-256px-clip-dimr --data none --out o"), ("crossflow", "info none"),
        ("crossflow", "cache t2i-256px-clip-dimr --images none --out o"), ("crossflow", "train-reader none --out o"),
        ("crossflow", "generate --ckpt none --from text=x --to image --out o"),
        ("crossflow", "generate --ckpt . --from audio=none --to image --out o"),
        ("crossflow-eval", "t2i --ckpt none"), ("crossflow-eval", "depth --references none"),
        ("crossflow-eval", "fid none none"), ("crossflow-eval", "stats none o.npz"),
        ("crossflow-eval", "compare none none"), ("crossflow-eval", "score none"), ("crossflow-eval", "report none"),
        ("crossflow-eval", "ablate --suite none.toml"), ("crossflow-eval", "prepare imagenet-sr none o"),
        ("crossflow-eval", "view none"), ("crossflow-eval", "doctor --data none"),
    ],
)  # fmt: skip
def test_a_missing_file_is_said_before_anything_heavy_is_loaded(package, words, tmp_path, monkeypatch):
    """In this process, where torch may be loaded already: so what is asked for is that nobody asks for it."""
    monkeypatch.chdir(tmp_path)
    heavy = {"torch", "scipy", "diffusers"}
    for name in heavy | {name for name in sys.modules if name.split(".")[0] in heavy}:
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(PROGRAMS[package].app, words.split())
    assert done.exit_code == 2 and done.stderr.startswith("Error: ") and "none" in done.stderr, done
    assert not list(tmp_path.iterdir())
