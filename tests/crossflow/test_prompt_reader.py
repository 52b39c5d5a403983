"""The text-to-image model run backward: what is read of its latents, and the files and images that are refused."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import Words, drawer, model_of
from typer.testing import CliRunner

from crossflow.cli import app
from crossflow.errors import CrossFlowError
from crossflow.files.folders import shipped
from crossflow.files.hashes import file_sha256
from crossflow.files.tensors import read_header, write_tensors
from crossflow.flow.gaussian import Gaussian
from crossflow.modalities.clip_text import CLIPTextConfig, clip_tokens
from crossflow.modalities.kl_autoencoder import center_crop
from crossflow.modalities.text_autoencoder import TextDecoder, TextDecoderConfig, tokenized, word_count
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.checkpoint import save_checkpoint
from crossflow.model.settings import Override
from crossflow.recipes.recipe import PLACES, SceneData
from crossflow.sampling.prompt_reader import CROPPED, PromptReader, load_decoder, save_decoder
from crossflow.sampling.text_to_image import seeded_noise
from crossflow.scenes import example, render
from crossflow.scenes.caption import PLACED
from crossflow.scenes.retell import captions_of
from crossflow.training.train_prompt_reader import Lesson, posteriors, train, train_reader

PROMPTS = ["a photo of a ball", "a photo of two boxes", "a photo of a red cone and a blue ring"]
CONFIG = TextDecoderConfig(words=tuple(sorted(set(" ".join(PROMPTS).split()))), count=10, width=32, depth=1, heads=2)
KNOWN = tuple(sorted({token for prompt in PROMPTS for token in clip_tokens(prompt)}))
OF_CLIP = CLIPTextConfig(count=14, width=32, depth=1, heads=2, known=KNOWN)
IMAGES = [render(example("val", index).scene) for index in range(3)]


@pytest.fixture(scope="module")
def decoder() -> TextDecoder:
    """A random one that says something else of every latent."""
    torch.manual_seed(0)
    decoder = TextDecoder(CONFIG, model_of("crossflow").config.shape)
    torch.nn.init.normal_(decoder.embed.weight, std=3.0)
    return decoder.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory, decoder):
    """The decoder and its model, as they are shipped."""
    folder = tmp_path_factory.mktemp("reader")
    save_checkpoint(folder / "model.safetensors", model_of("crossflow"))
    save_decoder(folder / "decoder.safetensors", decoder, model_of("crossflow"), {"seed": 0})
    return folder / "decoder.safetensors", folder / "model.safetensors"


@pytest.mark.parametrize("config", [CONFIG, OF_CLIP], ids=["of words", "of CLIP's tokens"])
def test_training_makes_a_decoder_that_reads_the_posteriors(monkeypatch, config):
    """And with the same seed the same one."""
    monkeypatch.setattr("crossflow.training.train_prompt_reader.BATCH", 16)
    generator = torch.Generator().manual_seed(0)
    found = Gaussian(torch.randn(3, 4, 2, 2, generator=generator), torch.full((3, 4, 2, 2), -3.0))
    words = tokenized(PROMPTS, config)
    lesson = Lesson(config, 3, lambda picks: (Gaussian(found.mean[picks], found.log_var[picks]), words[picks]), {})
    decoder = train(lesson, (4, 2, 2), steps=300, seed=0)
    sample = Gaussian(*(part.repeat(4, 1, 1, 1) for part in found)).sample(
        torch.randn(12, 4, 2, 2, generator=generator)
    )
    assert decoder.texts(sample) == PROMPTS * 4
    one, other = (train(lesson, (4, 2, 2), steps=2, seed=1).state_dict() for _ in "ab")
    assert all(torch.equal(part, other[name]) for name, part in one.items())


def trained_on(path: Path, captions: tuple[int, ...], seed: int = 0) -> Path:
    """A checkpoint whose notes say what it was trained on."""
    torch.manual_seed(seed)
    notes = {"training": {"data": asdict(SceneData(count=12, captions=captions))}}
    save_checkpoint(path, model_of("crossflow").config.build(training=False), notes)
    return path


def test_captions_of_nothing_that_can_be_read_are_named_before_any_step(tmp_path):
    """The HTML of a space, as some data sets have it, is a space to CLIP."""
    model = trained_on(tmp_path / "model.safetensors", captions=(1,))
    captions = tmp_path / "captions.csv"
    captions.write_text("image,caption\na.png,a ball\nb.png,&nbsp;\n")
    with pytest.raises(CrossFlowError, match=r"has captions without a token of CLIP's \('&nbsp;'\): leave them out"):
        train_reader(model, tmp_path / "reader.safetensors", captions=captions, steps=1)


def test_the_command_makes_a_reader_of_the_captions_that_the_model_knows(tmp_path):
    """The longest of them fits with its end, and the same seed gives the same bytes."""
    model = trained_on(tmp_path / "model.safetensors", captions=(1, 3))
    files = [tmp_path / name for name in ("reader.safetensors", "again.safetensors")]
    for file in files:
        done = CliRunner().invoke(app, ["train-reader", str(model), "--out", str(file), "--steps", "2"])
        assert done.exit_code == 0 and done.stdout == f"{file}\n", done.output
    assert "captions are longer than the 16 tokens that the model reads" in done.stderr
    assert files[0].read_bytes() == files[1].read_bytes()
    header = read_header(files[0])
    assert (header["captions"], header["seed"], header["steps"]) == ([1, 3], 0, 2)
    assert header["weights_sha256"] == file_sha256(model)
    longest = max((example("train", i).captions[k] for i in range(12) for k in (1, 3)), key=word_count)
    assert header["config"]["count"] == word_count(longest) + 2
    assert isinstance(PromptReader.from_checkpoint(files[0], model).generate(IMAGES[:1], [0])[0], str)


def test_a_reader_knows_the_captions_that_are_made_for_training(tmp_path):
    model = trained_on(tmp_path / "model.safetensors", captions=(PLACES, PLACED))
    header = read_header(train_reader(model, tmp_path / "reader.safetensors", steps=1))
    told = [captions_of(item, item.prompt) for item in (example("train", i) for i in range(12))]
    longest = max((every[k] for every in told for k in (PLACES, PLACED)), key=word_count)
    assert header["config"]["count"] == word_count(longest) + 2


def test_a_reader_replaces_no_file_least_of_all_its_model(tmp_path):
    model = trained_on(tmp_path / "model.safetensors", captions=(1,))
    before = model.read_bytes()
    done = CliRunner().invoke(app, ["train-reader", str(model), "--out", str(model), "--steps", "2"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {model} is there already, and is not replaced")
    assert model.read_bytes() == before
    with pytest.raises(CrossFlowError, match="cannot be written"):
        train_reader(model, model / "reader.safetensors")


def test_a_reader_learns_the_captions_of_a_file_in_their_own_tokens(tmp_path):
    """Of a model that was trained on whatever; the file of the reader says which captions they were."""
    save_checkpoint(tmp_path / "model.safetensors", model_of("crossflow"))
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(f'{{"image": "{n}.png", "caption": "{each}"}}\n' for n, each in enumerate(PROMPTS)))
    out, words = tmp_path / "reader.safetensors", ["--captions", str(captions), "--steps", "2", "--device", "cpu"]
    done = CliRunner().invoke(app, ["train-reader", str(tmp_path / "model.safetensors"), "--out", str(out), *words])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n"), done.output
    header = read_header(out)
    assert tuple(header["config"]["known"]) == KNOWN
    assert (header["captions"], header["captions_sha256"]) == ("captions.jsonl", file_sha256(captions))
    (caption,) = PromptReader.from_checkpoint(out, tmp_path / "model.safetensors").generate(IMAGES[:1], [0])
    assert set(caption.split()) <= set(" ".join(PROMPTS).split())


def test_models_whose_captions_nobody_knows_have_no_reader(tmp_path):
    save_checkpoint(tmp_path / "bare.safetensors", model_of("crossflow"))
    with pytest.raises(CrossFlowError, match=r"trained on scenes, .* give the captions that its reader is to"):
        train_reader(tmp_path / "bare.safetensors", tmp_path / "reader.safetensors")
    with pytest.raises(CrossFlowError, match="reads image: give a model from text to image"):
        train_reader(shipped("depth"), tmp_path / "reader.safetensors")
    save_checkpoint(tmp_path / "baseline.safetensors", model_of("baseline"))
    with pytest.raises(CrossFlowError, match="holds the standard flow-matching baseline"):
        train_reader(tmp_path / "baseline.safetensors", tmp_path / "reader.safetensors")


def test_posteriors_are_the_frozen_encoders():
    """A source is a sample of them."""
    found = posteriors(model_of("crossflow"), Words(), PROMPTS)
    noise = torch.stack([seeded_noise(seed, (48, 4, 4)) for seed in (4, 5, 6)])
    source = drawer("crossflow").source(PROMPTS, [4, 5, 6]).float()
    assert torch.allclose(found.sample(noise), source, atol=1e-5)
    assert not found.mean.requires_grad


def test_a_prompt_is_what_is_read_at_the_flows_other_end(decoder):
    """Definition: the decoder's words of ``to_source`` without guidance; each of its image alone."""
    pipeline = drawer("crossflow", batch_size=2)
    reader = PromptReader(pipeline, decoder)
    sampling = replace(model_of("crossflow").config.sampling, solver="heun", steps=2, guidance_scale=1.0)
    expected = decoder.texts(pipeline.to_source(IMAGES, sampling).float())
    assert len(set(expected)) == 3
    override = Override(solver="heun", steps=2)
    assert reader.generate(IMAGES, [1, 2, 3], override) == expected
    assert [reader.generate([image], [9], override)[0] for image in IMAGES] == expected
    assert reader.generate([], []) == []


