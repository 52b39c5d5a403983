"""A tiny random Stable Diffusion, saved as diffusers saves it: its images, its identity, and folders that are none."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.models.diffusers_pipeline import DiffusersModel, pad_to_one_length
from crossflow_eval.runs import launch
from crossflow_eval.suites import t2i
from crossflow_eval.types import Model

PROMPTS, SEEDS = ["a dog", "two cats on a mat", "a dog"], [1, 2**63 - 1, 3]
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """16 x 16 pixels; the words of its language model are single letters."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [chr(code) for code in range(33, 127)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    text = CLIPTextConfig(
        vocab_size=len(pieces),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=len(pieces) - 2,
        eos_token_id=len(pieces) - 1,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, merges=[], model_max_length=77),
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(pipeline) -> DiffusersModel:
    return DiffusersModel(pipeline, "tiny", steps=3)


@pytest.fixture
def copy(pipeline, tmp_path) -> Path:
    return shutil.copytree(pipeline, tmp_path / "copy")


def same(first: list, second: list) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_images_are_those_of_the_pipeline_itself(pipeline, model):
    """Oracle: the pipeline called as its documentation calls it, pictures and all."""
    from diffusers import StableDiffusionPipeline

    own = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None, requires_safety_checker=False)
    expected = [
        np.asarray(own(prompt, num_inference_steps=3, generator=torch.Generator().manual_seed(seed)).images[0])
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    images = model.generate(PROMPTS, SEEDS)
    assert same(images, expected)
    assert (images[0].shape, images[0].dtype) == ((16, 16, 3), np.uint8)
    assert isinstance(model, Model)


def test_an_image_depends_on_its_prompt_and_seed_alone(model):
    images = model.generate(PROMPTS, SEEDS)
    assert same(images, model.generate(PROMPTS[::-1], SEEDS[::-1])[::-1])
    assert same(images[1:], model.generate(PROMPTS[1:], SEEDS[1:]))
    assert not np.array_equal(images[0], images[2]), "another seed"
    assert not same(images[:1], model.generate(["two cats on a mat"], SEEDS[:1])), "another prompt"


def test_the_identity_is_all_that_changes_an_image(model, copy):
    assert model.identity["pipeline"] == "StableDiffusionPipeline"
    assert (model.identity["steps"], model.identity["guidance_scale"], model.identity["precision"]) == (
        3,
        7.5,
        "float32",
    )
    own = DiffusersModel(copy, "copy").identity
    assert own == model.identity | {"steps": 50}, "where the folder lies is no part of it"
    (copy / "README.md").write_text("hello")
    shutil.copy(copy / UNET, copy / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert DiffusersModel(copy, "copy").identity == own
    asked = DiffusersModel(copy, "copy", steps=2, guidance_scale=1.0, size=32, precision="bfloat16").identity
    assert asked == own | {"steps": 2, "guidance_scale": 1.0, "size": 32, "precision": "bfloat16"}
    config = json.loads((copy / "scheduler" / "scheduler_config.json").read_text())
    (copy / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {"beta_end": 0.03}))
    assert DiffusersModel(copy, "copy").identity["weights_sha256"] != own["weights_sha256"]


def test_a_variant_is_read_where_it_alone_is_there(model, copy):
    """As ``save_pretrained(variant="fp16")`` names files; all parts, or some beside parts of plain weights."""
    for part in ("unet", "vae", "text_encoder"):
        for plain in (copy / part).glob("*.safetensors"):
            plain.rename(plain.with_suffix(".fp16.safetensors"))
        varied = DiffusersModel(copy, "copy", steps=3)
        assert same(varied.generate(PROMPTS, SEEDS), model.generate(PROMPTS, SEEDS))
        assert varied.identity["variant"] == "fp16"
    (copy / "vae" / "diffusion_pytorch_model.fp16.safetensors").rename(copy / "vae" / "other.bf16.safetensors")
    with pytest.raises(CrossFlowError, match=r"not one for all parts \(.*text_encoder fp16.*vae bf16.*\): keep one"):
        DiffusersModel(copy, "copy")


def test_a_batch_is_of_one_size_and_its_images_are_within_a_grey_level_of_those_drawn_alone(pipeline, model, caplog):
    """float32: what differs is the order of sums. The tolerance is said, once; a shorter batch is filled up."""
    caplog.set_level("INFO")
    in_twos = DiffusersModel(pipeline, "tiny", steps=3, batch_size=2)
    calls: list[int] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: calls.append(len(inputs[0])) if type(module).__name__ == "UNet2DConditionModel" else None
    )
    images = in_twos.generate(PROMPTS, SEEDS)
    hook.remove()
    assert set(calls) == {2, 4}, "guided calls of two prompts, and of one, for the tolerance"
    apart = [abs(a.astype(int) - b).max() for a, b in zip(images, model.generate(PROMPTS, SEEDS), strict=True)]
    assert max(apart) <= 1
    assert (
        caplog.text.count("In batches of 2: drawn one by one") == 1
        and f"at most {max(apart[:2])} of 255" in caplog.text
    )
    assert same(in_twos.generate(PROMPTS, SEEDS), images)
    assert in_twos.identity == model.identity | {"batch_size": 2}


