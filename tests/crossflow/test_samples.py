"""A folder of samples depends on no interruption, and on no earlier or later one; its PNGs hold the images' pixels."""

import json
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_pipelines import drawer

from crossflow.errors import CrossFlowError
from crossflow.files.locks import only_writer
from crossflow.model.settings import Sampling
from crossflow.sampling import samples
from crossflow.sampling.samples import draw_into, grid, png, write_image
from crossflow.sampling.text_to_image import TextToImage, prompt_seed

TEN = ["a photo of a ball", "a photo of a cone", "word " * 40, "../../etc/passwd", "ünï 漢字"] * 2


@pytest.fixture(scope="module")
def pipeline(cache_folder) -> TextToImage:
    return drawer("crossflow")


@pytest.fixture(scope="module")
def filled(cache_folder) -> TextToImage:
    """In float32, four at a time."""
    return drawer("dit", precision="float32", batch_size=4)


def test_a_grid_tiles_row_by_row():
    images = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20, 30)]
    tiled = np.asarray(grid(images, columns=2, scale=1))
    assert tiled.shape == (6, 8, 3)
    assert [int(tiled[y, x, 0]) for y, x in ((0, 0), (0, 5), (4, 0), (4, 5), (2, 0), (0, 3))] == [
        10,
        20,
        30,
        255,
        255,
        255,
    ]
    assert np.asarray(grid(images, columns=2, scale=3)).shape == (18, 24, 3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}


def draw(pipeline: TextToImage, out: Path, prompts: list[str] = TEN, **options: object):
    return draw_into(out, pipeline, iter(prompts), options.pop("sampling", pipeline.defaults), **options)


def test_a_folder_of_samples(pipeline, tmp_path):
    drawn = draw(pipeline, tmp_path / "out", per_prompt=2, seed=4)
    assert drawn == (20, 0, 2)
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [prompt for prompt in TEN for _ in range(2)]
    assert [row["file"] for row in rows[:4]] == [
        "000000-0-a-photo-of-a-ball.png",
        "000000-1-a-photo-of-a-ball.png",
        "000001-0-a-photo-of-a-cone.png",
        "000001-1-a-photo-of-a-cone.png",
    ]
    assert rows[6]["file"] == "000003-0-etc-passwd.png"
    assert set(contents(tmp_path)) == {"out/samples.jsonl"} | {f"out/{row['file']}" for row in rows}
    for row in rows[:3]:
        assert row["seed"] == prompt_seed(4, row["prompt"], row["copy"])
        assert row["settings"] == {
            "weights_sha256": "crossflow",
            "precision": "float64",
            "seed": 4,
            "solver": "midpoint",
            "steps": 3,
            "guidance_scale": 1.0,
            "noise": 1.0,
        }
        with Image.open(tmp_path / "out" / row["file"]) as image:
            assert np.array_equal(np.asarray(image), pipeline.generate([row["prompt"]], [row["seed"]])[0])


@pytest.mark.parametrize(("kind", "chunk"), [("pipeline", 1), ("pipeline", 3), ("pipeline", 50), ("filled", 4)])
def test_an_interrupted_folder_ends_byte_equal(kind, tmp_path, monkeypatch, chunk, request):
    """Stopped after the k-th image was written, before its line was; then a line cut in half; then a file lost."""
    pipeline = request.getfixturevalue(kind)
    monkeypatch.setattr(pipeline, "batch_size", chunk)
    draw(pipeline, tmp_path / "whole")
    write = samples.write_image
    for stop in (1, 4, 9):
        out, left = tmp_path / f"stopped-{stop}", stop

        def stopping(path: Path, image: np.ndarray) -> None:
            nonlocal left
            write(path, image)
            left -= 1
            if not left:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(samples, "write_image", stopping)
            with pytest.raises(KeyboardInterrupt):
                draw(pipeline, out)
        with (out / "samples.jsonl").open("a") as file:
            file.write('{"file": "0000')
        drawn = draw(pipeline, out)
        assert (drawn.new + drawn.kept, drawn.kept) == (10, (stop - 1) // chunk * chunk)
        assert contents(out) == contents(tmp_path / "whole")
    (out / "000001-0-a-photo-of-a-cone.png").unlink()
    assert draw(pipeline, out)[:2] == (1, 9)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["pipeline", "filled"])