def test_guidance_is_never_on(decoder):
    pipeline = drawer("crossflow")
    pipeline.defaults = replace(pipeline.defaults, guidance_scale=3.0)
    sampling = PromptReader(pipeline, decoder).defaults.but(Override(steps=7))
    assert sampling == replace(pipeline.defaults, guidance_scale=1.0, steps=7)


def test_files_come_back(decoder, files):
    reader = PromptReader.from_checkpoint(*files)
    assert read_header(files[0])["seed"] == 0
    assert reader.ends == ("image", "text") and reader.size == (32, 32)
    assert reader.generate(IMAGES, [0, 0, 0]) == PromptReader(drawer("crossflow"), decoder).generate(IMAGES, [0, 0, 0])
    assert all(torch.equal(part, reader.decoder.state_dict()[n].float()) for n, part in decoder.state_dict().items())


def test_the_identity_tells_decoders_apart(files, tmp_path, decoder):
    other = tmp_path / "other.safetensors"
    changed = TextDecoder(CONFIG, model_of("crossflow").config.shape)
    save_decoder(other, changed, model_of("crossflow"), {})
    one, two = (PromptReader.from_checkpoint(path, files[1]).identity for path in (files[0], other))
    assert {name for name in one if one[name] != two[name]} == {"decoder_sha256"}


