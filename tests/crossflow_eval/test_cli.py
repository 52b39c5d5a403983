"""The command ``crossflow-eval``: results on stdout, one sentence and exit code 2 for what a user can mend."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow_eval.cli import app
from crossflow_eval.judges import weights

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real" / "coco_mini"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of six images of several kinds and sizes, with captions; it is the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = ["image,caption"]
    for number, suffix in enumerate(["png", "jpg", "webp", "png", "jpeg", "PNG"]):
        pixels = rng.integers(0, 256, size=(8 + number, 20 - number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"i{number}.{suffix}")
        rows.append(f"i{number},a picture of number {number}")
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    return tmp_path


FOLDER = ("t2i", "--model", "folder", "--ckpt", "images", "--captions", "captions.csv")


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one sentence that a command ends with."""
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output + repr(done.exception)
    assert done.stdout == ""
    *said, line = done.stderr.splitlines()
    assert all(" outputs of " in each for each in said), "only what is about to be measured"
    assert line.startswith("Error: ")
    assert line.endswith(".")
    return line


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("outputs/[!.]*")}


def test_a_folder_of_images_is_measured_and_reported(place):
    done = invoke(*FOLDER, "--out", "run", "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["n"] == 6
    assert record["values"]["width"]["mean"] == np.mean([20 - number for number in range(6)])
    assert record["settings"]["identity"]["formats"] == {"JPEG": 2, "PNG": 3, "WEBP": 1}
    page = Path(record["report"]).read_text()
    assert "a picture of number 3" in page
    assert "ViT-L-14.pt" in page and "--references" in page
    assert outputs(place / "run").keys() == {f"i{number}-0.png" for number in range(6)}


def test_a_person_gets_a_table_on_stdout_and_the_rest_on_stderr(place):
    done = invoke(*FOLDER)
    assert done.exit_code == 0, done.stderr
    assert "sharpness" in done.stdout
    assert "report.html" in done.stderr
    clip = [each for each in weights.TEXT_TO_IMAGE if "CLIP" in each.metric]
    assert clip and all(f"{each.file} (sha256 {each.sha256[:8]}" in done.stdout for each in clip)
    [run] = (place / "runs" / "folder").iterdir()
    assert run.name.startswith("folder-")


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared photographs are not beside this checkout")
def test_real_photographs_run_end_to_end(tmp_path, monkeypatch):
    """24 photographs of COCO, decoded as Pillow decodes them; the captions file describes 79."""
    monkeypatch.chdir(tmp_path)
    arguments = ("t2i", "--model", "folder", "--ckpt", REAL / "val2017", "--captions")
    done = invoke(*arguments, REAL / "captions_val2017.json", "--out", "run", "--json")
    assert done.exit_code == 0, done.stderr
    assert "24 of the 79 images" in done.stderr
    record = json.loads(done.stdout)
    assert record["n"] == 24
    photographs = [np.asarray(Image.open(path)) for path in sorted((REAL / "val2017").iterdir())]
    assert record["values"]["height"]["mean"] == pytest.approx(np.mean([each.shape[0] for each in photographs]))
    first = np.asarray(Image.open(tmp_path / "run" / "outputs" / "000000062554-0.png"))
    assert np.array_equal(first, photographs[0])


def test_score_report_and_compare_read_what_is_there(place):
    for out in ("one", "two"):
        assert invoke(*FOLDER, "--out", out).exit_code == 0
    before = (place / "one" / "n-6" / "result.json").read_bytes()
    assert json.loads(invoke("score", "one", "--json").stdout)["n"] == 6
    assert (place / "one" / "n-6" / "result.json").read_bytes() == before
    for format in ("md", "csv", "latex", "html"):
        done = invoke("report", "one", "--format", format)
        assert done.exit_code == 0, done.stderr
        assert "harpness" in done.stdout
        digest = json.loads(before)["data_sha256"][:12]
        assert "seed 0, examples" in done.stdout or format not in ("md", "latex"), "what the table alone does not say"
        assert digest in done.stdout or format == "csv"
        for _ in range(2):
            assert invoke("report", "one", "--format", format, "--out", f"made.{format}").exit_code == 0
        assert "holds no report: choose another name" in refused(
            "report", "one", "--format", format, "--out", "captions.csv"
        )
    (place / "empty").mkdir()
    done = invoke("report", *("one", "empty", "captions.csv"), "--format", "html", "--out", "page.html")
    assert (done.exit_code, done.stdout) == (0, "page.html\n")
    assert done.stderr == "empty is no run, and is left out.\ncaptions.csv is no run, and is left out.\n"
    assert "one/outputs/i3-0.png" in (place / "page.html").read_text(), "originals are linked from where the page lies"
    assert "holds no result.json" in refused("report", "empty")
    found = json.loads(invoke("compare", "one", "two", "--json").stdout)
    assert found["scores"]["sharpness"]["comparison"]["difference"] == 0
    assert found["scores"]["sharpness"]["comparison"]["n"] == 6
    assert "sharpness" in invoke("compare", "one", "two").stdout


def test_ctrl_c_says_what_is_kept_and_the_command_that_goes_on(place, monkeypatch):
    def score(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crossflow_eval.runs.run.score", score)
    monkeypatch.setattr(sys, "argv", ["/bin/crossflow-eval", "t2i", "--out", "a run"])
    done = invoke(*FOLDER, "--out", "a run")
    assert done.exit_code == 130
    said, stopped = done.stderr.splitlines()[0], done.stderr.splitlines()[-1]
    assert said.startswith("a run: 6 outputs of folder on the suite folder, by ")
    assert stopped == "Stopped. 6 of 6 outputs are kept in a run/outputs. Go on by: crossflow-eval t2i --out 'a run'"


def test_list_names_everything(place):
    known = json.loads(invoke("list", "--json").stdout)
    assert {"scenes-t2i", "scenes-t2i-heldout", "folder"} <= known["suites"].keys()
    assert "sha256 6726825d" in known["weights"]["FID"]
    assert "scenes-t2i" in invoke("list").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("t2i", "--suite", "scenes-ti2"), "Unknown suite 'scenes-ti2'. Did you mean 'scenes-t2i'? Available:"),
        (
            ("t2i", "--model", "foldr"),
            "Unknown model 'foldr'. Did you mean 'folder'? Available: crossflow, folder, d",
        ),
        (("t2i", "--model", "nowhere.at_all:build"), "no module 'nowhere'"),
        (("t2i", "--ckpt", "none.safetensors", "--device", "cpu"), "none.safetensors"),
        (("t2i", "--ckpt", "captions.csv", "--device", "cpu"), "captions.csv"),
        (("t2i", "--model", "folder", "--captions", "captions.csv"), "needs --ckpt, the folder"),
        (
            ("t2i", "--model", "folder", "--ckpt", "none", "--captions", "captions.csv"),
            "There is no file or folder none:",
        ),
        ((*FOLDER[:-1], "none.csv"), "There is no file or folder none.csv"),
        ((*FOLDER, "--steps", "3"), "does not use --steps"),
        ((*FOLDER, "--batch-size", "2"), "--model folder does not use --batch-size; leave it out"),
        (("t2i", "--batch-size", "0"), "--batch-size must be at least 1, got 0"),
        (("t2i", "--workers", "0"), "--workers must be at least 1, got 0"),
        ((*FOLDER, "--limit", "7"), "--limit 7 is not between 1 and the suite's 6 examples"),
        ((*FOLDER, "--suite", "scenes-t2i"), "--captions belongs to --suite folder"),
        (("t2i", "--suite", "folder", "--model", "folder", "--ckpt", "images"), "needs --captions FILE"),
        (("score", "images"), "images is not a run's folder: it holds no settings.json"),
        (("geneval", "--model", "folder", "--ckpt", "images"), "2212 of 2212 images are missing in images: 00000-0"),
        (("geneval", "--model", "folder"), "--model folder needs --ckpt"),
        (("report", "images"), "images holds no result.json"),
        (("report", "images", "--table", "tabel2"), "Unknown table 'tabel2'. Did you mean 'table2'?"),
        (("compare", "images", "images"), "images holds no result.json"),
    ],
)
def test_a_wrong_call_is_one_sentence(place, arguments, sentence):
    assert sentence in refused(*arguments)
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "compare NAME NAME",
        "report NAME",
        "check NAME",
        "score NAME",
        "t2i --captions captions.csv --model folder --ckpt images --out NAME",
        "t2i --captions captions.csv --model folder --ckpt NAME",
        "t2i --model diffusers:NAME",
        "depth --ckpt NAME --data images",
        "depth --suite nyuv2 --data NAME",
        "caption --ckpt NAME.json",
        "sr --ckpt NAME --data images",
        "prepare imagenet-sr NAME out",
    ],
)
def test_a_name_that_is_too_long_is_one_sentence(place, arguments):
    assert "File name too long" in refused(*arguments.replace("NAME", "n" * 300).split())


