"""However it is stopped, resumed and divided, a cache ends as the same bytes, and they are what its parts computed."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.locks import only_writer
from crossflow.modalities.kl_autoencoder import center_crop
from crossflow.modalities.modality import TextEmbedder
from crossflow.training.data import cache as engine
from crossflow.training.data import shards
from crossflow.training.data.cache import CHUNK, Moments, cache
from crossflow.training.data.shards import Shards

RECIPE = {"embedder": "letters", "autoencoder": "blocks", "sha256": "0" * 64}
NAMES = [f"{number % 7}/{number:03d}.png" for number in range(50)]


class Letters:
    """Embeds a letter as its code. Its last bits are those of the batch's size, as a real model's may be."""

    width = 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def embed(self, prompts, count):
        self.batches.append(len(prompts))
        tokens, mask = torch.zeros(len(prompts), count, 2), torch.zeros(len(prompts), count, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            codes = torch.tensor([float(ord(letter)) for letter in prompt[:count]])
            tokens[row, : len(codes), 0] = codes
            mask[row, : len(codes)] = True
        tokens[..., 1] = len(prompts)
        return tokens, mask

    def lengths(self, prompts):
        return [len(prompt) for prompt in prompts]


class Blocks:
    """Means over 8 x 8 pixels as the mean, the batch's size as the log-variance."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def moments(self, images):
        self.batches.append(len(images))
        b, side = len(images), images.shape[1] // 8
        mean = images.double().reshape(b, side, 8, side, 8, 3).mean((2, 4)).permute(0, 3, 1, 2).float()
        return torch.cat([mean, torch.full_like(mean, b)], dim=1)


class Stopped(Exception):
    """A kill."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """50 images, the even ones with two captions, and their captions file in no order."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows = []
    for number, name in enumerate(NAMES):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shape = (20 + number, 30, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / "images" / name)
        rows.extend({"image": name, "caption": f"{name} {kind}"} for kind in ("one", "two")[: 2 - number % 2])
    rng.shuffle(rows)
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(data, out, **options):
    embedder, autoencoder = options.pop("parts", (Letters(), Blocks()))
    settings = {"size": 16, "token_count": 12, "per_shard": 20, "recipe": RECIPE} | options
    return cache(data / "images", data / "captions.jsonl", out, embedder, autoencoder, **settings)