def test_a_decoder_of_another_encoder_is_refused(files):
    torch.manual_seed(1)
    with pytest.raises(CrossFlowError, match="another text encoder"):
        load_decoder(files[0], model_of("crossflow").config.build())
    with pytest.raises(CrossFlowError, match="starts from noise"):
        load_decoder(files[0], model_of("baseline"))


def test_a_change_of_sampling_is_no_other_encoder(files):
    model = model_of("crossflow").config.build()
    model.load_state_dict(model_of("crossflow").state_dict())
    model.config = replace(model.config, sampling=replace(model.config.sampling, steps=1))
    load_decoder(files[0], model)


def test_files_that_are_no_decoder(files, tmp_path):
    with pytest.raises(CrossFlowError, match="is no decoder of prompts"):
        load_decoder(files[1], model_of("crossflow"))
    damaged = tmp_path / "damaged.safetensors"
    write_tensors(damaged, {}, {**read_header(files[0]), "config": {"words": 3}})
    with pytest.raises(CrossFlowError, match="cannot be read"):
        load_decoder(damaged, model_of("crossflow"))
    write_tensors(damaged, {}, read_header(files[0]))
    with pytest.raises(CrossFlowError, match="misses weight"):
        load_decoder(damaged, model_of("crossflow"))


def test_images_of_another_size_are_cropped_as_the_training_images_were(decoder):
    """The middle of an image, by the rule of ``crossflow cache``; those of the model's size are as they are."""
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (50, 70, 3), np.uint8)
    plain, fitted = (PromptReader(drawer("crossflow"), decoder, any_size=size) for size in (False, True))
    expected = plain.generate([center_crop(Image.fromarray(large), 32), IMAGES[1]], [0, 0])
    assert fitted.generate([large, IMAGES[1]], [0, 0]) == expected
    assert fitted.identity == {**plain.identity, "sizes": CROPPED}


def test_reading_needs_no_text_encoder(files, monkeypatch):
    """Not even to be there; what does need it says so."""
    monkeypatch.setattr(TokensConfig, "embedder", lambda *_: pytest.fail("looked for the text encoder"))
    reader = PromptReader.from_checkpoint(*files)
    assert len(reader.generate(IMAGES[:1], [0])) == 1
    with pytest.raises(CrossFlowError, match="loaded without its text encoder"):
        reader.pipeline.generate(["a ball"], [0])


def test_images_that_do_not_fit(decoder):
    reader = PromptReader(drawer("crossflow"), decoder)
    with pytest.raises(CrossFlowError, match="32 x 32"):
        reader.generate([np.zeros((16, 16, 3), np.uint8)], [1])
    with pytest.raises(CrossFlowError, match="1 images but 2 seeds"):
        reader.generate(IMAGES[:1], [1, 2])
