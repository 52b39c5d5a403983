"""Our own checkpoints whose sources are images, as models of the measurement: random ones of the recipes' own form."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.folders import shipped
from crossflow.files.hashes import file_sha256
from crossflow.modalities.text_autoencoder import TextDecoder, TextDecoderConfig
from crossflow.model.checkpoint import save_checkpoint
from crossflow.recipes import CONFIGS
from crossflow.sampling.prompt_reader import READER, save_decoder
from crossflow.sampling.sizes import RULES, shrunk
from crossflow_eval.models import load_model
from crossflow_eval.models.image_model import ENDS, CrossFlowBackward, CrossFlowImageModel
from crossflow_eval.outputs import check_kind
from crossflow_eval.request import Request
from crossflow_eval.runs.launch import build_model, evaluate
from crossflow_eval.suites import load_suite
from crossflow_eval.suites.scenes import images as scene_images
from crossflow_eval.types import Model

KINDS = {"caption": (32, "txt"), "depth": (32, "npy"), "sr": (16, "png")}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """One a task, with one block and random numbers."""
    folder, found = tmp_path_factory.mktemp("checkpoints"), {}
    for task in KINDS:
        torch.manual_seed(0)
        config = CONFIGS[f"scenes-{task}"].model
        config = replace(config, backbone=replace(config.backbone, depth=1))
        found[task] = folder / f"random-{task}.safetensors"
        save_checkpoint(found[task], config.build(training=False))
    return found


def sources(folder: Path, side: int) -> list[Path]:
    rng = np.random.default_rng(0)
    drawn = {name: rng.integers(0, 256, size=(side, side, 3), dtype=np.uint8) for name in "abc"}
    return list(scene_images.keep(folder, drawn).values())


@pytest.mark.parametrize("task", KINDS)
def test_images_of_the_model_s_own_size_are_answered_as_ever_and_the_rule_is_in_the_identity(
    tmp_path, checkpoints, task
):
    plain = CrossFlowImageModel(task, checkpoints[task], steps=1, device="cpu")
    fitted = CrossFlowImageModel(task, checkpoints[task], steps=1, device="cpu", any_size=True)
    files = sources(tmp_path, KINDS[task][0])
    for one, other in zip(plain.generate(files, [1, 2, 3]), fitted.generate(files, [1, 2, 3]), strict=True):
        assert np.array_equal(one, other)
    assert fitted.identity == {**plain.identity, "sizes": RULES[ENDS[task][1]]}


def test_a_checkpoint_is_measured_on_depth_references_of_any_size(tmp_path, checkpoints, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    for name, (height, width) in {"a": (32, 32), "b": (45, 60)}.items():
        np.save(f"own/{name}.npy", np.full((height, width), 3, np.float32))
        Image.new("RGB", (width, height), "grey").save(f"own/{name}.jpg")
    request = Request(task="depth", checkpoint=checkpoints["depth"], references=Path("own"), steps=1, device="cpu")
    result, folder = evaluate(request)
    assert result.n == 2 and result.settings.identity["sizes"] == RULES["depth"]
    assert np.load(folder.parent / "outputs" / "b-0.npy").shape == (45, 60)
    Path("own/b.jpg").unlink()
    with pytest.raises(CrossFlowError, match=r"no image of b\.npy for the model to see: put each beside its reference"):
        evaluate(request)


def test_a_checkpoint_is_measured_on_originals_of_any_size_that_it_has_shrunk(tmp_path, checkpoints, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    rng = np.random.default_rng(0)
    for name, side in {"a": (64, 64, 3), "b": (90, 131, 3)}.items():
        Image.fromarray(rng.integers(0, 256, size=side, dtype=np.uint8)).save(f"own/{name}.png")
    request = Request(task="sr", checkpoint=checkpoints["sr"], references=Path("own"), steps=1, device="cpu")
    result, folder = evaluate(request)
    assert result.n == 2 and result.settings.identity["small_images"].startswith("the originals, shrunk")
    assert np.asarray(Image.open(folder.parent / "outputs" / "b-0.png")).shape == (90, 131, 3)
    (plain,) = CrossFlowImageModel("sr", checkpoints["sr"], steps=1, device="cpu").generate(
        list(scene_images.keep(tmp_path, {"s": shrunk(np.asarray(Image.open("own/a.png")), 4)}).values()), [0]
    )
    assert np.array_equal(np.asarray(Image.open(folder.parent / "outputs" / "a-0.png")), plain), "one tile, no noise"


@pytest.mark.parametrize("task", KINDS)
def test_a_checkpoint_is_a_model_that_reads_files(tmp_path, checkpoints, task):
    """Law: an output is of the suite's kind, and depends on its own image and seed, not on its batch."""
    side, kind = KINDS[task]
    model = CrossFlowImageModel(task, checkpoints[task], steps=1, device="cpu")
    assert isinstance(model, Model)
    files = sources(tmp_path, side)
    together = model.generate(files, [1, 2, 3])
    assert len(together) == 3
    for output in together:
        check_kind(model.name, output, kind)
    assert np.array_equal(model.generate(files[1:2], [2])[0], together[1])