def content(folder) -> dict[str, str]:
    return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in folder.glob("[!.]*")}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The cache, made in one go: 75 pairs in four shards."""
    return run(data, tmp_path_factory.mktemp("whole") / "cache")


def expected_pairs(data):
    rows = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    return sorted(((row["image"], row["caption"]) for row in rows), key=lambda row: row[0])


def refused(data, out, **options) -> str:
    with pytest.raises(CrossFlowError) as caught:
        run(data, out, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_the_items_are_what_the_parts_compute(data, whole):
    assert isinstance(Letters(), TextEmbedder)
    assert isinstance(Blocks(), Moments)
    source = Shards(whole)
    pairs = expected_pairs(data)
    assert len(source) == len(pairs) == 75
    assert [entry.count for entry in source.index.shards] == [20, 20, 20, 15]
    assert source.recipe == RECIPE | {"size": 16, "token_count": 12, "tokens_dtype": "float32", "keep_images": False}
    for index, (image, caption) in enumerate(pairs):
        item = source.item(index)
        with Image.open(data / "images" / image) as opened:
            pixels = torch.from_numpy(np.array(center_crop(opened, 16)))
        mean = pixels.double().reshape(2, 8, 2, 8, 3).mean((1, 3)).permute(2, 0, 1).float()
        assert torch.equal(item.moments[:3], mean)
        assert item.caption == caption
        assert item.tokens[:, 0].tolist() == [float(ord(letter)) for letter in caption[:12]]
        assert item.mask.all()
        assert item.image is None


def test_everything_is_computed_in_batches_of_one_size_and_each_image_of_a_shard_once(data, tmp_path):
    embedder, autoencoder = Letters(), Blocks()
    run(data, tmp_path / "cache", per_shard=75, parts=(embedder, autoencoder))
    assert embedder.batches == [CHUNK] * 5  # 75 captions
    assert autoencoder.batches == [CHUNK] * 4  # 50 images


def test_two_processes_in_any_order_are_one(data, whole, tmp_path):
    lines = []
    for first, second in ((0, 1), (1, 0)):
        out = tmp_path / f"{first}"
        run(data, out, process_index=first, process_count=2, progress=lines.append)
        assert not (out / "index.json").exists()
        assert lines[-1] == "2 of 4 shards are left to other processes"
        run(data, out, process_index=second, process_count=2)
        assert content(out) == content(whole)


@pytest.mark.parametrize("calls", [0, 1, 2, 5, 6])
def test_killed_anywhere_and_called_again(data, whole, tmp_path, monkeypatch, calls):
    """A kill while computing, and one while a shard is written, which leaves a part of it."""

    class Killed(Letters):
        def embed(self, prompts, count):
            if len(self.batches) == calls:
                raise Stopped
            return super().embed(prompts, count)

    out = tmp_path / "cache"
    with pytest.raises(Stopped):
        run(data, out, parts=(Killed(), Blocks()))
    kept = content(out) if out.exists() else {}
    assert kept.items() <= content(whole).items()
    assert len(kept) == calls // 2  # two chunks a shard

    def killed(path, *_: object) -> None:
        path.parent.mkdir(exist_ok=True)
        path.with_name(f".{path.name}.tmp").write_bytes(b"a part")
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_tensors", killed)
        with pytest.raises(Stopped):
            run(data, out)
    embedder = Letters()
    run(data, out, parts=(embedder, Blocks()))
    assert content(out) == content(whole)
    assert len(embedder.batches) == 7 - calls // 2 * 2


def test_a_finished_cache_is_left_as_it_is(data, whole):
    before = {each.name: each.stat().st_mtime_ns for each in whole.glob("shard-*")}
    embedder, autoencoder = Letters(), Blocks()
    assert run(data, whole, parts=(embedder, autoencoder)) == whole
    assert embedder.batches == autoencoder.batches == []
    assert {each.name: each.stat().st_mtime_ns for each in whole.glob("shard-*")} == before


def test_damaged_shards_are_made_again(data, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "cache")
    first, second, third = (out / f"shard-0000{number}.safetensors" for number in range(3))
    first.write_bytes(first.read_bytes()[:-100])
    altered = bytearray(second.read_bytes())
    altered[-40] ^= 1
    second.write_bytes(altered)
    third.unlink()
    (out / "index.json").unlink()
    embedder = Letters()
    run(data, out, parts=(embedder, Blocks()))
    assert content(out) == content(whole)
    assert len(embedder.batches) == 6


@pytest.mark.parametrize(
    "options",
    [{"size": 24}, {"token_count": 11}, {"per_shard": 19}, {"recipe": {"embedder": "other"}},
     {"keep_images": True}, {"tokens_dtype": "float16"}],
    ids=str,
)  # fmt: skip
def test_other_shards_are_never_overwritten(data, whole, options):
    before = content(whole)
    assert "is of other images, captions or settings" in refused(data, whole, **options)
    assert content(whole) == before


def test_other_captions_are_other_shards(data, whole, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    lines = (copy / "captions.jsonl").read_text().splitlines(keepends=True)
    (copy / "captions.jsonl").write_text("".join(lines[:-1]))
    assert "is of other images" in refused(copy, whole)


def test_images_and_half_precision_are_kept_on_request(data, tmp_path):
    source = Shards(run(data, tmp_path / "cache", keep_images=True, tokens_dtype="float16"))
    assert source.recipe["keep_images"] is True
    assert source.recipe["tokens_dtype"] == "float16"
    for index, (image, _) in list(enumerate(expected_pairs(data)))[::9]:
        item = source.item(index)
        assert item.tokens.dtype == torch.float16
        with Image.open(data / "images" / image) as opened:
            np.testing.assert_array_equal(item.image.numpy(), center_crop(opened, 16))


class Colours:
    """In place of a frozen network: the mean of every channel."""

    def features(self, images):
        return images.float().mean((1, 2))


def test_image_features_are_kept_on_request(data, tmp_path):
    shards = Shards(run(data, tmp_path / "cache", keep_images=True, image_tower=Colours()))
    assert shards.recipe["image_features"]
    for index in range(len(shards)):
        item = shards.item(index)
        assert torch.allclose(item.image_features, item.image.float().mean((0, 1)))


@pytest.fixture
def spoilt(data, tmp_path):
    """The images with three that cannot be read: one empty, one cut short, one no image."""
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "images" / NAMES[0]).write_bytes(b"")
    path = copy / "images" / NAMES[14]
    path.write_bytes(path.read_bytes()[:-60])
    (copy / "images" / NAMES[20]).write_text("a cat")
    return copy


def test_an_image_that_cannot_be_read_is_named(spoilt, tmp_path):
    message = refused(spoilt, tmp_path / "cache")
    assert f"{spoilt / 'images' / NAMES[0]} cannot be read (zero bytes)" in message
    assert message.endswith("or leave out such images by --skip-bad.")
    assert not content(tmp_path / "cache")


def test_or_left_out_on_request_and_recorded(spoilt, whole, tmp_path):
    said: list[str] = []
    source = Shards(run(spoilt, tmp_path / "cache", skip_bad=True, progress=said.append))
    assert any(f"images that cannot be read ({NAMES[0]}" in line for line in said)
    bad = {NAMES[0], NAMES[14], NAMES[20]}
    assert set(source.index.skipped) == bad
    kept = [pair for pair in expected_pairs(spoilt) if pair[0] not in bad]
    assert [source.item(index).caption for index in range(len(source))] == [caption for _, caption in kept]
    parts = [run(spoilt, tmp_path / "two", skip_bad=True, process_index=index, process_count=2) for index in (1, 0)]
    assert content(parts[0]) == content(tmp_path / "cache")


def test_a_shard_of_bad_images_alone(spoilt, tmp_path):
    for name in NAMES[::7]:
        (spoilt / "images" / name).write_bytes(b"")
    source = Shards(run(spoilt, tmp_path / "cache", skip_bad=True, per_shard=5))
    assert 0 in [entry.count for entry in source.index.shards]
    kept = [pair for pair in expected_pairs(spoilt) if pair[0] not in source.index.skipped]
    assert [source.item(index).caption for index in range(len(source))] == [caption for _, caption in kept]


def test_numbers_that_are_not_finite_are_refused(data, tmp_path):
    class Broken(Letters):
        def embed(self, prompts, count):
            tokens, mask = super().embed(prompts, count)
            return tokens * 1e4, mask

    assert "numbers that are not finite" in refused(
        data, tmp_path / "cache", parts=(Broken(), Blocks()), tokens_dtype="float16"
    )


@pytest.mark.parametrize("options", [{"per_shard": 0}, {"process_index": 2, "process_count": 2}, {"process_index": -1}])
def test_settings_that_cannot_be(data, tmp_path, options):
    assert "There cannot be" in refused(data, tmp_path / "cache", **options)


def test_each_shard_is_reported(data, tmp_path):
    lines = []
    run(data, tmp_path / "cache", progress=lines.append)
    assert lines == [f"shard {number} of 4: {count} pairs" for number, count in ((1, 20), (2, 20), (3, 20), (4, 15))]


def test_captions_beside_the_images(data, tmp_path):
    copy = shutil.copytree(data / "images", tmp_path / "images")
    for image, caption in expected_pairs(data):
        with (copy / image).with_suffix(".txt").open("a") as file:
            file.write(caption + "\n")
    out = engine.cache(copy, None, tmp_path / "cache", Letters(), Blocks(), recipe=RECIPE, size=16, token_count=4)
    source = Shards(out)
    assert [source.item(index).caption for index in range(75)] == [caption for _, caption in expected_pairs(data)]


def test_an_index_of_something_else_is_kept_and_two_never_encode_at_once(data, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "index.json").write_text('{"mine": 1}')
    assert "index.json is damaged" in refused(data, out)
    assert content(out).keys() == {"index.json"}
    assert (out / "index.json").read_text() == '{"mine": 1}'
    with only_writer(out, "encoding"):
        assert "Another process is encoding in" in refused(data, out)