def test_more_prompts_may_follow(kind, tmp_path, request):
    pipeline = request.getfixturevalue(kind)
    draw(pipeline, tmp_path / "whole")
    draw(pipeline, tmp_path / "grown", TEN[:3])
    assert draw(pipeline, tmp_path / "grown")[:2] == (7, 3)
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"per_prompt": 2}, {"prompts": TEN[1:]}, {"sampling": Sampling(steps=4)}, {"weights": "other"}],
)
def test_other_samples_are_never_mixed(pipeline, tmp_path, change, monkeypatch):
    draw(pipeline, tmp_path)
    before = contents(tmp_path)
    monkeypatch.setitem(pipeline.identity, "weights_sha256", change.get("weights", pipeline.weights_sha256))
    with pytest.raises(
        CrossFlowError, match="holds samples of other prompts, settings or weights: choose another --out"
    ):
        draw(pipeline, tmp_path, **{name: value for name, value in change.items() if name != "weights"})
    assert contents(tmp_path) == before


def test_a_foreign_image_is_never_overwritten(pipeline, tmp_path):
    foreign = tmp_path / "000001-0-a-photo-of-a-cone.png"
    foreign.write_bytes(b"mine")
    with pytest.raises(CrossFlowError, match="holds another image"):
        draw(pipeline, tmp_path)
    assert foreign.read_bytes() == b"mine"


def test_an_image_that_cannot_be_read_is_drawn_again_and_another_one_is_refused(pipeline, tmp_path):
    """A folder is resumed by what its files hold: each image is known by the hash of its pixels."""
    draw(pipeline, tmp_path)
    before = contents(tmp_path)
    cut, altered = tmp_path / "000001-0-a-photo-of-a-cone.png", tmp_path / "000000-0-a-photo-of-a-ball.png"
    cut.write_bytes(cut.read_bytes()[:60])
    assert draw(pipeline, tmp_path)[:2] == (1, 9)
    assert contents(tmp_path) == before
    write_image(tmp_path / "grey.png", np.full((32, 32, 3), 7, np.uint8))
    (tmp_path / "grey.png").replace(altered)
    with pytest.raises(CrossFlowError, match=r"ball\.png is not the image that was drawn"):
        draw(pipeline, tmp_path)


@pytest.mark.parametrize("kept", [1, 700, 1500, 2900])
def test_a_record_cut_anywhere_goes_on(pipeline, tmp_path, monkeypatch, kept):
    """As a full disk leaves it: in the middle of a batch's lines."""
    monkeypatch.setattr(pipeline, "batch_size", 3)
    draw(pipeline, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "samples.jsonl").write_bytes(before["samples.jsonl"][:kept])
    draw(pipeline, tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_of_an_earlier_release_goes_on(pipeline, tmp_path):
    """Its rows have no hashes of pixels."""
    draw(pipeline, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    earlier = [{name: value for name, value in row.items() if name != "pixels_sha256"} for row in rows]
    (tmp_path / "samples.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in earlier))
    assert draw(pipeline, tmp_path)[:2] == (0, 10)


@pytest.mark.parametrize("notes", [b"my notes, without a newline", b"my notes\n", b'{"file": "other'])
def test_a_record_of_something_else_is_kept(pipeline, tmp_path, notes):
    (tmp_path / "samples.jsonl").write_bytes(notes)
    with pytest.raises(CrossFlowError, match="holds samples of other prompts"):
        draw(pipeline, tmp_path)
    assert (tmp_path / "samples.jsonl").read_bytes() == notes


def test_two_never_sample_into_one_folder(pipeline, tmp_path):
    with only_writer(tmp_path, "sampling"), pytest.raises(CrossFlowError, match="Another process is sampling in"):
        draw(pipeline, tmp_path)
    assert not contents(tmp_path)


def test_missing_images_are_drawn_at_their_places(filled, tmp_path, monkeypatch):
    """Where batches are filled, the whole batch of a missing image is drawn again, and only what is missing written."""
    draw(filled, tmp_path)
    before = contents(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    for row in (rows[5], rows[6]):
        (tmp_path / row["file"]).unlink()
    asked = []
    generate = filled.generate
    monkeypatch.setattr(filled, "generate", lambda prompts, *rest: asked.append(prompts) or generate(prompts, *rest))
    assert draw(filled, tmp_path)[:2] == (2, 8)
    assert asked == [TEN[4:8]]
    assert contents(tmp_path) == before


def test_an_image_of_the_same_pixels_is_kept(pipeline, tmp_path):
    """However it was compressed: a folder begun with one writer of PNGs goes on with another."""
    draw(pipeline, tmp_path)
    path = tmp_path / "000001-0-a-photo-of-a-cone.png"
    Image.open(path).save(path, compress_level=0)
    before = path.read_bytes()
    with (tmp_path / "samples.jsonl").open("r+b") as record:
        record.truncate(10)
    draw(pipeline, tmp_path)
    assert path.read_bytes() == before


def test_prompts_are_taken_as_a_stream(pipeline, tmp_path, monkeypatch):
    """No more of them are drawn from the source than one chunk ahead."""
    monkeypatch.setattr(pipeline, "batch_size", 2)
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"prompt {taken}"

    def stop_at_six(drawn: int, kept: int) -> None:
        assert taken <= 8
        if taken >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_into(tmp_path, pipeline, endless(), pipeline.defaults, advance=stop_at_six)
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 6


def test_a_batch_is_written_while_the_next_is_drawn(pipeline, tmp_path, monkeypatch):
    """And no more than one waits: the drawing of the third begins after the first is written."""
    monkeypatch.setattr(pipeline, "batch_size", 1)
    drawing = [threading.Event() for _ in range(3)]
    written, order = [], []
    generate, write = pipeline.generate, samples.write_image

    def seen_drawing(prompts: Sequence[str], *rest: object) -> list[np.ndarray]:
        order.append(list(written))
        drawing[len(order) - 1].set()
        return generate(prompts, *rest)

    def waiting_write(path: Path, image: np.ndarray) -> None:
        if len(written) < 2:
            assert drawing[len(written) + 1].wait(60), "the next batch was not drawn meanwhile"
        write(path, image)
        written.append(path.name[:6])

    monkeypatch.setattr(pipeline, "generate", seen_drawing)
    monkeypatch.setattr(samples, "write_image", waiting_write)
    assert draw(pipeline, tmp_path, TEN[:3]).new == 3
    assert order == [[], [], ["000000"]]
    assert written == ["000000", "000001", "000002"]


@pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_long_stream_of_prompts_takes_no_more_memory_than_a_short_one(pipeline, tmp_path, monkeypatch, count):
    """What is made here and there, rows and images above all, never exceeds 100 kB; 3,000 rows are over 1 MB."""
    held, done = [], 0
    grey = np.zeros((1, 1, 3), np.uint8)
    made_here = [tracemalloc.Filter(True, file) for file in (__file__, samples.__file__)]

    def advance(more: int, kept: int) -> None:
        nonlocal done
        done += more
        if done % (count // 3) < more:
            traces = tracemalloc.take_snapshot().filter_traces(made_here)
            held.append(sum(each.size for each in traces.statistics("filename")))

    monkeypatch.setattr(pipeline, "generate", lambda prompts, *rest: [grey] * len(prompts))
    embedder = SimpleNamespace(width=0, embed=len, lengths=lambda prompts: [3] * len(prompts))
    monkeypatch.setattr(pipeline, "_embedder", embedder)
    monkeypatch.setattr(samples, "write_image", lambda path, image: None)
    tracemalloc.start()
    prompts = (f"a photo of {number} balls" for number in range(count))
    drawn = draw_into(tmp_path, pipeline, prompts, pipeline.defaults, advance=advance)
    tracemalloc.stop()
    assert drawn == (count, 0, 0)
    assert len(held) == 3
    assert 0 < max(held) < 100_000


@pytest.mark.parametrize("writer", ["fpng", "Pillow"])
@pytest.mark.parametrize("side", [1, 7, 64])
def test_a_png_holds_the_pixels(writer, side, tmp_path, monkeypatch):
    if writer == "Pillow":
        monkeypatch.setitem(sys.modules, "fpng", None)
    image = np.random.default_rng(side).integers(0, 256, (side, side + 2, 3)).astype(np.uint8)
    write_image(tmp_path / "a.png", image)
    content = (tmp_path / "a.png").read_bytes()
    with Image.open(tmp_path / "a.png") as found:
        assert (found.format, found.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(found), image)
    assert png(image) == content, "the same image is the same file"
    assert (b"fdEC" in content) == (writer == "fpng")


def test_a_prompt_that_is_no_text(pipeline, tmp_path):
    with pytest.raises(CrossFlowError, match="Prompt 2 is not valid text"):
        draw(pipeline, tmp_path, ["fine", "\udcff"])


def test_a_folder_that_cannot_be(pipeline, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CrossFlowError, match="cannot be written"):
        draw(pipeline, tmp_path / "file" / "out")
