"""The embedded suites whose sources are images: their files, their targets, and what their runs stand between."""

import dataclasses
import gzip
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.scenes import VERSION, example, render
from crossflow.scenes.depth import depth_map, low_res
from crossflow_eval import report
from crossflow_eval.datasets.folder import read_image
from crossflow_eval.judges.paraphrases import Paraphrases
from crossflow_eval.outputs import depth_colors
from crossflow_eval.report.runs import entries, write_page
from crossflow_eval.runs import launch
from crossflow_eval.suites import load_suite
from crossflow_eval.suites.scenes import images as scene_images
from crossflow_eval.suites.scenes import references as scene_references
from crossflow_eval.suites.scenes import t2i as scenes
from crossflow_eval.suites.scenes import tasks as scene_tasks
from crossflow_eval.suites.scenes.captions import look_at, read_caption
from crossflow_eval.types import Example

FEW = 16


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of its own, a short suite, few training scenes and few paraphrases, for the whole module."""
    root = tmp_path_factory.mktemp("cache")
    table = root / "paraphrases.gz"
    table.write_bytes(gzip.compress(b"1\nin front of\nbefore\n"))
    few = Paraphrases.read(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSFLOW_CACHE", str(root))
        patch.setenv("GIT_DIR", str(root / "none"))
        patch.setattr(Paraphrases, "of", lambda table: few)
        patch.setattr(scene_tasks, "COUNT", FEW)
        patch.setattr(scene_references, "CAPTIONED", 120)
        patch.setattr(scene_references, "MEASURED", 120)
        patch.setattr(scenes, "FID_REFERENCES", range(1000, 1050))
        patch.setattr(scenes, "feature_judge", MeanColor)
        yield root
    for made in (scene_references.usual_caption, scene_references.usual_depth, scene_tasks._reference_features):
        made.cache_clear()


class MeanColor:
    """A stand-in for the feature judge that takes 32 pixels a side and nothing else."""

    name, weights_sha256, dim = "mean", "0" * 64, 3

    def __call__(self, images):
        assert {image.shape for image in images} <= {(32, 32, 3)}
        return np.stack([image.mean(axis=(0, 1)) for image in images]).astype(np.float32)

    def looks(self, features):
        return features.astype(np.float64) / features.sum(axis=1, keepdims=True)


def listed(name: str) -> list[Example]:
    return list(load_suite(name).examples(None))


@pytest.mark.parametrize("name", scene_tasks.SUITES)
def test_sources_are_files_of_the_scenes_that_the_ids_name(name):
    examples = listed(name)
    task, split = scene_tasks.SUITES[name]
    assert [each.id for each in examples] == [f"{split}-{index:06d}" for index in range(FEW)]
    for index in (0, FEW - 1):
        scene = example(split, index).scene
        expected = low_res(scene, 64, 4)[0] if task == "sr" else render(scene, 32)
        assert np.array_equal(read_image(Path(examples[index].source)), expected)
    with pytest.raises(CrossFlowError, match="embedded; leave --data out"):
        load_suite(name).examples(Path("data"))


def test_targets_are_the_worlds_own():
    first = example("test", 0)
    assert listed("scenes-caption")[0].target == list(first.captions)
    target = listed("scenes-depth")[0].target
    assert np.array_equal(target["depth"], depth_map(first.scene, 32))
    assert set(target["depth"][target["objects"]].tolist()) == {np.float32(item.depth) for item in first.scene.objects}
    assert np.array_equal(read_image(listed("scenes-sr")[0].target), render(first.scene, 64))


def test_files_that_are_missing_damaged_or_stale_are_made_again(cache):
    """Law: whatever lies in the cache, a source shows its scene; what is right is left alone."""
    files = [Path(each.source) for each in listed("scenes-depth")]
    assert files[0].parent == cache / f"scenes-v{VERSION}-test-32px"
    content = [path.read_bytes() for path in files]
    files[0].unlink()
    files[1].write_bytes(content[1][:-20])
    files[2].write_bytes(content[3])
    before = files[5].stat().st_mtime_ns
    listed("scenes-depth")
    assert [path.read_bytes() for path in files] == content
    assert files[5].stat().st_mtime_ns == before
    assert {path.name for path in files[0].parent.iterdir()} == {path.name for path in files}


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSFLOW_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(CrossFlowError, match="let CROSSFLOW_CACHE name a folder"):
        listed("scenes-depth")


@pytest.mark.parametrize("shape", [(1, 1, 3), (16, 16, 3), (64, 64, 3), (5, 7, 3)])
def test_the_png_is_read_back_by_pillow(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, size=shape, dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(scene_images.encode_png(image))
    with Image.open(tmp_path / "a.png") as opened:
        opened.verify()
    assert np.array_equal(read_image(tmp_path / "a.png"), image)


def test_captions_are_read_as_they_were_written():
    """Law: of the captions of 120 scenes, the four fuller ones name every object, two of them the light."""
    for index in range(120):
        item = example("train", index)
        true = look_at(Example(id=item.id, source=""))
        told = [read_caption(caption) for caption in item.captions]
        assert all(each.objects == true.objects for each in told[1:])
        assert [each.night for each in told[1:]] == [item.scene.night, None, None, item.scene.night]
        asked = Counter[tuple[str, str]]()
        for clause in item.specification["include"]:
            asked[clause.get("color", ""), clause["class"]] += clause["count"]
        assert (told[0].objects, told[0].night) == (asked, None)


@pytest.mark.parametrize(
    ("caption", "objects", "night"),
    [
        ("", {}, None),
        ("A Red BALL, by day.", {("red", "ball"): 1}, False),
        ("three blue boxes and two rings at night", {("blue", "box"): 3, ("", "ring"): 2}, True),
        ("red red ball ball", {("red", "ball"): 1, ("", "ball"): 1}, None),
        ("a dark ball by day", {("", "ball"): 1}, None),
        ("a redball", {}, None),
    ],
)
def test_captions_of_any_form_are_read(caption, objects, night):
    told = read_caption(caption)
    assert (dict(told.objects), told.night) == (objects, night)


needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=needs_java if "meteor" in each else ()) for each in scene_tasks.SUITES]
)
def test_the_trivial_baseline_stays_below_the_ceiling(name):
    """Law, on all that both have but what the stand-in for the judge gives; the originals' PSNR has no mean."""
    suite, examples = load_suite(name), listed(name)
    means = {}
    better = {}
    for role, reference in suite.references.items():
        outputs = [reference.read(each.id, 0) for each in examples]
        metrics = [make() for make in suite.metrics.values()]
        for metric in metrics:
            metric.update(examples, outputs)
        means[role] = {key: value.mean for metric in metrics for key, value in metric.compute().items()}
        better = {key: up for metric in metrics for key, up in metric.higher_is_better.items()}
    assert list(means) == ["trivial", "ceiling"]
    both = means["trivial"].keys() & means["ceiling"].keys()
    assert better.keys() - both == ({"psnr_rgb", "psnr_y"} if "sr" in name else set())
    for key in both - {"fid", "inception_score_looks"}:
        gain = means["ceiling"][key] - means["trivial"][key]
        assert (gain if better[key] else -gain) > 0, key