def test_texts_of_a_batch_are_padded_to_one_length_whatever_the_longest_is(pipeline):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(pipeline / "tokenizer")
    pad_to_one_length(tokenizer, "tiny")
    assert {len(ids) for ids in tokenizer(["a", "b"], padding="longest")["input_ids"]} == {77}
    assert {len(ids) for ids in tokenizer(["a", "b"], padding=True, max_length=9)["input_ids"]} == {9}
    assert len(tokenizer(["a"], padding="longest")["input_ids"][0]) == 3, "one text is as the pipeline has it"
    tokenizer.model_max_length = int(1e30)
    with pytest.raises(CrossFlowError, match="tiny pads texts to no length of its own; give --batch-size 1"):
        tokenizer(["a", "b"], padding="longest")


def test_a_tokenizer_without_a_length_of_its_own_has_that_of_its_text_encoder(copy, model):
    config = copy / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": int(1e30)}))
    assert same(DiffusersModel(copy, "copy", steps=3).generate(PROMPTS, SEEDS), model.generate(PROMPTS, SEEDS))


def test_options_reach_the_pipeline(pipeline, model):
    larger = DiffusersModel(pipeline, "tiny", steps=3, size=32).generate(["a dog"], [1])
    assert larger[0].shape == (32, 32, 3)
    plain = DiffusersModel(pipeline, "tiny", steps=3, guidance_scale=1.0).generate(["a dog"], [1])
    assert not same(plain, model.generate(["a dog"], [1]))


def test_a_safety_checker_is_left_out(copy, model):
    index = json.loads((copy / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (copy / "model_index.json").write_text(json.dumps(index))
    assert same(DiffusersModel(copy, "copy", steps=3).generate(PROMPTS, SEEDS), model.generate(PROMPTS, SEEDS))


def edit_index(**change: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | change))

    return edit


def with_code(part: str, **change: object) -> Callable[[Path], object]:
    """Code beside the weights that the index asks to run; it would leave a mark."""

    def edit(folder: Path) -> None:
        edit_index(**change)(folder)
        (folder / part / "code.py").write_text(f"open({str(folder / 'mark')!r}, 'w')\nclass Code: pass\n")

    return edit


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / UNET), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / UNET).unlink()


