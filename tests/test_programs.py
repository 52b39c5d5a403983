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