@needs_java
def test_meteor_stands_beside_what_plain_captions_have(monkeypatch, tmp_path):
    """Law: all other values are those of scenes-caption; without Java the sentence names it."""
    values = {}
    for name in ("scenes-caption", "scenes-caption-meteor"):
        examples, metric = listed(name), load_suite(name).metrics["captions"]()
        metric.update(examples, [scene_references.true_caption(example("test", i).scene) for i in range(FEW)])
        values[name] = metric.compute()
    assert 0.3 < values["scenes-caption-meteor"].pop("meteor").mean < 1
    assert values["scenes-caption-meteor"] == values["scenes-caption"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CrossFlowError, match="there is no java on the PATH"):
        load_suite("scenes-caption-meteor").metrics["captions"]()


def test_the_most_frequent_caption_and_the_median_depth_are_of_the_training_scenes():
    captions = [text for index in range(120) for text in example("train", index).captions]
    assert captions.count(scene_references.usual_caption()) == max(map(captions.count, captions))
    maps = np.stack([depth_map(example("train", index).scene) for index in range(120)])
    usual = scene_references.usual_depth()
    assert (usual.dtype, usual.max()) == (np.float32, 80.0)
    assert ((maps < usual).mean(axis=0) <= 0.5).all()
    assert (((maps > usual).mean(axis=0) <= 0.5) | (usual == 80.0)).all()


@pytest.mark.parametrize("ground", [0.8, 1.6, 2.5, 4.0, 7.0, np.inf])
def test_the_distance_of_an_object_is_the_median_of_what_the_world_draws(ground):
    """Oracle: 200,000 draws; the median's standard error is below 0.01 m where objects vary most."""
    rng = np.random.default_rng(0)
    drawn = np.minimum(rng.uniform(3, 12, 200_000), rng.uniform(1.2, 2.0, 200_000) * ground)
    assert scene_references.median_distance(ground) == pytest.approx(np.median(drawn), abs=0.03)


def test_heights_and_distances_are_those_of_the_world():
    scenes_seen = [example("train", index).scene for index in range(600)]
    heights = [scene.camera.height for scene in scenes_seen]
    free = [
        item.depth
        for scene in scenes_seen
        for item in scene.objects
        if not np.isfinite(scene.camera.ground_depth(np.array(item.y + item.radius)))
    ]
    for drawn, (low, high) in ((heights, scene_references.HEIGHT), (free, scene_references.DISTANCE)):
        assert low <= min(drawn) and max(drawn) <= high
        assert np.mean(drawn) == pytest.approx((low + high) / 2, abs=(high - low) / 20)


def test_the_ceiling_of_depth_knows_the_pitch_and_nothing_that_is_not_seen():
    """Law: another camera height and other distances change nothing; the ground's depth is right up to the height."""
    scene = example("test", 0).scene
    guess = scene_references.visible_depth(scene)
    others = tuple(dataclasses.replace(item, depth=item.depth / 2) for item in scene.objects)
    moved = dataclasses.replace(scene, camera=dataclasses.replace(scene.camera, height=1.25), objects=others)
    assert np.array_equal(scene_references.visible_depth(moved), guess)
    target = scene_tasks.depth_target(scene)
    ground = ~target["objects"] & (target["depth"] < 40)
    assert guess[ground] == pytest.approx(target["depth"][ground] * 1.6 / scene.camera.height, rel=1e-5)
    assert (guess[np.isinf(target["depth"])] == 80).all()


