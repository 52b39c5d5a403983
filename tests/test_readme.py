"""What is written beside the code is true: the README's example runs, and commands, files and rooms named exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from crossflow.cli import app as crossflow
from crossflow.errors import CrossFlowError
from crossflow.recipes import CONFIGS
from crossflow_eval.ablate.ablation import ablation_names
from crossflow_eval.cli import app as crossflow_eval
from crossflow_eval.judges.java import find_java
from crossflow_eval.suites import suite_names
from crossflow_eval.tables import table_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
APPS = {"crossflow": get_command(crossflow), "crossflow-eval": get_command(crossflow_eval)}
SHELL = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
PRINTED = [line.split("#")[0].strip() for line in SHELL if line.startswith("crossflow")]
NAMED = sorted(
    {
        " ".join(found.split())
        for found in re.findall(r"`(crossflow(?:-eval)? [^`]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    }
)


def parts(line):
    """The command of a line, and the words that it is given."""
    program, *words = shlex.split(line)
    command = APPS[program]
    while commands := getattr(command, "commands", None):
        command = commands[words.pop(0)]
    return command, words


@pytest.mark.parametrize("line", PRINTED)
def test_every_command_printed_is_taken_as_it_stands(line):
    """It is parsed whole, required words, types and choices included, and not run."""
    command, words = parts(line)
    command.make_context(line, words)


@pytest.mark.parametrize("line", NAMED)
def test_every_command_named_exists_with_its_options(line):
    command, words = parts(line)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("line", [line for line in PRINTED + NAMED if " train " in line or "--suite " in line])
def test_every_recipe_and_suite_exists(line):
    words = shlex.split(line)
    if "train" in words:
        assert words[words.index("train") + 1] in CONFIGS
    if "--suite" in words:
        assert words[words.index("--suite") + 1] in {*suite_names(), *table_names(), *ablation_names()}


def test_the_commands_are_found():
    assert {"crossflow info", "crossflow-eval list"} <= set(PRINTED)
    assert {"crossflow-eval doctor", "crossflow train scenes-t2i"} <= set(NAMED)


def test_how_one_gets_the_programs_comes_before_the_first_command():
    first = min(README.index(line) for line in [*PRINTED, "crossflow-eval doctor"])
    assert README.index("pip install -e .") < first
    assert README.index(".venv/bin/activate") < first


def test_the_ten_lines_run(tmp_path):
    """As printed, in a program of their own; the picture has three columns of images of 32 pixels, threefold."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == (3 * (3 * 32 + 2 * 2), 3 * (4 * 32 + 3 * 2))


def has_java():
    try:
        return bool(find_java())
    except CrossFlowError:
        return False


def test_every_block_of_ones_own_data_runs_as_printed(tmp_path, monkeypatch):
    """Line by line in one folder; captions where there is Java."""
    monkeypatch.chdir(tmp_path)
    (section,) = re.findall(r"## Your own data\n(.*?)\n## ", README, re.DOTALL)
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 3
    for line in "".join(block for block in blocks if has_java() or "caption --" not in block).splitlines():
        if line.startswith("crossflow"):
            program, *words = shlex.split(line)
            done = CliRunner().invoke({"crossflow": crossflow, "crossflow-eval": crossflow_eval}[program], words)
            assert done.exit_code == 0, (line, done.output)
        else:
            subprocess.run(["bash", "-c", line], check=True)
    assert len(list((tmp_path / "runs").glob("own-*/*/*/report.html"))) == 3 + has_java()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/design.md"])
def test_every_module_named_exists(document):
    folders = ("crossflow", "crossflow_eval", "tests", "benchmarks")
    modules = {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / document).read_text(encoding="utf-8")))
    assert named
    assert not {name for name in named if not any(f"/{module}".endswith(f"/{name}") for module in modules)}


@pytest.mark.parametrize("document", ["README.md", "docs/design.md"])
@pytest.mark.parametrize("package", ["crossflow", "crossflow_eval"])
def test_every_room_has_its_line(document, package):
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    assert not {room for room in rooms if not any(f"`{room}/`" in row for row in rows)}
