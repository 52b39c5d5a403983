"""From any inputs to any outputs: mixed prompts, a seed an item, files by suffix, and one sentence for the rest."""

import json
import math
import re
import sys
from itertools import product

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow.anytoany.system import PARTS, system_config
from crossflow.cli import app
from crossflow.errors import CrossFlowError
from crossflow.files import folders, mel
from crossflow.files.folders import shipped
from crossflow.files.hashes import file_sha256
from crossflow.files.sounds import encode_wav, read_wav, write_wav
from crossflow.files.tensors import read_header
from crossflow.files.videos import encode_gif, encode_webp, read_video
from crossflow.flow.solver import ANCESTRAL
from crossflow.model.checkpoint import save_checkpoint
from crossflow.sampling.any_to_any import METHODS, TAKES, AnyToAnySampler, check_used
from crossflow.sampling.media import READERS, SIZES, WRITERS, read_value, writers
from crossflow.sampling.samples import png
from tests.crossflow.tiny_systems import RAW, tiny_system

NUMBERS = np.random.default_rng(0)
IMAGE = NUMBERS.integers(0, 256, RAW["image"], dtype=np.uint8)
SOUND = NUMBERS.normal(size=RAW["audio"]).astype(np.float32)
FILM = NUMBERS.integers(0, 256, RAW["video"], dtype=np.uint8)
WAVE = (0.5 * np.sin(np.arange(16_000) / 9)).astype(np.float32)


@pytest.fixture(scope="module")
def sampler() -> AnyToAnySampler:
    return AnyToAnySampler(tiny_system())


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("solver", [None, ANCESTRAL])
def test_an_item_is_its_own_inputs_and_seed_whatever_its_batch(sampler, solver):
    given = [{"text": ["a red ball"]}, {"image": [IMAGE], "text": ["a blue box"]}, {"audio": [SOUND, -SOUND]}]
    options = {"solver": solver, "steps": 3}
    whole = sampler.generate(given, ["image", "audio"], [3, 4, 5], **options)
    small = AnyToAnySampler(tiny_system(), batch_size=2).generate(given, ["image", "audio"], [3, 4, 5], **options)
    assert all(map(same, whole, small))
    alone = sampler.generate(given[1:2], ["image", "audio"], [4], **options)[0]
    assert same(alone, whole[1])
    assert not same(alone, sampler.generate(given[1:2], ["image", "audio"], [5], **options)[0])
    assert not same(alone, sampler.generate([{"image": [IMAGE]}], ["image", "audio"], [4], **options)[0])


def test_values_are_raw_and_of_the_kind_that_is_read(sampler):
    [made] = sampler.generate([{"text": ["a ball"]}], ["image", "audio"], [0])
    assert made["image"].dtype == np.uint8 and made["image"].shape == RAW["image"]
    assert made["audio"].dtype == np.float32 and made["audio"].shape == RAW["audio"]
    assert isinstance(sampler.generate([made_inputs(made)], ["text"], [0])[0]["text"], str)


def made_inputs(made):
    return {name: [value] for name, value in made.items()}


def test_outputs_that_are_made_together_see_one_another_and_alone_not(sampler):
    given, seeds = [{"text": ["a red ball"]}], [7]
    alone = {name: sampler.generate(given, [name], seeds)[0][name] for name in ("image", "audio")}
    together = sampler.generate(given, ["image", "audio"], seeds)[0]
    assert not same(alone, together)
    assert same(alone, sampler.generate(given, ["image", "audio"], seeds, context="none")[0])
    assert not same(together, sampler.generate(given, ["image", "audio"], seeds, context="self")[0])


def test_in_turn_the_second_is_prompted_by_the_first(sampler):
    given, seeds = {"text": ["a red ball"]}, [7]
    [found] = sampler.generate([given], ["image", "audio"], seeds, method="in-turn")
    [first] = sampler.generate([given], ["image"], seeds)
    [second] = sampler.generate([{**given, "image": [first["image"]]}], ["audio"], seeds)
    assert same(found, {**first, **second})


