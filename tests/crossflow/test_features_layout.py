"""The authors' feature layout gives the pairs it holds; what is damaged, missing or outside is named with its line."""

import concurrent.futures
import json
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.modalities.kl_autoencoder import center_crop
from crossflow.training.data.authors_layout import OfficialFeatures
from crossflow.training.data.shards import PairSource

WIDTHS = {"clip": 768, "t5": 4096}


def features(seed: int, text: str = "clip") -> dict:
    rng = np.random.default_rng(seed)
    return {
        "image_latent_256": rng.standard_normal((8, 32, 32), dtype=np.float32),
        "image_latent_512": rng.standard_normal((8, 64, 64), dtype=np.float32),
        f"token_embedding_{text}": rng.standard_normal((77, WIDTHS[text]), dtype=np.float32),
        f"token_mask_{text}": (np.arange(77) < 5 + seed).astype(np.int64),
        f"token_{text}": np.arange(77),
        "batch_caption": f"caption {seed}",
    }


ITEMS = [("one.jpg", 0), ("sub/two.png", 1), ("three.jpeg", 2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three items, in a folder that tests only read."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "imgs" / "sub").mkdir(parents=True)
    (folder / "features").mkdir()
    with (folder / "img_text_pair.jsonl").open("w") as file:
        for name, seed in ITEMS:
            file.write(json.dumps({"img_path": name, "prompt": f"prompt {seed}", "more": 1}) + "\n")
            pixels = np.random.default_rng(seed).integers(0, 256, (300, 280, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "imgs" / name)
            stem = os.path.splitext(os.path.basename(name))[0]
            np.save(folder / "features" / f"{stem}.npy", features(seed), allow_pickle=True)  # pyright: ignore
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(made, tmp_path / "train")


def listed(folder, *lines: object):
    """The folder with other lines in its list."""
    (folder / "img_text_pair.jsonl").write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    )
    return folder


def replaced(folder, **changes: object):
    """The folder with other arrays (None: without them) in the features of its first item."""
    found = {name: value for name, value in (features(0) | changes).items() if value is not None}
    np.save(folder / "features" / "one.npy", found, allow_pickle=True)  # pyright: ignore
    return folder


def refused(folder, index: int = 0, images: bool = False) -> str:
    source = OfficialFeatures(folder, 256, "clip", images)
    with pytest.raises(CrossFlowError) as caught:
        source.item(index)
    message = str(caught.value)
    assert f"img_text_pair.jsonl, line {index + 1}: " in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("size", [256, 512])
def test_items_are_what_was_saved(made, size):
    source = OfficialFeatures(made, size, "clip", images=True)
    assert isinstance(source, PairSource)
    assert len(source) == 3
    for index in (2, 0, 1):
        name, seed = ITEMS[index]
        item, expected = source.item(index), features(seed)
        assert torch.equal(item.moments, torch.from_numpy(expected[f"image_latent_{size}"]))
        assert torch.equal(item.tokens, torch.from_numpy(expected["token_embedding_clip"]))
        assert item.mask.tolist() == [place < 5 + seed for place in range(77)]
        assert item.caption == f"caption {seed}"
        with Image.open(made / "imgs" / name) as image:
            np.testing.assert_array_equal(item.image.numpy(), center_crop(image, size))
    with pytest.raises(IndexError):
        source.item(3)
    with pytest.raises(IndexError):
        source.item(-1)


def test_images_are_read_only_where_they_are_asked(folder):
    shutil.rmtree(folder / "imgs")
    assert OfficialFeatures(folder, 256, "clip").item(1).image is None
    assert "two.png cannot be read (No such file" in refused(folder, 1, images=True)


def test_t5_and_halves_and_another_mask(folder):
    changed = features(0, "t5")
    changed["token_embedding_t5"] = changed["token_embedding_t5"].astype(np.float16)
    changed["token_mask_t5"] = changed["token_mask_t5"].astype(bool)
    np.save(folder / "features" / "one.npy", changed, allow_pickle=True)  # pyright: ignore
    item = OfficialFeatures(folder, 256, "t5").item(0)
    assert item.tokens.dtype == torch.float16
    assert item.tokens.shape == (77, 4096)
    assert int(item.mask.sum()) == 5
    assert "holds no array token_mask_clip" in refused(folder)


def test_npz_of_the_same_arrays(folder):
    (folder / "features" / "one.npy").unlink()
    np.savez(folder / "features" / "one.npz", **features(0))
    item = OfficialFeatures(folder, 256, "clip").item(0)
    assert torch.equal(item.moments, torch.from_numpy(features(0)["image_latent_256"]))
    assert item.caption == "caption 0"


def test_without_a_caption_the_prompt_is_taken(folder):
    assert OfficialFeatures(replaced(folder, batch_caption=None), 256, "clip").item(0).caption == "prompt 0"


def test_the_folder_that_the_extraction_script_names(folder):
    source = OfficialFeatures(folder, 256, "clip")
    assert source.features == folder / "features"
    (folder / "feature").mkdir()
    with pytest.raises(CrossFlowError, match="both folders, features and feature"):
        OfficialFeatures(folder, 256, "clip")
    shutil.rmtree(folder / "feature")
    (folder / "features").rename(folder / "feature")
    source = OfficialFeatures(folder, 256, "clip")
    assert source.features == folder / "feature"
    assert source.item(0).caption == "caption 0"
    shutil.rmtree(folder / "feature")
    with pytest.raises(CrossFlowError, match="neither a folder features nor a folder feature"):
        OfficialFeatures(folder, 256, "clip")


def test_a_hostile_pickle_is_not_run(folder):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(folder / "sprung"),)

    np.save(folder / "features" / "one.npy", Trap(), allow_pickle=True)  # pyright: ignore
    assert "posix.mkdir" in refused(folder)
    replaced(folder, batch_caption=Trap())
    assert "posix.mkdir" in refused(folder)
    (folder / "features" / "one.npy").write_bytes(pickle.dumps(Trap()))
    assert "one.npy is damaged" in refused(folder)
    assert not (folder / "sprung").exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"image_latent_256": None}, "holds no array image_latent_256"),
        ({"image_latent_256": "text"}, "holds no array image_latent_256"),
        ({"image_latent_256": np.zeros((4, 32, 32), np.float32)}, "float32 [4, 32, 32], and [8, 32, 32] is expected"),
        ({"image_latent_256": np.zeros((8, 32, 32))}, "is float64"),
        ({"token_embedding_clip": np.zeros((77, 4096), np.float32)}, "and [77, 768] is expected"),
        ({"token_embedding_clip": np.full((77, 768), np.nan, np.float32)}, "not finite"),
        ({"token_mask_clip": np.ones(76, int)}, "[76], and [77] is expected"),
        ({"token_mask_clip": np.ones(77, np.float32)}, "token_mask_clip in"),
        ({"token_mask_clip": np.zeros(77, int)}, "not all 0"),
        ({"token_mask_clip": np.full(77, 2)}, "must be 1 for tokens"),
        ({"token_mask_clip": np.array([None] * 77)}, "token_mask_clip is an array of type O8"),
    ],
    ids=str,
)
def test_arrays_of_another_form(folder, changes, said):
    message = refused(replaced(folder, **changes))
    assert said in message
    assert "one.npy" in message


