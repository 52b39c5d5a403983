"""Images are read exactly or refused by name; captions and images must match, and what does not is counted."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval.datasets.folder import (
    UnreadableImage,
    decode_image,
    image_key,
    match,
    read_captions,
    read_folder,
    read_image,
)
from crossflow_eval.datasets.references import read_references

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, size=(9, 13, 3), dtype=np.uint8)


def encoded(pixels, kind="PNG", mode=None, **options) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels, mode=None)
    (image.convert(mode) if mode else image).save(stream, format=kind, **options)
    return stream.getvalue()


def with_alpha(value: int) -> np.ndarray:
    return np.dstack([PHOTO, np.full(PHOTO.shape[:2], value, np.uint8)])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(PHOTO), PHOTO),
        (encoded(PHOTO, "WEBP", lossless=True), PHOTO),
        (encoded(PHOTO[..., 0]), np.repeat(PHOTO[..., :1], 3, axis=2)),
        (encoded(PHOTO[..., 0] > 99), np.repeat((PHOTO[..., :1] > 99) * np.uint8(255), 3, axis=2)),
        (encoded(with_alpha(255)), PHOTO),
        (encoded(Image.fromarray(PHOTO).quantize(16)), np.asarray(Image.fromarray(PHOTO).quantize(16).convert("RGB"))),
    ],
    ids=["png", "webp", "grey", "bilevel", "opaque alpha", "palette"],
)
def test_what_can_be_converted_exactly_is(content, expected):
    image, _ = decode_image(content)
    assert image.dtype == np.uint8
    assert np.array_equal(image, expected)


def test_a_jpeg_is_what_pillow_decodes():
    """Oracle: Pillow, whose decoder every published FID implementation uses."""
    content = encoded(PHOTO, "JPEG", quality=90)
    image, kind = decode_image(content)
    assert kind == "JPEG"
    assert np.array_equal(image, np.asarray(Image.open(io.BytesIO(content))))


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(PHOTO, "JPEG", exif=exif))[0].shape == PHOTO.shape


def deep_png() -> bytes:
    """A 16-bit RGB PNG, which Pillow can read (by rounding) but not write."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes(range(12)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes"),
        (b"not an image", "not a BMP, JPEG, PNG, PPM or WEBP file"),
        (encoded(PHOTO, "TIFF"), "not a BMP, JPEG, PNG, PPM or WEBP file"),
        (encoded(PHOTO)[:-30], "truncated"),
        (encoded(PHOTO)[:40], None),
        (encoded(np.kron(PHOTO, np.ones((9, 9, 1), np.uint8)), "JPEG")[:-500], "truncated"),
        (encoded(PHOTO, "WEBP", lossless=True)[:-20], None),
        (encoded(with_alpha(254)), "transparent pixels"),
        (encoded(Image.fromarray(PHOTO).quantize(16), transparency=0), "transparent pixels"),
        (encoded(PHOTO, "JPEG", mode="CMYK"), "colour mode CMYK"),
        (encoded(PHOTO[..., 0].astype(np.uint16)), "16 bits a channel"),
        (deep_png(), "16 bits a channel"),
        (animated("PNG"), "2 frames"),
        (animated("WEBP"), "2 frames"),
    ],
)
def test_what_cannot_be_read_exactly_is_refused(content, reason):
    with pytest.raises(UnreadableImage, match=reason):
        decode_image(content)


def test_every_truncation_of_an_image_is_noticed():
    """Exhaustive over the cut: no prefix of a file passes for the image."""
    for kind in ("PNG", "JPEG", "WEBP"):
        content = encoded(PHOTO, kind)
        for length in range(len(content)):
            with pytest.raises(UnreadableImage):
                decode_image(content[:length])


def folder_of(place: Path, **images: bytes) -> Path:
    place.mkdir(exist_ok=True)
    for name, content in images.items():
        (place / name.replace("_", ".")).write_bytes(content)
    return place


