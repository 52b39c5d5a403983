"""The suites on COCO: runs in small folders of the real layouts, tiny networks in place of Inception and CLIP."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval.cli import app
from crossflow_eval.datasets import coco as coco_data
from crossflow_eval.judges import inception
from crossflow_eval.judges.clip import Clip, Towers
from crossflow_eval.judges.statistics_files import read_statistics
from crossflow_eval.metrics.clip_score import ClipProtocol
from crossflow_eval.runs import launch, run
from crossflow_eval.runs.store import Store
from crossflow_eval.suites import coco, load_suite

N, DIM = 6, 12
"""Prompts of each suite, and features of an image."""
PUBLISHED = dict(coco.SUITES)
pytestmark = pytest.mark.usefixtures("small")
FAKE = """
import numpy as np

class Fake:
    name, identity = "NAME", {}
    def generate(self, sources, seeds):
        return [np.random.default_rng([seed, len(source)]).integers(0, 256, (24, 24, 3), np.uint8)
                for source, seed in zip(sources, seeds)]
"""


class Quarters(nn.Module):
    """In Inception's place: the mean colours of the four quarters of an image."""

    def __init__(self, state: object, dtype: object) -> None:
        super().__init__()

    def forward(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        return {"pool": 100 * F.adaptive_avg_pool2d(x, 2).flatten(1)}


def small_clip(protocol: ClipProtocol, device: str = "cpu") -> Clip:
    """Embeds an image as its mean colours, a text as three numbers of its tokens."""
    towers = Towers(lambda images: images.mean((2, 3)), lambda tokens: tokens[:, :3] % 7 + 1.0, 32, 3, "cpu")
    return Clip(towers, Path(protocol.file).stem, protocol.file.ljust(64, "0"))


@pytest.fixture
def small(monkeypatch) -> None:
    """The suites with few prompts, and small judges, as on a machine that has the published ones."""
    for name, protocol in coco.SUITES.items():
        monkeypatch.setitem(coco.SUITES, name, replace(protocol, n=N))
    weights = inception.Weights({}, "quarters.pth", "0" * 64)
    monkeypatch.setattr(inception, "published_weights", lambda protocol: weights)
    monkeypatch.setattr(inception, "Inception", Quarters)
    monkeypatch.setitem(inception.TAPS, "pool", DIM)
    monkeypatch.setattr(ClipProtocol, "load", small_clip)


def write_coco(root: Path, images: int) -> Path:
    """COCO's folder with the annotations of ``images`` images of two captions each."""
    files = [{"id": k, "file_name": f"COCO_val2014_{k:012d}.jpg"} for k in range(images)]
    captions = [{"image_id": k % images, "id": k, "caption": f"caption {k}"} for k in range(2 * images)]
    (root / "annotations").mkdir(parents=True)
    (root / coco_data.ANNOTATIONS).write_text(json.dumps({"images": files, "annotations": captions}))
    return root


def write_photographs(root: Path) -> Path:
    (write_coco(root, N) / "val2014").mkdir()
    for k, image in enumerate(photographs()):
        Image.fromarray(image).save(root / "val2014" / f"COCO_val2014_{k:012d}.jpg", format="PNG")
    return root


def photographs() -> list[np.ndarray]:
    """Smooth, of several shapes, all larger than the squares that are made of them."""
    rng = np.random.default_rng(0)
    grids = [Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8)) for _ in range(N)]
    return [np.array(grid.resize((300 + 20 * k, 280), Image.Resampling.BICUBIC)) for k, grid in enumerate(grids)]


