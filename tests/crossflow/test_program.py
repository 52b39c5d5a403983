"""What every command does: it prints on any terminal, and says in one sentence what is wrong around it."""

import errno
import os
import subprocess
import sys

import pytest
import torch
import typer

import crossflow
from crossflow.errors import one_sentence

RUN = "from {}.cli import app; app()"


def called(program: str, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    place = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | environment
    return subprocess.run(
        [sys.executable, "-c", RUN.format(program), *words], capture_output=True, env=place, check=False
    )


@pytest.mark.parametrize("program", ["crossflow", "crossflow_eval"])
@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_a_place_that_is_no_number_is_one_sentence_of_every_command(program, variable):
    done = called(program, {"crossflow": "info", "crossflow_eval": "list"}[program], **{variable: "x"})
    assert (done.returncode, done.stdout) == (2, b"")
    assert (
        done.stderr == f"Error: {variable} is 'x', and must be a whole number; unset it outside of torchrun.\n".encode()
    )


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_what_a_terminal_lacks_is_printed_as_an_escape(tmp_path, encoding):
    name = os.path.join(os.fsencode(tmp_path), "n\u2192".encode() + b"\x8e")
    done = called("crossflow", "info", os.fsdecode(name), PYTHONIOENCODING=encoding)
    arrow = "\u2192" if encoding == "utf-8" else "\\u2192"
    assert done.returncode == 2
    assert f"n{arrow}\\udc8e".encode(encoding) in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
            "(CUDA out of memory. Tried",
        ),
        (MemoryError(), "Memory is at its end: free some"),
        (OSError(errno.ENOSPC, "No space left on device"), "Error: No space left on device; give"),
    ],
)
def test_what_the_machine_has_no_more_of_is_one_sentence(error, said, capsys):
    with pytest.raises(typer.Exit) as ended, one_sentence():
        raise error
    assert ended.value.exit_code == 2
    assert said in capsys.readouterr().err


def test_a_tensor_that_no_memory_holds_is_one_sentence(capsys):
    with pytest.raises(typer.Exit) as ended, one_sentence():
        torch.empty(10**15)
    assert ended.value.exit_code == 2
    assert "can't allocate memory" in capsys.readouterr().err


def test_a_reader_that_went_away_hears_nothing(capsys):
    """Typer ends such a program without a word, as ``head`` expects."""
    with pytest.raises(BrokenPipeError), one_sentence():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert capsys.readouterr().err == ""


def test_public_names_are_there_before_they_are_imported():
    """A notebook completes them, and each is what it is called."""
    assert set(crossflow.__all__) <= set(dir(crossflow))
    assert [getattr(crossflow, name).__name__ for name in crossflow.__all__] == crossflow.__all__


def test_warnings_of_libraries_are_not_shown_and_ours_are_sentences():
    code = (
        "import logging, typer, warnings\n"
        "from crossflow.errors import Notice\n"
        "from crossflow.files.program import Program\n"
        "app = typer.Typer(cls=Program)\n"
        "@app.callback()\n"
        "def main(): pass\n"
        "@app.command()\n"
        "def speak():\n"
        "    warnings.warn('raw'); logging.warning('raw'); logging.getLogger('x').error('raw')\n"
        "    warnings.warn('Mind the step.', Notice)\n"
        "app(['speak'])\n"
    )
    place = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=place, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Warning: Mind the step.\n")