@pytest.mark.parametrize("task", ["t2i", "geneval", "caption", "depth", "sr"])
def test_a_rank_that_is_no_number_is_one_sentence_before_any_work(place, monkeypatch, task):
    monkeypatch.setenv("RANK", "x")
    assert "RANK is 'x', and must be a whole number" in refused(task, "--ckpt", "not-looked-at.safetensors")


def test_cuda_without_one_is_one_sentence(place, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "This machine has no device 'cuda': it has cpu" in refused("t2i", "--device", "cuda")


def test_a_bad_folder_is_one_sentence_with_the_count(place):
    image = (place / "images" / "i1.jpg").read_bytes()
    (place / "images" / "i1.jpg").unlink()
    assert "1 of 6 captions in captions.csv have no image in images: i1." in refused(*FOLDER)
    (place / "images" / "i1.jpg").write_bytes(image[:-40])
    assert "1 of 6 images in images cannot be read exactly: i1.jpg (truncated)" in refused(*FOLDER)
    (place / "images" / "i1.jpg").write_bytes(image)
    (place / "images" / "i1.png").write_bytes(image)
    assert "2 images in images share their name (i1.jpg, i1.png)" in refused(*FOLDER)
    (place / "images" / "i1.png").rename(place / "images" / "i9.png")
    assert "1 of 7 images in images have no caption in captions.csv: i9.png." in refused(*FOLDER)
    assert not (place / "runs").exists()


def test_an_output_folder_of_other_settings_is_left_as_it_is(place):
    assert invoke(*FOLDER, "--out", "run").exit_code == 0
    before = outputs(place / "run")
    assert "seed is 0 there and 1 now" in refused(*FOLDER, "--out", "run", "--seed", "1")
    assert outputs(place / "run") == before


def test_a_full_disk_is_one_sentence_and_the_work_is_kept(place):
    """The real error of a real device: the fourth output's temporary file leads to /dev/full."""
    assert invoke(*FOLDER, "--out", "whole").exit_code == 0
    (place / "run" / "outputs").mkdir(parents=True)
    (place / "run" / "outputs" / ".i3-0.png.0.tmp").symlink_to("/dev/full")
    assert "run/outputs/i3-0.png cannot be written (No space left on device)" in refused(*FOLDER, "--out", "run")
    assert outputs(place / "run").keys() == {f"i{number}-0.png" for number in range(3)}
    assert invoke(*FOLDER, "--out", "run").exit_code == 0
    assert outputs(place / "run") == outputs(place / "whole")
    for name in ("result.json", "per_example.jsonl", "settings.json"):
        assert (place / "run" / "n-6" / name).read_bytes() == (place / "whole" / "n-6" / name).read_bytes()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("made", [0, 5, 12])
def test_a_folder_that_cannot_be_written_is_one_sentence(place, monkeypatch, code, made):
    """The same with every way a write can fail, at the first file, in the middle and at the result."""
    replace, left = os.replace, [made]

    def failing(*names) -> None:
        if left[0] == 0:
            raise OSError(code, os.strerror(code))
        left[0] -= 1
        replace(*names)

    monkeypatch.setattr(os, "replace", failing)
    assert os.strerror(code) in refused(*FOLDER, "--out", "run")
    assert len(outputs(place / "run")) == max(0, min(6, made - 4))
    assert not [path for path in (place / "run").rglob(".*") if path.name.endswith(".tmp")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_sentence(place):
    (place / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refused(*FOLDER, "--out", "locked/run")


def test_nothing_heavy_is_imported_for_help():
    code = "import sys, crossflow_eval.cli as c\ntry: c.app(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'scipy', 'PIL', 'pandas', 'crossflow.model'} & set(sys.modules)\n"
    code += "assert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout
