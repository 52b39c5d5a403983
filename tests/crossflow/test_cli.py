"""The command ``crossflow``: results on stdout, one sentence and exit code 2 for what a user can mend."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from crossflow.cli import app
from crossflow.files.hashes import file_sha256
from crossflow.modalities.kl_autoencoder import KLAutoencoder
from crossflow.model.checkpoint import save_checkpoint
from crossflow.model.settings import Sampling
from crossflow.recipes import CONFIGS
from crossflow.recipes.anytoany import ANY_TO_ANY, IN_ORDER
from crossflow.sampling.text_to_image import TextToImage, prompt_seed
from crossflow.training.run_state import Run

CONFIG = replace(CONFIGS["scenes-tiny"].model, sampling=Sampling(solver="euler", steps=1))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder, with a small checkpoint in it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_checkpoint("model.safetensors", CONFIG.build(), {"step": 3, "training": {"steps": 20}})
    return tmp_path


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeded(*arguments: object):
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done


def refused(*arguments: object) -> str:
    """The one sentence that a command ends with."""
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output + repr(done.exception)
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert line.endswith(".")
    return line


SAMPLE = ("sample", "--ckpt", "model.safetensors", "--device", "cpu", "--out", "out")


def test_samples_of_prompts(place):
    done = succeeded(*SAMPLE, "--prompt", "a red ball", "--prompt", "../a", "--per-prompt", 2, "--seed", 9)
    assert done.stdout == "out/samples.jsonl\n"
    assert done.stderr == "4 images drawn, 0 kept from before\n"
    rows = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == [
        "000000-0-a-red-ball.png",
        "000000-1-a-red-ball.png",
        "000001-0-a.png",
        "000001-1-a.png",
    ]
    assert [row["seed"] for row in rows[:2]] == [prompt_seed(9, "a red ball", copy) for copy in (0, 1)]
    assert rows[0]["settings"]["weights_sha256"] == file_sha256("model.safetensors")
    assert sorted(os.listdir("out")) == sorted([".lock", *(row["file"] for row in rows), "samples.jsonl"])
    again = succeeded(*SAMPLE, "--prompt", "a red ball", "--prompt", "../a", "--per-prompt", 2, "--seed", 9)
    assert again.stderr == "0 images drawn, 4 kept from before\n"
    assert "choose another --out" in refused(*SAMPLE, "--prompt", "a red ball", "--seed", 8)


def test_samples_of_a_file(place):
    """Blank lines and a byte order mark are passed over; long prompts are counted once."""
    Path("prompts.txt").write_bytes(
        "\ufeffa ball\r\n\n  two cones \n".encode() + b"word " * 40 + b"\nlast" + b" word" * 40
    )
    done = succeeded(*SAMPLE, "--prompts", "prompts.txt", "--solver", "heun", "--steps", 2, "--guidance-scale", 3)
    assert "2 prompts are longer than 16 tokens: their ends were not read." in done.stderr
    rows = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows[:2]] == ["a ball", "two cones"]
    assert rows[0]["settings"] | {"weights_sha256": ""} == {
        "weights_sha256": "",
        "precision": "float64",
        "seed": 0,
        "solver": "heun",
        "steps": 2,
        "guidance_scale": 3.0,
        "noise": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", '{"image": "a.png", "caption": "a red ball"}\n{"image": "b.png", "caption": "a cone"}\n'),
        ("mine.csv", "file,caption\na.png,a red ball\nb.png,a cone\n"),
    ],
)
def test_captions_of_a_file_are_prompts(place, name, content):
    Path(name).write_text(content)
    succeeded(*SAMPLE, "--prompts", name)
    rows = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a red ball", "a cone"]


def test_wrong_prompts(place):
    Path("rows.csv").write_text("a,b\n1,2\n")
    assert "expected 'caption'" in refused(*SAMPLE, "--prompts", "rows.csv")
    Path("empty.txt").write_text("\n  \n")
    Path("latin.txt").write_bytes(b"a b\xe4ll\n")
    assert "holds no prompt" in refused(*SAMPLE, "--prompts", "empty.txt")
    assert "are not UTF-8 text" in refused(*SAMPLE, "--prompts", "latin.txt")
    assert "There is no file or folder none.txt" in refused(*SAMPLE, "--prompts", "none.txt")
    assert "cannot be read (Is a directory" in refused(*SAMPLE, "--prompts", ".")
    assert "either --prompt TEXT" in refused(*SAMPLE)
    assert "either --prompt TEXT" in refused(*SAMPLE, "--prompt", "a", "--prompts", "empty.txt")
    assert "not valid text" in refused(*SAMPLE, "--prompt", "\udcff")


def test_wrong_checkpoints_and_settings(place):
    one = ("--prompt", "a")
    here = ("sample", "--out", "out", *one, "--ckpt")
    assert "There is no file or folder none.safetensors" in refused(*here, "none.safetensors")
    Path("cut.safetensors").write_bytes(Path("model.safetensors").read_bytes()[:-9])
    assert "not a whole safetensors file" in refused(*here, "cut.safetensors")
    assert "Unknown solver 'eular'. Did you mean 'euler'?" in refused(*SAMPLE, *one, "--solver", "eular")
    assert "steps is 0" in refused(*SAMPLE, *one, "--steps", 0)
    assert "guidance_scale is -2.0" in refused(*SAMPLE, *one, "--guidance-scale", -2)
    assert "guidance_scale is nan" in refused(*SAMPLE, *one, "--guidance-scale", "nan")
    assert "no device 'tpu'" in refused(*SAMPLE, *one, "--device", "tpu")
    Path("file").touch()
    assert "cannot be written" in refused("sample", "--ckpt", "model.safetensors", *one, "--out", "file/out")
    assert "a file is where a folder is needed" in refused(
        "sample", "--ckpt", "model.safetensors", *one, "--out", "file"
    )


def test_info_tells_what_a_checkpoint_is(place):
    found = json.loads(succeeded("info", "model.safetensors").stdout)
    assert found["sha256"] == file_sha256("model.safetensors")
    assert (found["format"], found["version"], found["step"]) == ("crossflow", "2", 3)
    assert found["training"] == {"steps": 20}
    assert found["config"]["backbone"]["width"] == CONFIG.backbone.width
    assert "There is no file or folder none" in refused("info", "none")
    Path("text").write_text("hello")
    assert "not a whole safetensors file" in refused("info", "text")


def test_export_changes_what_is_recommended_and_nothing_else(place):
    succeeded("export", "model.safetensors", "new.safetensors", "--solver", "heun", "--steps", 4, "--guidance-scale", 2)
    old, new = (json.loads(succeeded("info", f"{name}.safetensors").stdout) for name in ("model", "new"))
    assert new["config"]["sampling"] == {"solver": "heun", "steps": 4, "guidance_scale": 2.0, "noise": 1.0}
    for found in (old, new):
        del found["file"], found["sha256"], found["config"]["sampling"]
    assert old == new
    wrong = ("--solver", "magic", "--steps", 4, "--guidance-scale", 2)
    assert "Unknown solver 'magic'" in refused("export", "model.safetensors", "x.safetensors", *wrong)


TRAIN = ("train", "scenes-tiny", "--device", "cpu", "--precision", "fp32")


def test_training_can_be_tried_short_and_resumed(place):
    done = succeeded(*TRAIN, "--out", "run", "--steps", 2)
    assert done.stdout == "run/model.safetensors\n"
    assert "step 2: total " in done.stderr
    assert "add --resume" in refused(*TRAIN, "--out", "run", "--steps", 2)
    assert "its training differs" in refused(*TRAIN, "--out", "run", "--steps", 3, "--resume")
    assert "its seed differs" in refused(*TRAIN, "--out", "run", "--steps", 2, "--resume", "--seed", 5)
    assert "resuming after step 2 of 2" in succeeded(*TRAIN, "--out", "run", "--steps", 2, "--resume").stderr
    assert TextToImage.from_checkpoint("run/model.safetensors").defaults == CONFIGS["scenes-tiny"].model.sampling


def test_wrong_training(place):
    assert "Unknown config 'scenes-tinny'. Did you mean 'scenes-tiny'?" in refused(
        "train", "scenes-tinny", "--out", "x"
    )
    assert "must be auto, bf16 or fp32" in refused("train", "scenes-tiny", "--out", "x", "--precision", "fp8")
    assert "must be auto, cpu or cuda" in refused("train", "scenes-tiny", "--out", "x", "--device", "tpu")
    Path("file").touch()
    assert "cannot be written" in refused(*TRAIN, "--out", "file/run")


class Blocks:
    """In place of the KL autoencoder: means over 8 x 8 pixels, and a log-variance of -9."""

    def moments(self, images):
        mean = images.float().unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).mean((2, 4)).movedim(-1, 1) / 127.5 - 1
        mean = torch.cat([mean, mean[:, :1]], dim=1)
        return torch.cat([mean, torch.full_like(mean, -9.0)], dim=1)


@pytest.fixture
def photos(place, monkeypatch):
    """Eight images with captions beside them."""
    monkeypatch.setattr(KLAutoencoder, "from_path", lambda *given, **options: Blocks())
    Path("kl.pth").write_bytes(b"weights")
    Path("photos").mkdir()
    for number in range(8):
        Image.new("RGB", (40, 32), (30 * number, 0, 99)).save(f"photos/{number}.png")
        Path(f"photos/{number}.txt").write_text(f"photo {number % 3}")
    return ("--images", "photos", "--autoencoder", "kl.pth", "--device", "cpu", "--per-shard", 3, "--out")


def test_a_folder_of_photos_becomes_shards_and_a_model(photos):
    """From nothing but images and captions; the sizes and the text encoder follow from the recipe."""
    done = succeeded("cache", "t2i-tiny", *photos, "shards")
    assert done.stdout == "shards\n"
    assert "shard 3 of 3: 2 pairs" in done.stderr
    recipe = json.loads(Path("shards/index.json").read_text())["recipe"]
    assert recipe["text"] == "minilm"
    assert recipe["autoencoder_sha256"] == file_sha256("kl.pth")
    assert (recipe["size"], recipe["token_count"], recipe["keep_images"]) == (32, 77, False)
    options = ("--device", "cpu", "--precision", "fp32", "--steps", 2, "--batch-size", 4, "--accumulate", 2)
    train = ("train", "t2i-tiny", *options, "--data", "shards")
    done = succeeded(*train, "--out", "run")
    assert done.stdout == "run/model.safetensors\n"
    assert "No sample grids are drawn" in done.stderr
    found = json.loads(succeeded("info", "run/model.safetensors").stdout)
    assert (found["training"]["batch_size"], found["training"]["accumulate"]) == (4, 2)
    assert found["data"] == file_sha256("shards/index.json")
    assert "its data differs" in refused(*train[:-1], again(photos), "--out", "run", "--resume")


def again(photos) -> str:
    """Shards of fewer photos."""
    Path("photos/7.png").unlink()
    succeeded("cache", "t2i-tiny", *photos, "fewer")
    return "fewer"


def test_two_processes_make_the_same_shards(photos, monkeypatch):
    """In the places that torchrun gives them; the last to end writes the index."""
    succeeded("cache", "t2i-tiny", *photos, "one", "--half")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert succeeded("cache", "t2i-tiny", *photos, "two", "--half").stdout == ("two\n" if rank == "0" else "")
    names = sorted(os.listdir("one"))
    assert (
        names == sorted(os.listdir("two")) == [".lock", "index.json", *(f"shard-0000{i}.safetensors" for i in range(3))]
    )
    assert all(Path("one", name).read_bytes() == Path("two", name).read_bytes() for name in names)


def test_wrong_data(photos):
    assert "Did you mean 't2i-tiny'?" in refused("cache", "t2i-tinny", *photos, "shards")
    assert "scenes-tiny draws its own data" in refused("cache", "scenes-tiny", *photos, "shards")
    assert "give --image-tower the file open_clip_model" in refused("cache", "paper-1b-image-features", *photos, "x")
    Path("photos/3.txt").unlink()
    assert "photos/3.png has no captions" in refused("cache", "t2i-tiny", *photos, "shards")
    assert "give it as --data" in refused("train", "t2i-tiny", "--device", "cpu", "--out", "run")
    assert "holds neither index.json" in refused("train", "t2i-tiny", "--device", "cpu", "--out", "run", "--data", ".")


def test_ctrl_c_ends_with_a_sentence(place, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "advance", interrupted)
    done = invoke(*TRAIN, "--out", "run", "--steps", 2)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1].startswith("Stopped.")
    assert "Traceback" not in done.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_training_and_says_the_command_that_goes_on(place, monkeypatch, number):
    """The training that goes on ends with the bits of one that nothing disturbed."""
    advance, before = Run.advance, signal.getsignal(number)

    def interrupted(run: Run, ahead: object) -> object:
        if run.step == 2:
            signal.raise_signal(number)
        return advance(run, ahead)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", interrupted)
        patch.setattr(sys, "argv", ["/bin/crossflow", "train", "its options"])
        done = invoke(*TRAIN, "--out", "run", "--steps", 5)
    assert done.exit_code == 130
    kept, command = done.stderr.splitlines()[-1].split(" Go on by: ")
    assert kept == "Stopped. The training is kept as it was after step 3, in run."
    assert command == "crossflow train 'its options' --resume"
    assert signal.getsignal(number) is before
    assert "resuming after step 3 of 5" in succeeded(*TRAIN, "--out", "run", "--steps", 5, "--resume").stderr
    succeeded(*TRAIN, "--out", "undisturbed", "--steps", 5)
    models = [Path(folder, "model.safetensors").read_bytes() for folder in ("run", "undisturbed")]
    assert models[0] == models[1]


def test_the_recipes_are_listed():
    lines = succeeded("train", "--list").stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [*CONFIGS, *ANY_TO_ANY, *IN_ORDER]


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(tmp_path):
    """As the help of ``crossflow train`` says; the same losses as one process."""
    tools = Path(sys.executable).parent
    train = [tools / "crossflow", *TRAIN, "--steps", "6"]
    both = [
        tools / "torchrun",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
        *train,
        "--out",
        tmp_path / "two",
    ]
    done = subprocess.run(both, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'two' / 'model.safetensors'}\n"
    assert done.stderr.count("step 6: ") == 1
    succeeded(*TRAIN, "--steps", 6, "--out", tmp_path / "one")
    rows = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for one, two in zip(*rows, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_words_that_the_shipped_model_never_saw_are_named_once(place):
    shipped = ("sample", "--steps", 1, "--solver", "euler", "--device", "cpu")
    known = succeeded(*shipped, "--prompt", "a photo of two red balls", "--out", "known")
    assert "Warning" not in known.stderr
    done = succeeded(*shipped, "--prompt", "a red zebra", "--prompt", "a Zebra on a violin", "--out", "strange")
    assert done.stderr.count("Warning") == 1
    assert "has never seen 'zebra', 'on', 'violin': it knows" in done.stderr
