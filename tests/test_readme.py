"""The README's promises: its example runs, and every command and option that it shows exists."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command

from crossflow.cli import app as crossflow
from crossflow_eval.cli import app as crossflow_eval

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("crossflow")
]
APPS = {"crossflow": get_command(crossflow), "crossflow-eval": get_command(crossflow_eval)}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_exists_with_its_options(line):
    program, name, *words = shlex.split(line)
    command = vars(APPS[program])["commands"][name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_the_readme_shows_commands():
    assert len(COMMANDS) > 5


def test_the_ten_lines_run(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    with Image.open("grid.png") as image:
        assert image.size[0] > 96
