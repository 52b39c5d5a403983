"""What is written beside the code is true: its blocks run as printed, and commands, files and rooms named exist."""

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
from crossflow.recipes.anytoany import IN_ORDER
from crossflow_eval.ablate.ablation import ablation_names
from crossflow_eval.cli import app as crossflow_eval
from crossflow_eval.judges.java import find_java
from crossflow_eval.suites import suite_names
from crossflow_eval.tables import table_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
APPS = {"crossflow": get_command(crossflow), "crossflow-eval": get_command(crossflow_eval)}
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/design.md")
BLOCK = re.compile(r"^```(bash|python)(?: (needs [a-z ]+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)
"""A block of commands or code: it runs as printed in a fresh folder, unless it says what it needs besides."""
SHELL = [line for language, _, block in BLOCK.findall(README) if language == "bash" for line in block.splitlines()]
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
        assert words[words.index("train") + 1] in {*CONFIGS, *IN_ORDER}
    if "--suite" in words:
        assert words[words.index("--suite") + 1] in {*suite_names(), *table_names(), *ablation_names()}


def test_the_commands_are_found():
    assert {"crossflow info", "crossflow-eval list"} <= set(PRINTED)
    assert {"crossflow-eval doctor", "crossflow train scenes-t2i"} <= set(NAMED)


def test_how_one_gets_the_programs_comes_before_the_first_command():
    first = min(README.index(line) for line in [*PRINTED, "crossflow-eval doctor"])
    assert README.index("pip install -e .") < first
    assert README.index(".venv/bin/activate") < first


def there(needs: str) -> bool:
    """Whether what a block needs is here; weights, data, a GPU and minutes are not, in a test."""
    if needs != "needs java":
        return not needs
    try:
        return bool(find_java())
    except CrossFlowError:
        return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_runs_as_printed_in_a_fresh_folder(document, tmp_path, monkeypatch):
    """The blocks of a document in their order, line by line; those that need more than a test has say so."""
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / document).read_text(encoding="utf-8"))
    for language, needs, block in blocks:
        if there(needs):
            run_python(block) if language == "python" else run_shell(block)
    if document == "README.md":
        assert len(list((tmp_path / "runs").glob("own-*/*/*/report.html"))) == 2 + there("needs java")
        assert "all agree" in (tmp_path / "verified.html").read_text()
        with Image.open(tmp_path / "grid.png") as image:  # three columns of images of 32 pixels, threefold
            assert image.size == (3 * (3 * 32 + 2 * 2), 3 * (4 * 32 + 3 * 2))


def run_python(block):
    """In a program of its own."""
    subprocess.run([sys.executable, "-c", block], check=True)


def run_shell(block):
    """Our programs in this process, which has loaded what they need; everything else by bash."""
    for line in block.splitlines():
        if line.startswith("crossflow"):
            program, *words = shlex.split(line, comments=True)
            done = CliRunner().invoke({"crossflow": crossflow, "crossflow-eval": crossflow_eval}[program], words)
            assert done.exit_code == 0, (line, done.output)
        else:
            subprocess.run(["bash", "-c", line], check=True)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_of_commands_is_known_to_run_or_says_what_it_needs(document):
    """No block hides in a form that is not looked for, and only few things are needed."""
    text = (ROOT / document).read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```(?:bash|python|sh|shell|console|py)", text, re.MULTILINE)) == len(BLOCK.findall(text))
    known = {"minutes", "data", "weights", "gpu", "java", "needs", "and"}
    assert {word for _, needs, _ in BLOCK.findall(text) for word in needs.split()} <= known


@pytest.mark.parametrize("document", DOCUMENTS)
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
