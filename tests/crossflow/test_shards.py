"""Shards give back every item bit for bit in any order; what was cut short or altered is refused in a sentence."""

import concurrent.futures
import hashlib
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from crossflow.errors import CrossFlowError
from crossflow.files.tensors import read_header, read_tensors, write_tensors
from crossflow.training.data import shards
from crossflow.training.data.shards import KeptPair, PairSource, Shard, Shards, shard_name, write_index, write_shard

CAPTIONS = ("a cat", "", "zwölf Boxkämpfer", "two\nlines", "😀" * 30)
COUNTS = (3, 0, 2)
HEADER = {"skipped": ["bad.png"], "recipe": {"name": "test"}}


def item(seed: int, images: bool = False, dtype: torch.dtype = torch.float32) -> KeptPair:
    generator = torch.Generator().manual_seed(seed)
    return KeptPair(
        moments=torch.randn(8, 2, 2, generator=generator),
        tokens=torch.randn(5, 6, generator=generator).to(dtype),
        mask=torch.rand(5, generator=generator) < 0.5,
        caption=CAPTIONS[seed % len(CAPTIONS)],
        image=torch.randint(256, (4, 4, 3), generator=generator, dtype=torch.uint8) if images else None,
        image_features=torch.randn(7, generator=generator) if images else None,
    )


def make(folder, **options):
    """Shards of 3, 0 and 2 items, and their index."""
    seed = iter(range(sum(COUNTS)))
    for number, count in enumerate(COUNTS):
        items = [item(next(seed), **options) for _ in range(count)]
        write_shard(folder / shard_name(number), items, {**HEADER, "number": number})
    write_index(folder, len(COUNTS), {"name": "test"}, "0")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "shards")


def same(found: KeptPair, expected: KeptPair) -> bool:
    def equal(a, b) -> bool:
        return torch.equal(a, b) and a.dtype == b.dtype if isinstance(b, torch.Tensor) else a == b

    return all(equal(a, b) for a, b in zip(found, expected, strict=True))


def refused(call, *arguments: object) -> str:
    with pytest.raises(CrossFlowError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


@pytest.mark.parametrize("options", [{}, {"images": True}, {"dtype": torch.float16}], ids=str)
def test_items_come_back_in_any_order(tmp_path, options):
    source = Shards(make(tmp_path, **options))
    assert isinstance(source, PairSource)
    assert len(source) == 5
    assert source.recipe == {"name": "test"}
    assert source.index.skipped == ["bad.png"] * 3
    for index in (4, 0, 2, 1, 3, 4):
        assert same(source.item(index), item(index, **options))
    for index in (-1, 5):
        with pytest.raises(IndexError):
            source.item(index)


@settings(max_examples=25)
@given(captions=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_any_captions(tmp_path_factory, captions):
    path = tmp_path_factory.getbasetemp() / "captions.safetensors"
    write_shard(path, [item(0)._replace(caption=caption) for caption in captions], HEADER)
    shard = Shard(path)
    assert [shard.item(row).caption for row in range(shard.count)] == captions


NEW = "a \U0001fae8 on a café's table"
"""A caption with a character that Python 3.11 calls unprintable, and 3.12 does not."""


def still(caption: str) -> KeptPair:
    return KeptPair(torch.zeros(8, 2, 2), torch.zeros(5, 6), torch.ones(5, dtype=torch.bool), caption)


def test_the_digest_of_a_caption_is_that_of_any_python(tmp_path):
    """Else shards that one Python made were altered to another."""
    write_shard(tmp_path / "shard.safetensors", [still(NEW)], HEADER)
    assert read_header(tmp_path / "shard.safetensors")["sha256"].startswith("621849e0abe8")


def test_shards_of_earlier_versions_are_read(tmp_path):
    """They spelled a caption as ``repr`` does."""
    path, item = tmp_path / "shard.safetensors", still("café")
    write_shard(path, [item], HEADER)
    header, tensors = read_tensors(path)
    digest = hashlib.sha256(repr(item.caption).encode())
    for name in ("moments", "tokens", "mask"):
        part = getattr(item, name)
        digest.update(f"{name} {part.dtype} {list(part.shape)}".encode() + part.numpy().tobytes())
    earlier = torch.tensor(list(digest.digest()), dtype=torch.uint8)[None]
    assert not torch.equal(tensors["digests"], earlier)
    write_tensors(path, tensors | {"digests": earlier}, header)
    assert same(Shard(path).item(0), item)


def test_the_same_items_give_the_same_bytes(made, tmp_path):
    make(tmp_path)
    for number in range(len(COUNTS)):
        assert (tmp_path / shard_name(number)).read_bytes() == (made / shard_name(number)).read_bytes()
    assert (tmp_path / "index.json").read_bytes() == (made / "index.json").read_bytes()
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(each.name for each in made.iterdir())


def test_the_fingerprint_tells_other_data(made, folder):
    first = Shards(made).fingerprint
    assert Shards(folder).fingerprint == first
    items = [item(0), item(1), item(2)._replace(caption="another")]
    write_shard(folder / shard_name(0), items, {**HEADER, "number": 0})
    write_index(folder, len(COUNTS), {"name": "test"}, "0")
    assert Shards(folder).fingerprint != first


def test_an_item_keeps_no_shard_alive(made):
    found = Shards(made).item(1)
    for tensor in (found.moments, found.tokens, found.mask):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_few_shards_stay_open(made, monkeypatch):
    monkeypatch.setattr(shards, "OPEN", 1)
    opened = []

    class Counted(Shard):
        def __init__(self, path) -> None:
            opened.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(shards, "Shard", Counted)
    source = Shards(made)
    assert opened == []
    for index in (0, 1, 2, 4, 3, 0):
        assert same(source.item(index), item(index))
    assert opened == [shard_name(0), shard_name(2), shard_name(0)]


def test_many_threads_read_the_same(made, monkeypatch):
    monkeypatch.setattr(shards, "OPEN", 1)
    source = Shards(made)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: source.item(index % 5), range(200)))
    assert all(same(each, item(index % 5)) for index, each in enumerate(found))


def test_a_shard_cut_anywhere(folder):
    path = folder / shard_name(2)
    data = path.read_bytes()
    for length in (0, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        source = Shards(folder)
        assert same(source.item(0), item(0))
        assert "is not a whole safetensors file" in refused(source.item, 3)
    path.unlink()
    assert f"There is no file {path}" in refused(Shards(folder).item, 3)


def test_a_byte_changed_anywhere_is_found(folder):
    """Every third byte of a shard's tensors in turn: each item is refused, or is what was written."""
    path = folder / shard_name(2)
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    found = 0
    for place in range(start, len(data), 3):
        data[place] ^= 1
        path.write_bytes(data)
        shard, before = Shard(path), found
        for row in range(2):
            try:
                assert same(shard.item(row), item(3 + row))
            except CrossFlowError as error:
                assert f"Item {row} of {path} was altered" in str(error)
                found = before + 1
        data[place] ^= 1
    assert found >= (len(data) - start) // 3 - 3  # but for an end of the last caption that lies beyond the file's


@pytest.mark.parametrize("name", ["moments", "mask", "captions", "caption_ends", "digests"])
def test_a_tensor_is_missing_or_too_short(folder, name):
    path = folder / shard_name(2)
    header, tensors = read_header(path), load_file(path)
    write_tensors(path, {key: value for key, value in tensors.items() if key != name}, header)
    assert "was altered" in refused(Shards(folder).item, 4)
    write_tensors(path, {**tensors, name: tensors[name][:1]}, header)
    assert "was altered" in refused(Shards(folder).item, 4)


def test_another_shard_or_none(folder):
    other = folder / shard_name(2)
    shutil.copy(folder / shard_name(0), other)
    assert f"{other} is not the shard its index names" in refused(Shards(folder).item, 3)
    save_file({"x": torch.zeros(2)}, other)
    assert f"{other} is no shard of training pairs" in refused(Shards(folder).item, 3)
    write_tensors(other, {}, {"format": shards.FORMAT, "version": "2"})
    assert "in version 1" in refused(Shards(folder).item, 3)


def test_no_index(folder):
    (folder / "index.json").unlink()
    assert "holds no finished shards" in refused(Shards, folder)
    assert "holds no finished shards" in refused(Shards, folder / "none")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 100_000, '{"format": "crossflow-shards"}'])
def test_a_damaged_index(folder, text):
    (folder / "index.json").write_text(text)
    assert "index.json is damaged" in refused(Shards, folder)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"version": "2"}, "is of version 2, and this program reads version 1"),
        ({"format": "x"}, "this program reads version 1"),
        ({"shards": [{"file": "../a.safetensors", "count": 1, "sha256": ""}]}, "outside its folder"),
        ({"shards": [{"file": "/etc/passwd", "count": 1, "sha256": ""}]}, "outside its folder"),
        ({"shards": [{"file": "a.safetensors", "count": -1, "sha256": ""}]}, "counts below 0"),
    ],
    ids=str,
)
def test_an_index_that_cannot_be(folder, change, said):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert said in refused(Shards, folder)


def test_an_index_needs_every_shard(folder):
    (folder / shard_name(1)).unlink()
    assert "There is no file" in refused(write_index, folder, 3, {}, "0")
