"""Folders as they may be, of every task on one's own data: each gives a right number, or one sentence and exit code 2.

Empty ones, a single file, files of several sizes, one folder as both sides, and files that vanish or change meanwhile.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow_eval.cli import app
from crossflow_eval.judges import efficientnet
from crossflow_eval.judges.local_weights import HOME
from crossflow_eval.runs import run as runs

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def network() -> efficientnet.EfficientNetFeatures:
    return efficientnet.EfficientNetFeatures(device="cpu")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: efficientnet.EfficientNetFeatures) -> Path:
    """An empty current folder; the network that needs no download is loaded once."""
    monkeypatch.setattr(efficientnet, "EfficientNetFeatures", lambda device: network)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME, str(tmp_path / "home"))
    return tmp_path


def sizes(mixed: bool) -> list[tuple[str, int]]:
    return [(name, 16 + 5 * number * mixed) for number, name in enumerate(NAMES)]


def images(side: str, names: tuple[str, ...] = NAMES, *, mixed: bool = False) -> None:
    Path(side).mkdir()
    generator = np.random.default_rng(len(side))
    for name, height in sizes(mixed):
        if name in names:
            pixels = generator.integers(0, 256, (height, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(side) / f"{name}.png")


def depths(side: str, names: tuple[str, ...] = NAMES, *, mixed: bool = False) -> None:
    Path(side).mkdir()
    generator = np.random.default_rng(len(side))
    for name, height in sizes(mixed):
        if name in names:
            np.save(Path(side) / f"{name}.npy", generator.uniform(1, 3, (height, 5)).astype(np.float32))


def captions(side: str, names: tuple[str, ...] = NAMES, *, mixed: bool = False) -> None:
    lines = [{"id": name, "caption": f"a dog of {name} runs on the grass" + " again" * mixed} for name in names]
    Path(side).with_suffix(".jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


Make = Callable[..., None]
MAKE: dict[str, Make] = {"t2i": images, "sr": images, "depth": depths, "caption": captions}
PERFECT = {"t2i": ("fd_efficientnet", 0), "sr": ("ssim_rgb", 1), "depth": ("abs_rel", 0), "caption": ("bleu_4", 1)}
NEEDS_JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")
TASKS = ("t2i", "sr", "depth", pytest.param("caption", marks=NEEDS_JAVA))


def arguments(task: str, ours: str = "ours", real: str = "real") -> list[str]:
    suffix = ".jsonl" if task == "caption" else ""
    return [task, "--model", "folder", "--ckpt", f"{ours}{suffix}", "--references", f"{real}{suffix}", "--json"]


def measured(*given: str) -> dict[str, float]:
    done = CliRunner().invoke(app, arguments(*given))
    assert done.exit_code == 0, done.output
    return {name: value["mean"] for name, value in json.loads(done.stdout)["values"].items()}


def refused(*given: str) -> str:
    done = CliRunner().invoke(app, arguments(*given))
    assert done.exit_code == 2 and done.stdout == "", done.output
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("Error: ") and sentence.endswith(".") and done.stderr.count("Error") == 1
    return sentence


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("empty", ["ours", "real"])
def test_an_empty_side_is_one_sentence_before_any_work(task: str, empty: str, place: Path) -> None:
    for side in ("ours", "real"):
        MAKE[task](side, () if side == empty else NAMES)
    sentence = refused(task)
    assert empty in sentence and "hold" in sentence and " no " in sentence
    assert not (place / "runs").exists()


@pytest.mark.parametrize("task", TASKS)
def test_files_of_several_sizes_and_one_folder_as_both_sides_fit_perfectly(task: str) -> None:
    MAKE[task]("ours", mixed=True)
    name, best = PERFECT[task]
    assert measured(task, "ours", "ours")[name] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(("task", "said"), [("sr", "resize the output"), ("depth", "resize predictions")])
def test_a_pair_of_two_sizes_is_named_and_the_outputs_are_kept(task: str, said: str, place: Path) -> None:
    MAKE[task]("ours")
    MAKE[task]("real", mixed=True)
    sentence = refused(task)
    assert "Error: b: " in sentence and said in sentence
    assert len(list((place / "runs").rglob("outputs/*"))) == len(NAMES)


@pytest.mark.parametrize("task", ["sr", "depth", pytest.param("caption", marks=NEEDS_JAVA)])
def test_a_single_pair_has_the_numbers_that_a_pair_has(task: str) -> None:
    for side in ("ours", "real"):
        MAKE[task](side, ("a",))
    found = measured(task)
    assert PERFECT[task][0] in found and not {"fd_efficientnet", "kd_efficientnet"} & found.keys()


@pytest.mark.parametrize(("single", "said"), [("ours", "two outputs"), ("real", "two images a side")])
def test_between_sets_of_images_one_is_too_few(single: str, said: str) -> None:
    for side in ("ours", "real"):
        images(side, ("a",) if side == single else NAMES)
    assert said in refused("t2i")


def spoil(path: Path, other: Path | None) -> None:
    """Take a file away, or put another in its place."""
    if other is None:
        path.unlink()
    else:
        path.write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("task", "side", "stage", "changed"),
    [
        ("t2i", "ours", "generate", True),
        ("t2i", "real", "score", False),
        ("sr", "real", "score", True),
        ("depth", "ours", "generate", False),
        ("depth", "ours", "generate", True),
        ("depth", "real", "score", False),
    ],
)
def test_a_file_that_is_another_while_it_is_read_gives_no_number(
    task: str, side: str, stage: str, changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no longer what the run's digest says; once it is back, the run goes on with the right one."""
    for each in ("ours", "real"):
        MAKE[task](each)
    first, second = sorted(Path(side).iterdir())[:2]
    content, whole = second.read_bytes(), getattr(runs, stage)

    def meanwhile(*given: object, **named: object) -> object:
        spoil(second, first if changed else None)
        return whole(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(runs, stage, meanwhile)
        sentence = refused(task)
    assert "changed while" in sentence if changed else second.name in sentence
    second.write_bytes(content)
    again = measured(task)
    shutil.rmtree("runs")
    assert measured(task) == again