def test_a_chain_goes_by_way_of_a_text_unless_a_text_is_all_that_is_given(sampler):
    given, wanted = [{"audio": [SOUND], "text": ["a blue box"]}, {"text": ["a red ball"]}], ["image", "audio"]
    found = sampler.generate(given, wanted, [7, 8], method="chain", mix=None)
    [hub] = sampler.generate(given[:1], ["text"], [7])
    through = [{"text": [hub["text"]]}, given[1]]
    assert all(map(same, found, sampler.generate(through, wanted, [7, 8], context="none")))
    [both] = sampler.generate(given[:1], ["text", "image"], [7], method="chain")
    assert same(both, {"text": hub["text"], "image": found[0]["image"]})


def test_every_option_changes_what_a_method_that_takes_it_makes_and_no_other_takes_it(sampler):
    """Exhaustive: the table is what the code does, of as many outputs as it says."""
    given = [{"text": ["a red ball"], "audio": [SOUND]}]
    values = {
        "mix": {"text": 3.0},
        "guidance_scale": 3.0,
        "steps": 3,
        "solver": "heun",
        "context": "none",
        "merge": "concat",
    }
    for method, option in product(METHODS, values):
        least = TAKES[method].get(option)
        if least is None:
            with pytest.raises(CrossFlowError, match=f"The method {method} does not use {option}"):
                sampler.generate(given, ["image"], [0], method=method, **{option: values[option]})
        elif method in ("together", "in-turn") and least < 3:
            wanted = ["image", "audio"][:least]
            plain = sampler.generate(given, wanted, [0], method=method)[0]
            assert not same(plain, sampler.generate(given, wanted, [0], method=method, **{option: values[option]})[0])
    with pytest.raises(CrossFlowError, match="context changes nothing of fewer than 2 outputs"):
        check_used("together", 1, context="self")
    check_used("together", 2, context="self", merge=None)


def test_a_text_without_words_that_a_system_made_is_read(sampler):
    assert sampler.generate([{"text": [""]}], ["image"], [0])[0]["image"].shape == RAW["image"]


def test_weights_lean_on_an_input_and_are_shared_by_several_of_a_kind(sampler):
    both = {"text": ["a red ball"], "audio": [SOUND]}
    text = sampler.generate([{"text": both["text"]}], ["image"], [1])[0]
    assert same(text, sampler.generate([both], ["image"], [1], mix={"audio": 0.0})[0])
    assert not same(text, sampler.generate([both], ["image"], [1])[0])
    twice = {"text": ["a red ball"] * 2, "audio": [SOUND]}
    assert same(*(sampler.generate([item], ["image"], [1], mix={"text": 2.0})[0] for item in (both, twice)))


def test_inputs_of_one_kind_have_a_weight_each_in_their_order(sampler):
    several = [{"text": ["a red ball", "a blue box"]}]

    def made(given, **mix):
        return sampler.generate(given, ["image"], [1], mix=mix or None)[0]

    first, second = ([{"text": [text]}] for text in several[0]["text"])
    assert same(made(several, text=[2.0, 0.0]), made(first))
    assert same(made(several, text=[0.0, 2.0]), made(second))
    assert same(made(several, text=[3.0, 3.0]), made(several))
    assert not same(made(several, text=[3.0, 1.0]), made(several))


def test_settings_are_the_diffusers_own_unless_given(sampler):
    sampling, scales = sampler.settings(["image", "audio"])
    assert (sampling.solver, sampling.steps, scales) == ("euler", 2, {"image": 2.0, "audio": 2.0})
    sampling, scales = sampler.settings(["image"], guidance_scale=1.0, steps=5)
    assert (sampling.steps, scales) == (5, {"image": 1.0})