def test_a_folder_holds_its_images_by_stem(tmp_path):
    folder = folder_of(tmp_path / "f", b_jpg=encoded(PHOTO, "JPEG"), a_PNG=encoded(PHOTO), notes_txt=b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "more").mkdir()
    found = read_folder(folder)
    assert dict(found.formats) == {"a": "PNG", "b": "JPEG"}
    assert np.array_equal(read_image(found.files["a"]), PHOTO)


def test_the_content_hash_sees_names_and_bytes_and_not_places(tmp_path):
    content, other = encoded(PHOTO), encoded(255 - PHOTO)
    first = read_folder(folder_of(tmp_path / "1", a_png=content, b_png=other)).sha256
    assert read_folder(folder_of(tmp_path / "2", b_png=other, a_png=content)).sha256 == first
    assert read_folder(folder_of(tmp_path / "3", a_png=other, b_png=content)).sha256 != first


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "holds no image"),
        ({"a_png": encoded(PHOTO), "a_jpg": encoded(PHOTO, "JPEG")}, r"2 images .* share .*\(a.jpg, a.png\)"),
        (
            {"a_png": encoded(PHOTO), "b_png": b"", "c_png": b"x"},
            r"2 of 3 images .*: b.png \(zero bytes\), c.png \(not",
        ),
        ({"a_png": encoded(PHOTO), "b_tiff": b"x"}, r"1 images .* kind that is not read \(b.tiff\)"),
    ],
)
def test_a_bad_folder_is_counted_and_named(tmp_path, images, message):
    with pytest.raises(CrossFlowError, match=message):
        read_folder(folder_of(tmp_path / "f", **images))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(CrossFlowError, match="There is no folder"):
        read_folder(tmp_path / "none")


COCO = {
    "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 3, "file_name": "000003.jpg"}],
    "annotations": [
        {"image_id": 3, "id": 1, "caption": "Three. "},
        {"image_id": 7, "id": 0, "caption": "Seven."},
        {"image_id": 3, "id": 2, "caption": "Also three."},
    ],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", "image,caption\nsub/000003.jpg,Three.\n000007.png,Seven.\n000003.jpg,Also three.\n"),
        ("c.csv", '\ufeffid,other,caption\r\n000003,x,Three.\r\n000007,,"Seven."\r\n000003,,Also three.\r\n'),
        (
            "c.jsonl",
            '{"file": "000003.webp", "caption": "Three."}\n\n{"file": "000007", "caption": "Seven."}\n'
            '{"image": "000003", "caption": "Also three."}',
        ),
        ("c.json", json.dumps(COCO)),
    ],
    ids=["csv", "csv with mark and other columns", "jsonl", "coco"],
)
def test_captions_keep_the_order_of_the_file_and_the_first_one_is_first(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    captions = read_captions(tmp_path / name)
    assert dict(captions.of) == {"000003": ("Three.", "Also three."), "000007": ("Seven.",)}
    assert list(captions.of) == ["000003", "000007"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.md", b"x", "must end in"),
        ("c.csv", b"", "columns"),
        ("c.csv", b"image,caption\n", "holds no captions"),
        ("c.csv", b"image,words\na,b\n", "expected 'caption' and exactly one of image, file, id"),
        ("c.csv", b"image,id,caption\na,b,c\n", "exactly one"),
        ("c.csv", b"image,caption\na,b\nc\n", "line 3: expected one image and one caption"),
        ("c.csv", b"image,caption\na,b,c\n", "line 2: expected one image and one caption"),
        ("c.csv", b"image,caption\na, \n", "line 2: expected one image and one caption"),
        ("c.csv", b"image,caption\na,\xff\n", "not UTF-8"),
        ("c.jsonl", b'{"image": "a", "caption": "b"}\n{"image": "a"', "line 2: it is not JSON"),
        ("c.jsonl", b'["a"]', "line 1: expected an object"),
        ("c.jsonl", b'{"image": null, "caption": "b"}', "line 1: expected one image"),
        ("c.csv", b"image,image,caption\na,b,c\n", "exactly one"),
        ("c.csv", b"image,caption,prompt\na,b,c\n", "exactly one"),
        ("c.csv", "image,caption\na,b\n".encode("utf-16"), "it is UTF-16.*save it as UTF-8"),
        ("c.json", b"[]", "not a COCO captions file"),
        ("c.json", b'{"a": 1}\n{"a": 2}\n', "call it .jsonl"),
        (
            "c.json",
            b'{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
            "calls two images 1, a and b",
        ),
        ("c.json", b'{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "not a COCO captions file"),
    ],
)
def test_a_bad_captions_file_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CrossFlowError, match=message):
        read_captions(tmp_path / name)


def test_keys_lose_folders_and_image_suffixes_only():
    names = ("x/a.PNG", "v1.5", "a.b.jpeg", " a ", "x\\a.png", "C:\\x\\a.png", "x\\y/a.b")
    assert [image_key(name) for name in names] == ["a", "v1.5", "a.b", "a", "a", "a", "a.b"]


def test_images_and_captions_must_match_both_ways(tmp_path):
    images = read_folder(folder_of(tmp_path / "f", a_png=encoded(PHOTO), b_png=encoded(PHOTO)))

    def pair(*ids: str) -> list[str]:
        file = tmp_path / "c.csv"
        file.write_text("id,caption\n" + "".join(f"{each},x\n" for each in ids))
        return match(images, read_captions(file), tmp_path / "f", file)

    assert pair("b", "a") == ["b", "a"]
    with pytest.raises(CrossFlowError, match=r"1 of 2 images .* have no caption .*: b.png"):
        pair("a")
    with pytest.raises(CrossFlowError, match=r"6 of 8 captions .* have no image .*: 0, 1, 2, 3, 4 and 1 more"):
        pair("a", "b", *map(str, range(6)))


def test_images_that_are_made_rgb_before_they_are_resized_are_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    for name, image in {"rgb": PHOTO, "grey": PHOTO[..., 0]}.items():
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    read_folder(tmp_path)
    assert "palette" not in caplog.text
    Image.fromarray(PHOTO).quantize(16).save(tmp_path / "p.png")
    Image.fromarray(PHOTO).convert("1").save(tmp_path / "1.png")
    read_folder(tmp_path)
    assert f"2 of 4 images in {tmp_path} have a palette or one bit a pixel: they are made RGB" in caplog.text


def test_a_coco_file_may_describe_more_images_than_the_folder_holds(tmp_path, caplog):
    """A COCO JSON is the index of a data set; that a part is measured is logged, never silent."""
    caplog.set_level("INFO")
    (tmp_path / "c.json").write_text(json.dumps(COCO))
    captions = read_captions(tmp_path / "c.json")
    images = read_folder(folder_of(tmp_path / "f", **{"000007_jpg": encoded(PHOTO, "JPEG")}))
    assert match(images, captions, tmp_path / "f", tmp_path / "c.json") == ["000007"]
    assert "1 of the 2 images" in caplog.text
    images = read_folder(folder_of(tmp_path / "g", **{"000008_jpg": encoded(PHOTO, "JPEG")}))
    with pytest.raises(CrossFlowError, match=r"1 of 1 images .* have no caption"):
        match(images, captions, tmp_path / "g", tmp_path / "c.json")


def test_a_folder_that_one_trains_on_is_prompts_and_true_captions_too(tmp_path):
    for name in ("a/one.jpg", "two.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PHOTO).save(tmp_path / name)
    with pytest.raises(CrossFlowError, match=r"No image in .* has a caption: write a caption a line into NAME"):
        read_captions(tmp_path)
    (tmp_path / "a" / "one.txt").write_text("A cat.\n\nTwo cats.\n")
    assert read_captions(tmp_path).of == {"one": ("A cat.", "Two cats.")}
    (example,) = read_references(tmp_path)
    assert (example.id, example.source, example.target) == ("one", tmp_path / "a/one.jpg", ["A cat.", "Two cats."])
    (tmp_path / "metadata.csv").write_text("file_name,text\ntwo.png,a dog\n")
    assert [example.id for example in read_references(tmp_path)] == ["two"]
