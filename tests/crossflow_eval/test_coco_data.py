"""Prompts drawn of COCO, the lists of T2IBenchmark and MJHQ-30K, reference images, and what is refused of them."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval.datasets import coco as coco_data
from crossflow_eval.datasets.coco import (
    any_captions,
    central_square,
    mjhq_images,
    mjhq_prompts,
    one_caption_an_image,
    read_photograph,
    read_val2014,
    t2ibenchmark_captions,
    val2014_images,
)

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"


def write_annotations(root: Path, images: int, seed: int = 0) -> Path:
    """COCO's annotations of ``images`` images, five captions each but the first (none) and the second (seven)."""
    files = [{"id": 7 * k, "file_name": f"COCO_val2014_{7 * k:012d}.jpg"} for k in range(images)]
    counts = [0, 7, *[5] * (images - 2)]
    captions = [
        {"image_id": 7 * k, "id": 100 * k + c, "caption": f"caption {c} of {k}\n"}
        for k, count in enumerate(counts)
        for c in range(count)
    ]
    for part in (files, captions):
        random.Random(seed).shuffle(part)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    path = root / coco_data.ANNOTATIONS
    path.write_text(json.dumps({"images": files, "annotations": captions, "info": {}}))
    return path


@pytest.fixture
def root(tmp_path):
    write_annotations(tmp_path, 60)
    return tmp_path


def test_one_caption_an_image_draws_each_image_once_with_a_caption_of_its_own(root):
    examples = one_caption_an_image(root, 59)
    numbers = [int(example.id) // 7 for example in examples]
    assert sorted(numbers) == list(range(1, 60)), "all but the image without captions"
    assert numbers != sorted(numbers), "the first examples are a random part"
    chosen = [int(example.tags["caption"]) % 100 for example in examples]
    for number, caption, example in zip(numbers, chosen, examples, strict=True):
        assert example.source == f"caption {caption} of {number}\n", "as it stands in the file"
    assert set(chosen) >= set(range(5))


def test_what_is_drawn_for_validation_is_drawn_after_what_is_reported(root):
    whole = one_caption_an_image(root, 40)
    assert one_caption_an_image(root, 15, after=25) == whole[25:]


def test_any_captions_draws_captions_and_so_an_image_more_than_once(root):
    examples = any_captions(root, 100)
    assert len({example.id for example in examples}) == 100
    assert len({example.tags["image"] for example in examples}) < 60
    assert {int(example.id) // 100 * 7 for example in examples} == {int(e.tags["image"]) for e in examples}


@pytest.mark.parametrize("draw", [one_caption_an_image, any_captions])
def test_a_draw_is_the_same_whatever_the_file_s_order_and_the_beginning_of_a_larger_one(root, draw, monkeypatch):
    before = draw(root, 50)
    write_annotations(root, 60, seed=1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert draw(root, 50) == before
    assert draw(root, 20) == before[:20]


def test_the_draw_is_by_sha256_of_seed_and_id_and_nothing_else(root):
    """Restated, so that no later version draws other prompts under the same name."""

    def lot(what: str, number: int) -> int:
        return int(hashlib.sha256(f"1234\0{what}\0{number}".encode()).hexdigest()[:16], 16)

    images = sorted((7 * k for k in range(1, 60)), key=lambda number: lot("place", number))
    examples = one_caption_an_image(root, 59)
    assert [int(example.id) for example in examples] == images
    counts = [7 if image == 7 else 5 for image in images]
    chosen = [lot("caption", image) % count for image, count in zip(images, counts, strict=True)]
    assert [int(example.tags["caption"]) % 100 for example in examples] == chosen


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared data are not beside this checkout")
def test_coco_s_own_files_are_read(tmp_path):
    """The captions of val2017, which are those of val2014 of 5,000 images; every caption is somebody's own."""
    (tmp_path / "annotations").mkdir()
    shutil.copy(REAL / "coco" / "captions_val2017.json", tmp_path / coco_data.ANNOTATIONS)
    images = {str(image.id): image for image in read_val2014(tmp_path)}
    assert (len(images), sum(len(image.captions) for image in images.values())) == (5000, 25_014)
    examples = one_caption_an_image(tmp_path, 5000)
    assert all(example.source in dict(images[example.id].captions).values() for example in examples)
    shutil.copytree(REAL / "coco_mini" / "val2017", tmp_path / "val2014")
    with pytest.raises(CrossFlowError, match=r"4976 of 5000 images are missing in .*val2014: .*; unpack val2014\.zip"):
        val2014_images(tmp_path)
    photographs = sorted((tmp_path / "val2014").iterdir())
    assert all(central_square(read_photograph(path), 256, Image.Resampling.LANCZOS).shape == (256, 256, 3)
               for path in photographs)  # fmt: skip


def test_t2ibenchmark_s_list_is_read_in_its_order(tmp_path):
    (tmp_path / coco_data.CAPTIONS_CSV).write_text('image_id,id,text\n42,1,"A cat, and\na dog."\n7,2,Ein Bär\n')
    examples = t2ibenchmark_captions(tmp_path, 2)
    assert [(example.id, example.source) for example in examples] == [("42", "A cat, and\na dog."), ("7", "Ein Bär")]


def write_mjhq(root: Path) -> None:
    meta = {f"{k:040x}": {"category": "food" if k % 2 else "art", "prompt": f"prompt {k}"} for k in range(4)}
    (root / coco_data.MJHQ_PROMPTS).write_text(json.dumps(meta))
    for name, each in meta.items():
        place = root / coco_data.MJHQ_IMAGES / each["category"]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (len(name), 2, 3)).save(place / f"{name}.jpg")


def test_mjhq_is_read_with_its_categories(tmp_path):
    write_mjhq(tmp_path)
    examples = mjhq_prompts(tmp_path, 4)
    assert [example.source for example in examples] == [f"prompt {k}" for k in range(4)]
    assert [example.tags["category"] for example in examples] == ["art", "food", "art", "food"]
    assert [path.parent.name for path in mjhq_images(tmp_path)] == ["art", "food", "art", "food"]
    mjhq_images(tmp_path)[1].unlink()
    with pytest.raises(
        CrossFlowError, match=r"1 of 4 images are missing in .*: 0000.*1\.jpg; unpack mjhq30k_imgs\.zip"
    ):
        mjhq_images(tmp_path)


def broken(root: Path, name: str, content: str | None) -> None:
    path = root / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


@pytest.mark.parametrize(
    ("name", "content", "draw", "message"),
    [
        (coco_data.ANNOTATIONS, None, any_captions, "captions_val2014.json: No such file.*; unpack annotations_train"),
        (coco_data.ANNOTATIONS, "{", any_captions, "is not JSON"),
        (coco_data.ANNOTATIONS, "[]", any_captions, "is not a COCO captions file"),
        (coco_data.ANNOTATIONS, '{"images": [], "annotations": [{"image_id": 1, "id": 2, "caption": "x"}]}',
         any_captions, r"is not a COCO captions file \(KeyError\(1\)\)"),
        (coco_data.ANNOTATIONS, '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}',
         one_caption_an_image, "holds 0 images with captions, 3 are to be drawn"),
        (coco_data.ANNOTATIONS, '{"images": [], "annotations": []}', any_captions, "holds 0 captions, 3 are to be"),
        (coco_data.CAPTIONS_CSV, None, t2ibenchmark_captions, "30k_captions.csv: No such file.*release v0.0.1"),
        (coco_data.CAPTIONS_CSV, "id,caption\n1,x\n", t2ibenchmark_captions, "does not hold image_id and text"),
        (coco_data.CAPTIONS_CSV, "image_id,text\nx,y\n", t2ibenchmark_captions, "does not hold image_id and text"),
        (coco_data.CAPTIONS_CSV, "image_id,text\n1,x\n", t2ibenchmark_captions, "holds 1 prompts, expected 3"),
        (coco_data.MJHQ_PROMPTS, '{"a": {"prompt": "x"}}', mjhq_prompts, "is not MJHQ-30K's"),
        (coco_data.MJHQ_PROMPTS, "[1]", mjhq_prompts, "is not MJHQ-30K's"),
        (coco_data.MJHQ_PROMPTS, '{"a": {"prompt": "x", "category": "y"}}', mjhq_prompts, "holds 1 prompts, expected"),
    ],
)  # fmt: skip
def test_bad_lists_are_one_sentence_with_a_remedy(tmp_path, name, content, draw, message):
    broken(tmp_path, name, content)
    with pytest.raises(CrossFlowError, match=message):
        draw(tmp_path, 3)


@pytest.mark.parametrize("size", [(640, 480), (481, 640), (300, 300), (255, 100)])
def test_the_central_square_is_u_vit_s(size):
    """Oracle: Pillow's own crop and Lanczos of the picture; U-ViT cuts at floor((long - short) / 2)."""
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    short = min(size)
    left, top = (width - short) // 2, (height - short) // 2
    cropped = Image.fromarray(pixels).crop((left, top, left + short, top + short))
    expected = np.asarray(cropped.resize((256, 256), Image.Resampling.LANCZOS))
    assert np.array_equal(central_square(pixels, 256, Image.Resampling.LANCZOS), expected)


def test_a_square_of_the_right_size_is_left_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    assert np.array_equal(central_square(pixels, 256, Image.Resampling.BICUBIC), pixels)


def test_photographs_of_other_colours_become_rgb_and_damaged_ones_are_named(tmp_path):
    Image.new("L", (5, 4), 77).save(tmp_path / "grey.jpg")
    Image.new("CMYK", (5, 4), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    assert (read_photograph(tmp_path / "grey.jpg") == 77).all()
    assert read_photograph(tmp_path / "print.jpg").shape == (4, 5, 3)
    content = (tmp_path / "grey.jpg").read_bytes()
    for damaged in (b"", b"no image", content[:-30]):
        (tmp_path / "bad.jpg").write_bytes(damaged)
        with pytest.raises(CrossFlowError, match=r"Cannot read the image .*bad\.jpg"):
            read_photograph(tmp_path / "bad.jpg")