@pytest.mark.parametrize(
    "given, wanted, settings, says",
    [
        ({"smell": ["x"]}, ["image"], {}, "Unknown modality 'smell'"),
        ({"text": ["a ball"]}, ["smell"], {}, "Unknown modality 'smell'"),
        ({"text": ["a ball"]}, ["video"], {}, "not trained to make video in this way: it can make text, image, audio"),
        ({"text": ["a ball"]}, ["text", "image"], {}, "text was not aligned"),
        ({"text": ["a ball"]}, ["image", "image"], {}, "each once"),
        ({"text": ["a ball"]}, [], {}, "at least one"),
        ({"text": []}, ["image"], {}, "without any input"),
        ({"text": [3]}, ["image"], {}, "give words"),
        ({"text": "a ball"}, ["image"], {}, "text is one text, and a list is expected"),
        ({"image": [IMAGE[:16]]}, ["audio"], {}, r"uint8 \[16, 32, 3\], and this system reads uint8 \[32, 32, 3\]"),
        ({"audio": [SOUND * np.nan]}, ["image"], {}, "without NaN"),
        ({"audio": [SOUND + np.float32(np.inf)]}, ["image"], {}, "An input of audio has numbers that are infinite"),
        ({"text": ["a xyzzy"]}, ["image"], {}, "The word 'xyzzy' is not in this model's .* in other words: a, .*"),
        ({"text": ["a ball " * 3]}, ["image"], {}, "A caption has 6 words, and this model's have at most 4: shorten"),
        ({"text": ["a ball"]}, ["image", "audio"], {"guidance_scale": 1e308}, "numbers that are not finite"),
        ({"text": ["a ball"]}, ["image"], {"mix": {"text": 0.0}}, "weights of the prompts are 0"),
        ({"text": ["a ball"]}, ["image"], {"mix": {"text": -1.0}}, "weights of the prompts are -1"),
        ({"text": ["a ball"], "audio": [SOUND]}, ["image"], {"mix": {"text": 1e308, "audio": 1e308}}, "a finite sum"),
        ({"text": ["a ball"]}, ["image"], {"mix": {"audio": 1.0}}, "no audio among the inputs"),
        ({"text": ["a ball"]}, ["image"], {"mix": {"text": 2.0}}, "there is one kind: leave it out"),
        (
            {"text": ["a ball"] * 3},
            ["image"],
            {"mix": {"text": [1.0, 2.0]}},
            "text 2 weights, and the inputs of text are 3",
        ),
        ({"text": ["a ball"] * 2}, ["image"], {"mix": {"text": [1.0, -2.0]}}, "weights of the prompts are 1, -2"),
        ({"text": ["a ball"]}, ["image", "audio"], {"context": "self", "merge": "mean"}, "merge says how others are"),
        ({"text": ["a ball"]}, ["image"], {"context": "all"}, "Unknown context 'all'"),
        ({"text": ["a ball"]}, ["image"], {"method": "all"}, "Unknown method 'all'"),
        (
            {"text": ["a ball"]},
            ["image"],
            {"method": "anchor"},
            "no networks for the method anchor: give one of crossflow train codi-anchor, or choose another",
        ),
        ({"text": ["a ball"]}, ["image"], {"guidance_scale": math.nan}, "guidance_scale is nan"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(sampler, given, wanted, settings, says):
    with pytest.raises(CrossFlowError, match=says) as caught:
        sampler.generate([given], wanted, [0], **settings)
    assert str(caught.value).endswith(".")


def test_values_are_read_on_the_device_of_the_weights():
    system = tiny_system().to("meta")
    read = [system.read("text", ["a ball"]), system.latents("text", ["a ball"]), system.latents("image", [IMAGE])]
    assert {each.device.type for each in read} == {"meta"}


def test_seeds_are_one_an_item(sampler):
    with pytest.raises(CrossFlowError, match="1 items but 2 seeds"):
        sampler.generate([{"text": ["a ball"]}], ["image"], [0, 1])


@pytest.mark.parametrize("modality", WRITERS)
def test_the_first_file_of_a_value_is_read_back_as_it_was(tmp_path, modality):
    value = {"text": "a red ball", "image": IMAGE, "depth": np.exp(SOUND), "audio": SOUND, "video": FILM}[modality]
    suffix, write = next(iter(writers(modality).items()))
    (tmp_path / f"x{suffix}").write_bytes(write(value))
    shape = () if modality == "text" else value.shape
    assert np.array_equal(read_value(modality, str(tmp_path / f"x{suffix}"), shape), value)


def test_what_is_written_for_people_can_be_given_again_but_for_the_picture_of_a_depth_map(tmp_path):
    assert all(suffix in READERS[name] for name in WRITERS for suffix in writers(name))
    (tmp_path / "depth.png").write_bytes(WRITERS["depth"][".png"](np.exp(SOUND)))
    with pytest.raises(CrossFlowError, match="a colour-mapped picture of depth cannot be judged"):
        read_value("depth", str(tmp_path / "depth.png"), (32, 32))


def test_a_depth_map_in_16_bits_is_of_millimetres_and_has_no_holes(tmp_path):
    stored = NUMBERS.integers(1, 1 << 16, (32, 32), dtype=np.uint16)
    Image.fromarray(stored).save(tmp_path / "map.png")
    assert np.array_equal(read_value("depth", str(tmp_path / "map.png"), (32, 32)), (stored / 1000).astype(np.float32))
    stored[3, 4] = 0
    Image.fromarray(stored).save(tmp_path / "map.png")
    with pytest.raises(CrossFlowError, match="pixels without a distance above 0"):
        read_value("depth", str(tmp_path / "map.png"), (32, 32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A system and inputs in files."""
    folder = tmp_path_factory.mktemp("inputs")
    save_checkpoint(folder / "system.safetensors", tiny_system())
    write_wav(folder / "tone.wav", WAVE, rate=16_000)
    write_wav(folder / "silence.wav", 0 * WAVE, rate=16_000)
    (folder / "rate.wav").write_bytes(encode_wav(WAVE, rate=8_000))
    (folder / "scene.png").write_bytes(png(IMAGE))
    (folder / "small.png").write_bytes(png(IMAGE[:16, :16]))
    (folder / "film.gif").write_bytes(encode_gif(FILM))
    (folder / "still.gif").write_bytes(encode_gif(FILM[:1]))
    (folder / "broken.mp4").write_bytes(b"not a film")
    (folder / "large.png").write_bytes(png(np.tile(IMAGE, (2, 3, 1))))
    (folder / "wide.webp").write_bytes(encode_webp(np.tile(FILM, (1, 1, 2, 1))))
    (folder / "short.webp").write_bytes(encode_webp(FILM[:5]))
    np.save(folder / "sound.npy", SOUND)
    np.save(folder / "map.npy", np.full((50, 70), 7.0))
    np.save(folder / "behind.npy", np.full((32, 32), -1.0))
    (folder / "empty.txt").write_text(" \n")
    return folder


def run(folder, out, given, to, *more):
    options = [each for name in given for each in ("--from", name)]
    arguments = ["generate", "--ckpt", folder / "system.safetensors", "--to", to, "--out", out, *options, *more]
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_command_makes_files_of_files(folder, tmp_path, sampler):
    given = ["text=a red ball", f"audio={folder / 'tone.wav'}", f"video={folder / 'film.gif'}", "text=a blue box"]
    found = run(folder, tmp_path, given, "image,audio", "--mix", "text=2,audio=1", "--seed", 5)
    assert found.exit_code == 0, found.output
    files = sorted(each.name for each in tmp_path.iterdir() if not each.name.startswith("."))
    assert files == ["audio.npy", "audio.wav", "image.png", "outputs.jsonl"]
    item = {
        "text": ["a red ball", "a blue box"],
        "audio": [read_value("audio", str(folder / "tone.wav"), RAW["audio"])],
        "video": [read_video(folder / "film.gif", frames=8, size=32)],
    }
    [made] = sampler.generate([item], ["image", "audio"], [5], mix={"text": 2.0, "audio": 1.0})
    assert np.array_equal(np.load(tmp_path / "audio.npy"), made["audio"])
    assert np.array_equal(read_value("image", str(tmp_path / "image.png"), RAW["image"]), made["image"])
    assert read_wav(tmp_path / "audio.wav", rate=16_000, samples=16_000).shape == (16_000,)
    row = json.loads((tmp_path / "outputs.jsonl").read_text())
    assert (row["to"], row["seed"], row["from"][0]) == (["image", "audio"], 5, ["text", "a red ball"])
    assert [row[each] for each in ("mix", "steps", "context", "merge")] == ["text=2,audio=1", None, None, None]
    again = run(folder, tmp_path, given, "image,audio")
    assert again.exit_code == 2 and "is there already" in again.output


def test_without_a_checkpoint_the_shipped_system_is_taken(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "WEIGHTS", tmp_path)
    wanted = ["generate", "--from", "text=a red ball", "--to", "image,audio", "--out"]
    missing = CliRunner().invoke(app, [*wanted, str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert missing.stderr == f"Error: There is no file {shipped('any')}: give the path of a checkpoint.\n"
    save_checkpoint(shipped("any"), tiny_system(), half=True)
    found = CliRunner().invoke(app, [*wanted, str(tmp_path / "made")])
    assert (found.exit_code, found.stderr) == (0, "")
    row = json.loads((tmp_path / "made" / "outputs.jsonl").read_text())
    assert row["weights_sha256"] == file_sha256(shipped("any"))


def test_the_shipped_system_has_all_parts_in_16_megabytes():
    config = system_config(shipped("any"))
    assert all(getattr(config, part) == config.names for part in PARTS)
    assert read_header(shipped("any"))["stored"] == "float16"
    assert shipped("any").stat().st_size <= 16e6


def test_a_text_is_printed(folder, tmp_path):
    found = run(folder, tmp_path, [f"image={folder / 'scene.png'}"], "text")
    assert found.exit_code == 0, found.output
    assert found.stdout.rstrip("\n") == (tmp_path / "text.txt").read_text().rstrip("\n")


@pytest.mark.parametrize(
    "given, to, more, says",
    [
        ("smell=x", "image", (), "Unknown modality 'smell'"),
        ("text=a ball", "video", (), "was not trained to make video"),
        ("a ball", "image", (), "--from got 'a ball'"),
        ("text=a ball", "image", ("--mix", "text=0"), "weights of the prompts are 0"),
        ("text=a ball", "image", ("--mix", "text=much"), "give a number"),
        (
            "text=a ball",
            "image",
            ("--mix", "text=1,text=2"),
            "The mix gives text 2 weights, and the inputs of text are 1",
        ),
        ("text=a ball", "image", ("--mix", "audio=1"), "no audio among the inputs"),
        ("audio={}/rate.wav", "image", (), "8,000 samples a second"),
        ("audio={}/silence.wav", "image", (), "it is silent"),
        ("audio={}/scene.png", "image", (), "Unknown kind of file for audio '.png'. Available: .wav, .npy."),
        ("audio={}/nothing.wav", "image", (), "There is no file or folder"),
        ("video={}/still.gif", "image", (), "is not used"),
        ("video={}/broken.mp4", "image", (), "no whole MP4"),
        ("video={}/short.webp", "image", (), "it has 5 frames; give 8 frames, made of any film by `ffmpeg"),
        ("text={}/empty.txt", "image", (), "holds no text"),
        ("text=a ball", "image", ("--mix", "text=nan"), "weights of the prompts are nan"),
        ("text=a ball", "image", ("--mix", "text=-1"), "weights of the prompts are -1"),
        ("text=a ball", "image", ("--context", "self"), "context changes nothing of fewer than 2 outputs"),
        ("text=a ball", "image,audio", ("--merge", "concat"), "merge changes nothing of fewer than 3 outputs"),
        ("text=a ball", "image,audio", ("--method", "anchor", "--context", "self"), "anchor does not use context"),
        ("text=a ball", "image", ("--method", "direct", "--mix", "text=1"), "direct does not use mix"),
        ("text=a ball", "image", ("--method", "anchor", "--guidance-scale", "2"), "does not use guidance_scale"),
        ("text={}/nothing.txt", "image", (), "There is no file or folder"),
    ],
)
def test_the_command_refuses_in_a_sentence_and_leaves_nothing(folder, tmp_path, given, to, more, says):
    found = run(folder, tmp_path / "out", [given.format(folder)], to, *more)
    told = re.sub(r"\s+", " ", found.stderr)
    assert found.exit_code == 2 and says in told and told.startswith("Error: ") and "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_images_depth_maps_and_films_of_any_size_are_read_by_a_rule_that_the_row_names(folder, tmp_path):
    shapes = {"image": RAW["image"], "depth": (32, 32), "video": RAW["video"]}
    for name in ("large.png", "small.png", "map.npy", "wide.webp"):
        modality = {"png": "image", "npy": "depth", "webp": "video"}[name.partition(".")[2]]
        assert read_value(modality, str(folder / name), shapes[modality]).shape == shapes[modality]
    middle = read_value("video", str(folder / "wide.webp"), RAW["video"])
    assert np.array_equal(middle, np.tile(FILM, (1, 1, 2, 1))[:, :, 16:48])
    with pytest.raises(CrossFlowError, match="pixels without a distance above 0"):
        read_value("depth", str(folder / "behind.npy"), (32, 32))
    found = run(folder, tmp_path / "out", [f"image={folder / 'large.png'}"], "audio")
    assert found.exit_code == 0, found.output
    row = json.loads((tmp_path / "out" / "outputs.jsonl").read_text())
    assert row["sizes"] == {"image": SIZES["image"]} and row["method"] == "together"


def test_a_system_is_described_and_refused_where_one_model_is_expected(folder, tmp_path):
    system = str(folder / "system.safetensors")
    found = CliRunner().invoke(app, ["info", system])
    assert found.exit_code == 0 and json.loads(found.stdout)["config"]["kind"] == "any-to-any"
    found = CliRunner().invoke(app, ["sample", "--ckpt", system, "--prompt", "a ball", "--out", str(tmp_path / "out")])
    assert found.exit_code == 2 and "give it to crossflow generate" in re.sub(r"\s+", " ", found.stderr)


def test_an_input_without_weight_contradicts_nothing(folder, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(AnyToAnySampler, "agreement", lambda _, item: heard.append(list(item)) or 0.2)
    given = ["text=a red ball", f"audio={folder / 'tone.wav'}"]
    found = [run(folder, tmp_path / mix, given, "image", "--mix", mix) for mix in ("audio=0", "audio=1")]
    run(folder, tmp_path / "each", [*given, "text=a blue box"], "image", "--mix", "text=1,text=0,audio=0")
    assert heard == [["text"], ["text", "audio"], ["text"]]
    assert "contradict each other" in re.sub(r"\s+", " ", found[1].stderr)


def test_what_cannot_be_written_of_one_output_leaves_none(folder, tmp_path, monkeypatch):
    def refuse(mel):
        raise CrossFlowError("No sound can be made of this.")

    monkeypatch.setattr("crossflow.sampling.media.wave_of", refuse)
    found = run(folder, tmp_path, ["text=a red ball"], "image,audio")
    assert found.exit_code == 2 and "No sound can be made" in found.stderr
    assert not list(tmp_path.iterdir())


def test_a_machine_without_torchaudio_is_told_so(tmp_path, folder, monkeypatch):
    for made in (mel._mel, mel._griffin_lim):
        made.cache_clear()
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    found = run(folder, tmp_path / "out", [f"audio={folder / 'tone.wav'}"], "image")
    assert found.exit_code == 2 and "Sounds need torchaudio" in re.sub(r"\s+", " ", found.stderr)
