"""Images become the RGB they store, or are refused by name; captions files give their pairs in one order."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from crossflow.errors import CrossFlowError
from crossflow.files.captions import read_pairs
from crossflow.files.images import read_image

RGB = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def refused(function, *arguments: object) -> str:
    with pytest.raises(CrossFlowError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def written(path, mode="RGB", **options: object):
    image = Image.fromarray(RGB).convert(mode) if mode != "P" else Image.fromarray(RGB).quantize(256)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.webp", "a.JPG", "a.jfif", "a.dat"])
def test_rgb_of_every_format_and_any_suffix(tmp_path, name):
    kind = {"a.JPG": "JPEG", "a.jfif": "JPEG", "a.dat": "PNG", "a.webp": "WEBP"}.get(name)
    found = read_image(written(tmp_path / name, format=kind, lossless=True))
    assert found.mode == "RGB"
    expected = np.asarray(Image.open(tmp_path / name).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(found), expected)
    if kind != "JPEG":
        np.testing.assert_array_equal(expected, RGB)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_what_converts_exactly(tmp_path, mode):
    path = written(tmp_path / "a.png", mode)
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGBA"))[..., :3]
    np.testing.assert_array_equal(np.asarray(read_image(path)), expected)


def test_what_does_not(tmp_path):
    written(tmp_path / "cmyk.jpg", "CMYK")
    assert "(colour mode CMYK)" in refused(read_image, tmp_path / "cmyk.jpg")
    Image.fromarray(RGB[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert "(16 bits a channel)" in refused(read_image, tmp_path / "deep.png")
    for kind, numbers in (("P3", b"1 2 3"), ("P6", b"\1\2\3")):
        (tmp_path / "a.ppm").write_bytes(f"{kind}\n1 1\n15\n".encode() + numbers)
        assert "(15 as its white, not 255)" in refused(read_image, tmp_path / "a.ppm")
    image = Image.fromarray(RGB)
    image.putalpha(254)
    image.save(tmp_path / "alpha.png")
    assert "(transparent pixels)" in refused(read_image, tmp_path / "alpha.png")
    Image.fromarray(RGB).quantize(4).save(tmp_path / "key.png", transparency=0)
    assert "(transparent pixels)" in refused(read_image, tmp_path / "key.png")
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:])
    assert "(2 frames)" in refused(read_image, tmp_path / "two.webp")
    frames[0].save(tmp_path / "a.tiff")
    assert "(not a BMP, JPEG, PNG, PPM or WEBP file)" in refused(read_image, tmp_path / "a.tiff")


def test_a_photograph_that_is_to_be_shown_turned_is_read_as_it_is_stored_and_that_is_said(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    for number, expected in ((1, 0), (6, 1), (99, 0)):
        exif = Image.Exif()
        exif[0x112] = number
        Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert read_image(tmp_path / "a.jpg").size == (8, 4)
        assert len(said) == expected
        assert all("to be shown turned" in str(each.message) for each in said)


def test_no_image_at_all(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    assert "(zero bytes)" in refused(read_image, tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("a cat")
    assert "(not a BMP" in refused(read_image, tmp_path / "text.png")
    assert "No such file" in refused(read_image, tmp_path / "none.png")
    path = written(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "(it has more than 20 pixels, the most that are read): make it smaller." in refused(read_image, path)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert "accept truncated images" in refused(read_image, path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "PPM"])
def test_a_file_cut_anywhere(tmp_path, kind):
    data = written(tmp_path / "whole", format=kind).read_bytes()
    for length in range(0, len(data) - 2, 5):
        (tmp_path / "cut").write_bytes(data[:length])
        refused(read_image, tmp_path / "cut")


PAIRS = [("b.png", "second"), ("a/x.jpg", "one"), ("b.png", "first"), ("a/x.jpg", 'two, and "more"')]
SORTED = [("a/x.jpg", "one"), ("a/x.jpg", 'two, and "more"'), ("b.png", "second"), ("b.png", "first")]


@pytest.fixture
def folder(tmp_path):
    """Two images, which need not be any, and a third without a caption."""
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name in ("b.png", "a/x.jpg", "c.webp"):
        (tmp_path / "images" / name).touch()
    return tmp_path / "images"


def captions(path, rows=PAIRS):
    if path.suffix == ".jsonl":
        text = "".join(json.dumps({"image": image, "caption": text}) + "\n\n" for image, text in rows)
    elif path.suffix == ".csv":
        quoted = [text.replace('"', '""') for _, text in rows]
        text = "\ufeffcaption,image\n" + "".join(f'"{text}",{row[0]}\n' for text, row in zip(quoted, rows, strict=True))
    else:
        names = {name: number for number, name in enumerate({image for image, _ in rows})}
        text = json.dumps(
            {
                "images": [{"id": number, "file_name": name} for name, number in names.items()],
                "annotations": [{"image_id": names[image], "caption": text} for image, text in rows],
            }
        )
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_the_same_pairs_of_every_captions_file(tmp_path, folder, suffix):
    assert read_pairs(folder, captions(tmp_path / f"c{suffix}")) == SORTED


def test_captions_beside_the_images(folder):
    (folder / "a" / "x.txt").write_text('one\n\n  two, and "more"\r\n')
    (folder / "b.txt").write_text("second\nfirst")
    (folder / "c.webp").unlink()
    assert read_pairs(folder, None) == SORTED


def test_an_image_beside_which_there_is_no_caption(folder):
    assert f"write them into {folder / 'a' / 'x.txt'}" in refused(read_pairs, folder, None)
    for name in ("a/x.txt", "b.txt", "c.txt"):
        (folder / name).write_text("\n \n")
    assert "a/x.txt holds no captions" in refused(read_pairs, folder, None)


@pytest.mark.parametrize("name", ["d.png", "../images/b.png", "/etc/passwd", "./b.png", "a"])
def test_a_caption_without_its_image(tmp_path, folder, name):
    path = captions(tmp_path / "c.jsonl", [*PAIRS, (name, "text")])
    assert f"1 images of {path} are not below {folder} ({name})" in refused(read_pairs, folder, path)


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("c.jsonl", '{"image": "b.png", "caption": "x"}\n{', "line 2: it is not JSON"),
        ("c.jsonl", "[" * 100_000, "line 1: it is nested too deeply"),
        ("c.jsonl", "[1]", "line 1: expected an object with 'image' and 'caption'"),
        ("c.jsonl", '\n{"image": "b.png"}', "line 2: it has the columns ['image'], expected"),
        ("c.jsonl", '{"image": "b.png", "caption": " "}', "line 1: expected"),
        ("c.jsonl", '{"image": "b.png", "caption": "\\ud800"}', "line 1: it holds half a character"),
        ("c.jsonl", "\n", "holds no captions"),
        ("c.csv", "image,words\nb.png,x\n", "line 1: it has the columns ['image', 'words'], expected"),
        ("c.csv", "image,caption\nb.png,x,y\n", "line 2: expected"),
        ("c.csv", 'image,caption\nb.png,"x\n', "it is not CSV"),
        ("c.csv", "image,caption\n", "holds no captions"),
        ("c.json", "{}", "not a COCO captions file (KeyError: 'images')"),
        ("c.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}', "(KeyError: 1)"),
        ("c.json", '{"images": [{"id": 1, "file_name": 2}], "annotations": [{"image_id": 1, "caption": "x"}]}',
         "annotation 1: expected"),
        ("c.txt", "", "must end in .csv, .jsonl or .json"),
    ],
)  # fmt: skip
def test_a_captions_file_that_is_none(tmp_path, folder, name, text, said):
    (tmp_path / name).write_text(text)
    message = refused(read_pairs, folder, tmp_path / name)
    assert said in message
    assert str(tmp_path / name) in message


def test_files_that_are_not_there(tmp_path, folder):
    assert "No such file" in refused(read_pairs, folder, tmp_path / "c.csv")
    (tmp_path / "c.csv").write_bytes(b"image,caption\nb.png,\xff\n")
    assert "it is not UTF-8" in refused(read_pairs, folder, tmp_path / "c.csv")
    assert "There is no folder" in refused(read_pairs, tmp_path / "none", tmp_path / "c.csv")
    (tmp_path / "bare").mkdir()
    assert "holds no image" in refused(read_pairs, tmp_path / "bare", None)


def test_captions_written_on_windows_find_their_images(folder, tmp_path):
    """Backslashes are slashes where no file has that very name."""
    rows = [("a\\x.jpg", "one"), ("b.png", "two")]
    file = captions(tmp_path / "windows.csv", rows)
    assert read_pairs(folder, file) == [("a/x.jpg", "one"), ("b.png", "two")]
    refused(read_pairs, folder, captions(tmp_path / "none.csv", [("a\\none.jpg", "one")]))