def test_a_file_that_is_missing_or_cut_short(folder):
    path = folder / "features" / "one.npy"
    data = path.read_bytes()
    for length in (0, 5, 200, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert "one.npy is damaged" in refused(folder)
    path.unlink()
    assert "one.npy cannot be read (No such file" in refused(folder)


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("3", "expected an object with img_path and prompt"),
        ({"img_path": "one.jpg"}, "expected an object"),
        ({"img_path": 1, "prompt": "x"}, "expected an object"),
        ({"img_path": "", "prompt": "x"}, "cannot be read"),
        ({"img_path": "none.jpg", "prompt": "x"}, "No such file"),
        ({"img_path": "x" * 5000, "prompt": "x"}, "too long"),
        ({"img_path": "/etc/passwd", "prompt": "x"}, "'/etc/passwd' leaves its folder"),
        ({"img_path": "../imgs/one.jpg", "prompt": "x"}, "leaves its folder"),
        ({"img_path": "sub/../../one.jpg", "prompt": "x"}, "leaves its folder"),
        ({"img_path": "one.jpg\0.jpg", "prompt": "x"}, "leaves its folder"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("images", [False, True])
def test_a_line_that_is_no_pair(folder, line, said, images):
    listed(folder, {"img_path": "one.jpg", "prompt": "x"}, line)
    assert said in refused(folder, 1, images)


def test_a_link_that_leaves_the_folder(folder, tmp_path):
    shutil.move(folder / "features" / "one.npy", tmp_path / "one.npy")
    (folder / "features" / "one.npy").symlink_to(tmp_path / "one.npy")
    assert "'one.npy' is a link that leaves its folder" in refused(folder)
    (folder / "imgs" / "out").symlink_to(tmp_path)
    listed(folder, {"img_path": "out/one.jpg", "prompt": "x"})
    assert "'out/one.jpg' is a link" in refused(folder)


def test_the_folders_themselves_may_be_links(folder, tmp_path):
    shutil.move(folder / "features", tmp_path / "elsewhere")
    (folder / "features").symlink_to(tmp_path / "elsewhere")
    assert OfficialFeatures(folder, 256, "clip").item(0).caption == "caption 0"


def test_blank_lines_and_a_mark_at_the_start_of_the_list(folder):
    path = folder / "img_text_pair.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\n"))
    source = OfficialFeatures(folder, 256, "clip")
    assert [source.item(index).caption for index in range(len(source))] == ["caption 0", "caption 1", "caption 2"]
    (folder / "features" / "two.npy").unlink()
    with pytest.raises(CrossFlowError, match=r"img_text_pair\.jsonl, line 3: "):
        source.item(1)