def without_a_weight(file: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / file)
        tensors.pop(sorted(tensors)[3])
        save_file(tensors, folder / file, {"format": "pt"})

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "is no pipeline of diffusers: it should hold model_in"),
        (lambda folder: (folder / "model_index.json").write_text("[]"), "is no pipeline of diffusers"),
        (lambda folder: shutil.rmtree(folder / "vae"), "does not load as a pipeline"),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / UNET).write_bytes((folder / UNET).read_bytes()[:-99]), "Unable to load weights"),
        (pickled, r"no file named diffusion_pytorch_model\.safetensors"),
        (with_code("", _class_name=["code", "Code"]), "contains custom code"),
        (with_code("unet", unet=["code", "Code"]), "contains custom code"),
        (without_a_weight(UNET), r"unet holds \d+ of the \d+ weights of its model; fetch it again"),
        (without_a_weight("text_encoder/model.safetensors"), r"text_encoder holds \d+ of the \d+ weights"),
        (edit_index(_class_name="NoSuchPipeline"), "no attribute NoSuchPipeline"),
        (edit_index(_class_name="DDPMPipeline"), "DDPMPipeline in .* is no text-to-image pipeline: .*'prompt'"),
    ],
)
def test_a_folder_that_is_no_whole_pipeline_is_refused_and_nothing_of_it_is_run(copy, edit, message):
    edit(copy)
    with pytest.raises(CrossFlowError, match=message):
        DiffusersModel(copy, "copy")
    assert not (copy / "mark").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"precision": "float46"}, "Unknown precision .* Did you mean 'float16'"),
    ],
)
def test_impossible_options_are_refused(pipeline, options, message):
    with pytest.raises(CrossFlowError, match=message):
        DiffusersModel(pipeline, "tiny", **options)


def test_what_the_pipeline_refuses_is_one_sentence(pipeline):
    with pytest.raises(CrossFlowError, match=r"tiny cannot draw 'a dog': .* divisible by 8 but are 20 and 20"):
        DiffusersModel(pipeline, "tiny", size=20).generate(["a dog"], [1])


def test_numbers_that_are_none_are_no_black_image(pipeline, tmp_path):
    damaged = shutil.copytree(pipeline, tmp_path / "damaged")
    weights = load_file(damaged / VAE)
    save_file(weights | {"decoder.conv_out.bias": torch.full((3,), torch.nan)}, damaged / VAE)
    with pytest.raises(CrossFlowError, match="not finite; try --precision float32"):
        DiffusersModel(damaged, "tiny").generate(["a dog"], [1])


@pytest.fixture
def hub(pipeline, tmp_path, monkeypatch) -> Path:
    """The local cache of the hub with the pipeline as someone/tiny-1; the current folder has captions."""
    revision = "0" * 40
    place = tmp_path / "hub" / "models--someone--tiny-1"
    shutil.copytree(pipeline, place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.csv").write_text("image,caption\nx,a dog\ny,two cats\n")
    return tmp_path


def test_the_command_line_takes_a_folder_or_an_id_of_the_hub_s_cache(pipeline, hub):
    options = ["--captions", "captions.csv", "--steps", "2", "--device", "cpu", "--json"]
    for source, out in ((str(pipeline), "one"), ("someone/tiny-1", "two")):
        done = CliRunner().invoke(app, ["t2i", "--model", f"diffusers:{source}", *options, "--out", out])
        assert done.exit_code == 0, done.stderr
        record = json.loads(done.stdout)
        assert record["settings"]["model"] == Path(source).name
        assert record["settings"]["identity"]["steps"] == 2
    for image in (hub / "one" / "outputs").iterdir():
        assert image.read_bytes() == (hub / "two" / "outputs" / image.name).read_bytes()


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        ("diffusers:someone/other", {}, "neither a folder here nor in the local hub cache: run `hf download someone/o"),
        ("diffusers:a/b/c", {}, "a/b/c is not there: give a folder with model_index.json"),
        ("diffusers:someone/tiny-1", {"solver": "euler"}, "does not use --solver"),
        ("diffusers:someone/tiny-1", {"checkpoint": Path("x")}, "does not use --ckpt"),
        ("crossflow", {"size": 256}, "does not use --size"),
    ],
)
def test_pipelines_that_are_not_there_and_options_that_are_not_used_are_refused(hub, model, options, sentence):
    with pytest.raises(CrossFlowError, match=sentence):
        launch.build_model(launch.Request(model=model, **options), t2i.folder())