def write_statistics(path: Path) -> None:
    """A file of published statistics: mean and covariance, and nothing that says of what."""
    np.savez(path, mu=np.zeros(DIM), sigma=np.eye(DIM))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data root of more images than are drawn; its references are files."""
    root = write_coco(tmp_path_factory.mktemp("coco"), 2 * N)
    for name in (coco.UVIT.published, coco.T2IBENCHMARK.published):
        write_statistics(root / name)
    rows = "".join(f"{k},prompt {k}\n" for k in range(N))
    (root / coco_data.CAPTIONS_CSV).write_text("image_id,text\n" + rows)
    return root


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, with two models that no git state enters the records of."""
    for name in ("first", "second"):
        (tmp_path / f"{name}_of_test_coco.py").write_text(FAKE.replace("NAME", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    return tmp_path


def measured(suite: str, data: Path, out: str, *, limit: int | None = None, model: str = "first"):
    model = f"{model}_of_test_coco:Fake"
    return launch.evaluate(launch.Request(model=model, suite=suite, data=data, limit=limit, out=Path(out)))[0]


def test_the_protocols_are_those_of_their_names():
    """What a suite is called by: the number of prompts, the FID and the CLIP score."""
    published = {
        "uvit-crossflow": (30_000, "crossflow", "crossflow"),
        "crossflow-10k": (10_000, "crossflow", "crossflow"),
        "crossflow-val": (2_000, "crossflow", "crossflow"),
        "coco30k-full": (30_000, "legacy_tensorflow", "cosine100"),
        "t2ibenchmark": (30_000, "t2ibenchmark", "t2ibenchmark"),
        "mjhq30k": (30_000, "clean", "cosine100"),
    }
    assert {name: (of.n, of.reference.protocol, of.clip) for name, of in PUBLISHED.items()} == published


@pytest.mark.parametrize("suite", ["crossflow-10k", "t2ibenchmark"])
def test_a_suite_is_measured_by_its_own_fid_and_clip_score(place, data, suite):
    result = measured(suite, data, "run")
    protocol = coco.SUITES[suite]
    assert result.values.keys() == {"fid/coco", f"clip_score/{protocol.clip}"}
    assert result.values["fid/coco"].n == result.n == N
    fid, clip = result.protocol["fid"], result.protocol["clip_score"]
    assert (fid["protocol"], fid["outputs"], clip["protocol"]) == (
        protocol.reference.protocol,
        "as it is",
        protocol.clip,
    )
    assert fid["reference"]["file"] == protocol.reference.published
    lines = (place / "run" / "examples.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [each.id for each in load_suite(suite).examples(data)]


def test_two_processes_one_of_them_killed_end_as_one_process_does(place, data, monkeypatch):
    """As torchrun starts them, one after the other; the second dies after an output and is started again."""
    measured("crossflow-10k", data, "one")
    monkeypatch.setattr(run, "GENERATE_BATCH", 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    write_output, made = Store.write_output, []

    def dying(store, job, output) -> None:
        if made:
            raise KeyboardInterrupt
        made.append(job.name)
        write_output(store, job, output)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "write_output", dying)
        measured("crossflow-10k", data, "two")
    assert [path.name for path in (place / "two" / "outputs").iterdir()] == made
    assert measured("crossflow-10k", data, "two") is None
    monkeypatch.setenv("RANK", "0")
    assert measured("crossflow-10k", data, "two").n == N
    assert len(list((place / "two" / "features").iterdir())) == 4, "of both networks, by both processes"
    for name in ("settings.json", "examples.jsonl", "per_example.jsonl", "result.json"):
        assert (place / "two" / f"n-{N}" / name).read_bytes() == (place / "one" / f"n-{N}" / name).read_bytes()


def distance(suite: str, root: Path, images: list[np.ndarray]) -> float:
    metric = load_suite(suite, root).metrics["fid"]()
    metric.update([], images)
    [value] = metric.compute().values()
    return value.mean


def test_a_reference_is_made_of_the_images_once_and_they_are_at_no_distance_of_it(tmp_path):
    """U-ViT's: of central squares by Lanczos. Outputs are taken as they are, so that whole photographs differ."""
    root = write_photographs(tmp_path / "coco")
    squares = [coco_data.central_square(image, 256, Image.Resampling.LANCZOS) for image in photographs()]
    assert distance("uvit-crossflow", root, squares) == pytest.approx(0, abs=1e-9)
    made = read_statistics(root / coco.UVIT.made)
    assert (made.n, made.protocol["protocol"]) == (N, "crossflow")
    record = json.loads((root / coco.UVIT.made).with_suffix(".json").read_text())
    assert record["images"] == {
        "folder": "coco", "count": N, "prepared": "the central square, 256 px by Pillow, lanczos"
    }  # fmt: skip
    first = (root / coco.UVIT.made).stat().st_mtime_ns
    assert distance("uvit-crossflow", root, photographs()) > 1
    assert (root / coco.UVIT.made).stat().st_mtime_ns == first, "made once"


def test_outputs_of_coco30k_full_go_through_what_its_reference_did(tmp_path):
    root = write_photographs(tmp_path / "coco")
    assert distance("coco30k-full", root, photographs()) == pytest.approx(0, abs=1e-9)
    protocol = load_suite("coco30k-full", root).metrics["fid"]().protocol
    assert (protocol["protocol"], protocol["outputs"]) == (
        "legacy_tensorflow",
        "the central square, 256 px by Pillow, bicubic",
    )


def test_mjhq30k_compares_whole_images(place):
    meta = {f"{k:040x}": {"category": "art", "prompt": f"prompt {k}"} for k in range(N)}
    (place / coco_data.MJHQ_PROMPTS).write_text(json.dumps(meta))
    (place / coco_data.MJHQ_IMAGES / "art").mkdir(parents=True)
    for name, image in zip(meta, photographs(), strict=True):
        Image.fromarray(image).save(place / coco_data.MJHQ_IMAGES / "art" / f"{name}.jpg", format="PNG")
    assert distance("mjhq30k", place, photographs()) == pytest.approx(0, abs=1e-9)
    result = measured("mjhq30k", place, "run")
    assert result.values.keys() == {"fid/mjhq", "clip_score/cosine100"}
    assert result.protocol["fid"]["protocol"] == "clean"


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("uvit-crossflow", r"1 of 6 images are missing in .*val2014: COCO_val2014_0+2\.jpg; unpack val2014\.zip there"),
        ("t2ibenchmark", r"FID needs .*MS-COCO_val2014_fid_stats\.npz; fetch it from github\.com/boomb0om"),
    ],
)
def test_a_reference_that_is_not_there_is_one_sentence(tmp_path, suite, message):
    root = write_photographs(tmp_path / "coco")
    (root / "val2014" / "COCO_val2014_000000000002.jpg").unlink()
    with pytest.raises(CrossFlowError, match=message):
        load_suite(suite, root).metrics["fid"]()


def invoke(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: object) -> str:
    done = invoke(*words)
    assert done.exit_code == 2, done.output + repr(done.exception)
    [line] = done.stderr.splitlines()
    return line


def test_a_table_refuses_to_mix_protocols_and_sizes_unless_it_may(place, data):
    measured("crossflow-10k", data, "a")
    measured("crossflow-10k", data, "b", limit=5, model="second")
    measured("t2ibenchmark", data, "c", model="second")
    (place / "mine.toml").write_text('title = "Any COCO"\n[[columns]]\nlabel = "FID"\nvalue = "fid/coco"\n')
    table = ("--table", "mine.toml")
    assert "FID mixes what may not be compared: n is 6 in first" in refused("report", "a", "b", *table)
    message = refused("report", "a", "c", *table)
    assert "FID mixes what may not be compared: the suite is crossflow-10k 1 in first" in message
    mixed = invoke("report", "a", "c", *table, "--allow-mixed")
    assert mixed.exit_code == 0, mixed.stderr
    assert "FID: not comparable, fid.protocol is crossflow in first" in mixed.stdout
    assert "FID@6" in mixed.stdout
    assert "gives no value of the table 'table2'" in refused("report", "a", "--table", "table2", "--allow-mixed")


def test_two_clip_models_do_not_share_a_column(place, data, monkeypatch):
    measured("crossflow-10k", data, "a")
    monkeypatch.setattr(ClipProtocol, "load", lambda self, device: small_clip(replace(self, file="other.pt")))
    measured("crossflow-10k", data, "b", model="second")
    message = refused("report", "a", "b")
    assert "clip_score/crossflow mixes what may not be compared: clip_score.model is ViT-B-32 in first" in message
    mixed = invoke("report", "a", "b", "--allow-mixed").stdout
    assert "clip_score/crossflow: not comparable, clip_score.weights_sha256 is ViT-B-32.pt" in mixed


def test_images_of_a_folder_are_scored_and_too_few_are_refused(place, data):
    measured("crossflow-10k", data, "run", limit=4)
    images = place / "images"
    images.mkdir()
    for path in (place / "run" / "outputs").iterdir():
        path.rename(images / path.name)
    folder = ("t2i", "--suite", "crossflow-10k", "--data", data, "--model", "folder", "--ckpt", images)
    assert invoke(*folder, "--limit", 4, "--out", "again", "--json").exit_code == 0
    assert "2 of 6 images are missing" in refused(*folder, "--out", "all")


def test_a_run_is_scored_again_with_its_data_root(place, data):
    measured("crossflow-10k", data, "run")
    before = (place / "run" / f"n-{N}" / "result.json").read_bytes()
    assert invoke("score", "run", "--data", data, "--json").exit_code == 0
    assert (place / "run" / f"n-{N}" / "result.json").read_bytes() == before
    assert "The suite crossflow-10k needs its data root: --data FOLDER." in refused("score", "run")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--suite", "uvit-crossflow"), "The suite uvit-crossflow needs its data root: --data FOLDER."),
        (("--suite", "uvit-crossflow", "--data", "."), "Cannot read annotations/captions_val2014.json"),
        (("--suite", "uvit-crossflow", "--captions", "."), "--captions belongs to --suite folder"),
        (("--suite", "scenes-t2i", "--data", "."), "The suite scenes-t2i is embedded; leave --data out."),
        (("--suite", "folder", "--data", "."), "takes its prompts from --captions FILE; leave --data out"),
    ],
)
def test_a_wrong_call_is_one_sentence(place, words, sentence):
    assert sentence in refused("t2i", "--model", "first_of_test_coco:Fake", *words)