def test_the_identity_is_all_that_can_change_an_output(checkpoints):
    first = CrossFlowImageModel("depth", checkpoints["depth"], device="cpu")
    assert first.name == "random-depth"
    defaults = CONFIGS["scenes-depth"].model.sampling
    assert {name: first.identity[name] for name in ("solver", "steps", "guidance_scale", "device")} == {
        "solver": defaults.solver,
        "steps": defaults.steps,
        "guidance_scale": defaults.guidance_scale,
        "device": "cpu",
    }
    for option in ({"steps": 3}, {"solver": "heun"}, {"precision": "float32"}):
        other = CrossFlowImageModel("depth", checkpoints["depth"], device="cpu", **option).identity
        assert {name for name in other if other[name] != first.identity[name]} == set(option)


@pytest.mark.parametrize("task", KINDS)
def test_a_checkpoint_of_another_task_is_refused(checkpoints, task):
    other = next(name for name in KINDS if name != task)
    read, given = ENDS[other]
    with pytest.raises(
        CrossFlowError, match=f"is a checkpoint that makes {given} of {read}; give --ckpt one for {task}"
    ):
        CrossFlowImageModel(task, checkpoints[other], device="cpu")


def test_images_of_another_size_and_files_that_are_none_are_refused(tmp_path, checkpoints):
    model = CrossFlowImageModel("sr", checkpoints["sr"], steps=1, device="cpu")
    with pytest.raises(CrossFlowError, match="16 x 16"):
        model.generate(sources(tmp_path, 8), [1, 2, 3])
    with pytest.raises(CrossFlowError, match=r"image .* cannot be read"):
        model.generate([tmp_path / "none.png"], [1])


@pytest.mark.parametrize("options", [{"steps": 0}, {"guidance_scale": float("inf")}, {"solver": "eulr"}])
def test_impossible_sampling_is_refused_before_weights_are_read(options):
    with pytest.raises(CrossFlowError, match=r"--steps must|--guidance-scale must|Did you mean 'euler'"):
        CrossFlowImageModel("sr", Path("never-read.safetensors"), device="cpu", **options)


def test_the_text_to_image_model_run_backward_is_a_model(tmp_path):
    """Law: by the name that the command line knows, a caption an image file, and no seed changes it."""
    model = load_model("crossflow_eval.models.image_model:backward")
    assert isinstance(vars(model)["_model"], CrossFlowBackward) and model.name == "scenes-t2i-backward"
    assert model.identity["decoder_sha256"] == file_sha256(READER)
    file = sources(tmp_path, 32)[0]
    (caption,) = model.generate([file], [1])
    check_kind(model.name, caption, "txt")
    assert model.generate([file], [2]) == [caption]
    own = {"weights_sha256", "precision", "decoder_sha256", "solver", "steps", "device"}
    assert model.identity.keys() == {*own, "code_sha256"}
    with pytest.raises(CrossFlowError, match="32 x 32"):
        model.generate(sources(tmp_path / "small", 8), [1, 2, 3])


@pytest.fixture(scope="module")
def backward_pair(tmp_path_factory) -> tuple[Path, Path]:
    """A text-to-image model and its reader, both random."""
    folder = tmp_path_factory.mktemp("backward")
    torch.manual_seed(0)
    model = CONFIGS["scenes-tiny"].model.build(training=False)
    save_checkpoint(folder / "mine.safetensors", model)
    config = TextDecoderConfig(words=("ball", "box"), count=3, width=8, depth=1, heads=1)
    save_decoder(folder / "reader.safetensors", TextDecoder(config, model.config.shape), model, {})
    return folder / "mine.safetensors", folder / "reader.safetensors"


def captioner(pair: tuple[Path, Path], **options: object) -> Model:
    request = Request(task="caption", checkpoint=pair[0], reader=pair[1], device="cpu", **options)
    return build_model(request, load_suite("scenes-caption"))


def test_a_reader_makes_a_captioner_of_a_text_to_image_model(tmp_path, backward_pair):
    """It is known by both files and by how it is sampled, and answers images of the suite's size."""
    model = captioner(backward_pair, steps=2, solver="heun")
    assert model.name == "mine-backward"
    assert model.identity["weights_sha256"] == file_sha256(backward_pair[0])
    assert model.identity["decoder_sha256"] == file_sha256(backward_pair[1])
    assert (model.identity["solver"], model.identity["steps"]) == ("heun", 2)
    (caption,) = model.generate(sources(tmp_path, 32)[:1], [0])
    check_kind(model.name, caption, "txt")
    with pytest.raises(CrossFlowError, match="this model reads RGB images of 32 x 32"):
        model.generate(sources(tmp_path / "small", 16)[:1], [0])


def test_images_are_read_without_guidance(backward_pair):
    with pytest.raises(CrossFlowError, match="Images are read without guidance"):
        captioner(backward_pair, guidance_scale=2.0)


def test_a_reader_belongs_to_its_model(backward_pair, checkpoints):
    """Neither another model's, nor of a model that reads images itself."""
    with pytest.raises(CrossFlowError, match="reads the latents of another text encoder"):
        captioner((shipped("t2i"), backward_pair[1]))
    with pytest.raises(CrossFlowError, match="This model reads image, and no texts"):
        captioner((checkpoints["caption"], backward_pair[1]))