def test_the_fingerprint_is_of_the_list_and_of_what_is_read(folder):
    def fingerprint(*arguments) -> str:
        return OfficialFeatures(folder, *arguments).fingerprint

    first = fingerprint(256, "clip")
    assert first == fingerprint(256, "clip")
    others = {fingerprint(512, "clip"), fingerprint(256, "t5"), fingerprint(256, "clip", True)}
    listed(folder, {"img_path": "one.jpg", "prompt": "x"})
    assert len({first, fingerprint(256, "clip"), *others}) == 5


def test_no_list(folder):
    listed(folder, "", "")
    with pytest.raises(CrossFlowError, match="is empty"):
        OfficialFeatures(folder, 256, "clip")
    (folder / "img_text_pair.jsonl").unlink()
    with pytest.raises(CrossFlowError, match="cannot be read"):
        OfficialFeatures(folder, 256, "clip")


def test_many_threads_read_the_same(made):
    source = OfficialFeatures(made, 256, "clip", images=True)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for index, item in enumerate(pool.map(lambda number: source.item(number % 3), range(30))):
            assert item.caption == f"caption {index % 3}"


def test_a_long_list_opens_at_once(folder):
    """10,000 lines in far less than the second that parsing 4 million of them at this rate could take."""
    lines = [{"img_path": ITEMS[number % 3][0], "prompt": f"{number} " + "x" * 200} for number in range(10_000)]
    listed(folder, *lines)
    start = time.process_time()
    source = OfficialFeatures(folder, 256, "clip")
    assert time.process_time() - start < 0.25
    assert len(source) == 10_000
    assert source.item(9_998).caption == "caption 2"
