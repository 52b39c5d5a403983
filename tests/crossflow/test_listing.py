"""One reader of folders: what is read, what is passed over, and what is counted and named."""

import os

import pytest

from crossflow.errors import CrossFlowError
from crossflow.files.captions import read_pairs
from crossflow.files.listing import list_folder

ACUTE = "cafe\u0301", "caf\u00e9"
"""The same name as macOS decomposes it, and as it is typed."""


def made(folder, *names: str):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_subfolders_and_every_suffix_are_read_and_hidden_files_are_not(tmp_path):
    read = ["a/b/c.JFIF", "a/x.jpe", "b.bmp", "d.ppm", "e.png"]
    made(tmp_path, *read, "._e.png", ".DS_Store", ".git/f.png", "a/._x.jpe", "notes.md", "old.tiff", "png")
    made(tmp_path, "samples.jsonl", "a/outputs.jsonl")
    listing = list_folder(tmp_path)
    assert list(listing.read) == read
    assert listing.left() == f"3 files in {tmp_path} hold no image and are not read: old.tiff, notes.md, png."
    assert listing.left(["notes.md", "png", "old.tiff"]) == ""
    with pytest.raises(CrossFlowError, match=r"1 images .* kind that is not read \(old.tiff\)"):
        listing.all_read()


def test_a_link_to_a_folder_is_named_and_not_followed(tmp_path):
    made(tmp_path, "images/a.png", "others/b.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "others")
    listing = list_folder(tmp_path / "images")
    assert list(listing.read) == ["a.png"]
    assert "link" in listing.left()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_is_never_waited_for(tmp_path):
    folder = made(tmp_path, "a.png")
    os.mkfifo(folder / "a.txt")
    assert not list_folder(folder).others
    (folder / "b.png").symlink_to("a.txt")
    with pytest.raises(CrossFlowError, match=r"1 images in .* are pipes or devices, not files \(b.png\); move them"):
        list_folder(folder)


def test_names_are_unique_by_stem_or_by_path(tmp_path):
    listing = list_folder(made(tmp_path, "cat/0.png", "dog/0.png"))
    assert list(listing.by_path()) == ["cat/0", "dog/0"]
    with pytest.raises(CrossFlowError, match=r"2 images in .* share their name \(cat/0.png, dog/0.png\)"):
        listing.by_stem()
    with pytest.raises(CrossFlowError, match="share their name"):
        list_folder(made(tmp_path, "cat/0.jpg")).by_path()


def test_a_name_is_known_by_its_composed_form(tmp_path):
    decomposed, composed = ACUTE
    assert list(list_folder(made(tmp_path, f"{decomposed}.png")).read) == [f"{composed}.png"]
    with pytest.raises(CrossFlowError, match="but for its Unicode form"):
        list_folder(made(tmp_path, f"{composed}.png"))


def test_a_caption_finds_its_image_in_either_form(tmp_path):
    decomposed, composed = ACUTE
    folder = made(tmp_path / "images", f"{decomposed}/x.png", "bare.png")
    (tmp_path / "c.csv").write_text(f"image,caption\n{composed}\\x.png,a cup\n", encoding="utf-8")
    said: list[str] = []
    assert read_pairs(folder, tmp_path / "c.csv", said.append) == [(f"{decomposed}/x.png", "a cup")]
    assert said == [f"1 images in {folder} have no caption and are left out: bare.png."]
    assert (folder / f"{decomposed}/x.png").exists()


def test_a_name_that_is_not_utf8_is_shown_escaped(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"\x8e\xa9.png"), "wb"):
        pass
    with pytest.raises(CrossFlowError, match=r"1 images in .* not UTF-8 \(\\x8e\\xa9.png\); rename them"):
        list_folder(tmp_path)


def test_a_folder_that_is_none_or_holds_nothing(tmp_path):
    with pytest.raises(CrossFlowError, match="There is no folder"):
        list_folder(tmp_path / "none")
    with pytest.raises(CrossFlowError, match=r"holds no image: it holds a.txt; give another one"):
        list_folder(made(tmp_path, "a.txt")).all_read()
    with pytest.raises(CrossFlowError, match="File name too long"):
        list_folder(tmp_path / ("x" * 300))