def test_depth_is_judged_on_all_pixels_and_on_objects_alone():
    """Closed form: objects 10 % too far, all else right."""
    [each] = listed("scenes-depth")[:1]
    depth, objects = each.target["depth"], each.target["objects"]
    wrong = np.where(objects, 1.1 * depth, np.minimum(depth, 80)).astype(np.float32)
    made = load_suite("scenes-depth").metrics
    row = {}
    for make in made.values():
        metric = make()
        row |= metric.update([each], [wrong])[0]
    seen = depth <= 80
    assert row["objects/abs_rel"] == pytest.approx(0.1, rel=1e-5)
    assert row["abs_rel"] == pytest.approx(0.1 * objects.sum() / seen.sum(), rel=1e-5)
    assert (row["pixels"], row["objects/pixels"]) == (seen.sum(), objects.sum())
    assert "an object covers" in made["objects"]().protocol["pixels"]


def test_outputs_are_reduced_by_the_area_mean_for_fid():
    image = np.random.default_rng(0).integers(0, 256, size=(64, 64, 3), dtype=np.uint8)
    reduced = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX))
    assert np.abs(scene_tasks.halved(image).astype(int) - reduced).max() <= 1, "ties are rounded to even, Pillow's up"
    metric = load_suite("scenes-sr").metrics["fid"]()
    assert "area means" in metric.protocol["extractor"]
    with pytest.raises(CrossFlowError, match=r"shape \[64, 64, 3\], got \[32, 32, 3\]"):
        metric.update([Example(id="a", source="")], [np.zeros((32, 32, 3), np.uint8)])


PLUGIN = """
import numpy as np
from PIL import Image
class Bicubic:
    name, identity = "bicubic", {}
    def generate(self, sources, seeds):
        images = [Image.open(each) for each in sources]
        return [np.asarray(each.resize((64, 64), Image.Resampling.BICUBIC)) for each in images]
class Flat:
    name, identity = "flat", {}
    def generate(self, sources, seeds):
        return [np.full((32, 32), 7.0, np.float32) for _ in sources]
class Parrot:
    name, identity = "parrot", {}
    def generate(self, sources, seeds):
        return ["a red ball at night" for _ in sources]
"""


@pytest.mark.parametrize(("task", "model"), [("caption", "Parrot"), ("depth", "Flat"), ("sr", "Bicubic")])
def test_a_run_end_to_end(tmp_path, monkeypatch, task, model):
    """Run, resumed run, report with its pictures, and scoring again, with stand-ins for the model and the judge."""
    (tmp_path / "plugin_of_scene_tasks.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    request = launch.Request(task=task, model=f"plugin_of_scene_tasks:{model}", limit=12)
    result, folder = launch.evaluate(request)
    assert result is not None
    assert folder.parents[1] == Path("runs") / f"scenes-{task}"
    found = entries([folder])
    assert [entry.role for entry in found] == ["trivial", "ceiling", "model"]
    if task == "sr":
        assert found[0].result.values == result.values, "the same bicubic interpolation, from the file"
    text = report.render(found, "md")
    assert "Standard flow matching" not in text, "it was not run"
    files = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.suffix in (".json", ".jsonl")}
    kept = {path: content for path, content in files.items() if path.name != "timing.jsonl"}
    next(folder.parent.glob("outputs/test-000003*")).unlink()
    launch.evaluate(request)
    launch.score_again(folder)
    assert {path: path.read_bytes() for path in kept} == kept
    page = write_page(folder).read_text()
    (data,) = re.findall(r'id="data-0">(.*?)</script>', page)
    shown = {"caption": ["source"], "depth": ["output", "source", "target"], "sr": ["output", "source", "target"]}
    outputs = json.loads(data)["outputs"]
    assert [sorted(each["pictures"]) for each in outputs] == [shown[task]] * 12
    assert all(("targets" in each) == (task == "caption") for each in outputs), "texts to compare with"
    original = f"../outputs/test-000000-0.{ {'caption': 'txt', 'depth': 'npy', 'sr': 'png'}[task] }"
    assert outputs[0]["link"] == original and (folder / original).is_file()
    assert ("80 m and beyond" in page) == (task == "depth")
    assert ("not named: " in page) == (task == "caption")


def test_one_colour_is_one_depth():
    """Law: the colours go by metres alone, nearer is lighter, and the sky is as far as can be."""
    colors = depth_colors(np.array([[1.0, 2.0, 5.0], [30.0, 80.0, np.inf]]))
    luma = colors.astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(luma.ravel()[:5]) < 0).all()
    assert np.array_equal(colors[1, 1], colors[1, 2])
    assert np.array_equal(depth_colors(np.array([[5.0]]))[0, 0], colors[0, 2])
