"""Training pairs made of data sets: what an item becomes, and that neither stops nor processes nor faults change it."""

import json
import warnings
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_sets
import torch
from small_paper_tasks import small, small_of_text

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.resizing import covering, cut, shrunk_pair
from crossflow.modalities.depth import RelativeDepthConfig
from crossflow.recipes.recipe import SetData
from crossflow.training.data import open_data
from crossflow.training.data.pairs import seed_of, shares
from crossflow.training.data.set_pairs import SetPairs, ends, filled, fit_to_sets
from crossflow.training.data.sets import open_sets
from crossflow.training.train import train

ZEROSHOT = small("paper-depth-zeroshot")
VIRTUAL = replace(ZEROSHOT, data=replace(ZEROSHOT.data, layouts=("virtual-kitti",)))


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> Path:
    """A folder with a small data set of each layout that needs no published list, in a subfolder of its name."""
    root = tmp_path_factory.mktemp("sets")
    small_sets.coco(root / "coco", count=6)
    small_sets.small_hypersim(root / "hypersim", size=(24, 32))
    small_sets.small_virtual_kitti(root / "virtual-kitti", size=(20, 60))
    small_sets.imagenet_folders(root / "imagenet", count=5)
    for number in range(6):
        small_sets.save(root / "own" / f"{number}.png", small_sets.picture(20, 24, number))
        (root / "own" / f"{number}.txt").write_text("\n".join(own_captions(number)))
    return root


def own_captions(number: int) -> list[str]:
    return [f"a cat {number}", f"two dogs {number}"]


def batches(recipe, root, first=0, process=0, processes=1):
    torch.manual_seed(0)
    data = open_data(recipe, root, 0)
    pairs = data.pairs(recipe.model.build(), root, lambda line: None)
    return list(shares(pairs, recipe, 0, first, process, processes))


def test_the_target_of_depth_is_measured_where_the_data_set_measures(roots):
    batch = batches(VIRTUAL, roots / "virtual-kitti")[0].batch
    measured, target = batch.measured, batch["depth"].values
    assert measured.shape == target.shape == (4, 1, 16, 24)
    assert target.isfinite().all()
    assert target.abs().max() <= 1
    assert 0.8 < measured.float().mean() < 1  # a line of sky of 20 is left out
    assert torch.equal(batch.goal, target)
    assert batch["image"].values.shape == (4, 3, 16, 24)


def test_holes_take_the_value_of_the_nearest_measured_cell():
    """The oracle tries every measured cell."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 9, 11, generator=generator)
    latents[torch.rand(1, 9, 11, generator=generator) < 0.7] = torch.nan
    found, measured = filled(latents)
    assert torch.equal(measured, latents.isfinite())
    places = measured[0].nonzero()
    for row, column in np.ndindex(9, 11):
        distances = (places - torch.tensor([row, column])).square().sum(1)
        nearest = {float(latents[0, i, j]) for i, j in places[distances == distances.min()].tolist()}
        assert float(found[0, row, column]) in nearest


def test_the_loss_of_depth_does_not_read_what_was_not_measured(roots):
    """Law: the target where there is no measurement moves neither the flow loss nor its gradient, but the path there.

    At t = 0 the path does not depend on the target, so nothing at all moves.
    """
    recipe = replace(VIRTUAL, model=replace(VIRTUAL.model, times="source", losses=()))
    (share, *_) = batches(recipe, roots / "virtual-kitti")
    model = recipe.model.build()
    torch.nn.init.normal_(model.backbone.patches.out.weight, generator=torch.Generator().manual_seed(0))
    moved = replace(share.batch, goal=torch.where(share.batch.measured, share.batch.goal, 7.0))
    first, second = (model(batch, share.draws) for batch in (share.batch, moved))
    assert torch.equal(first["total"], second["total"])
    assert not torch.equal(first["total"], model(replace(share.batch, measured=None), share.draws)["total"])


def test_relative_depth_is_from_minus_one_to_one_between_its_tails():
    depth = np.random.default_rng(0).uniform(3, 60, (40, 50)).astype(np.float32)
    depth[:4] = np.nan
    modality = RelativeDepthConfig(tail=0.02).build((1, 40, 50))
    latents = modality.prepare([depth])
    near, far = np.nanquantile(depth.astype(np.float64), (0.02, 0.98))
    assert torch.equal(latents[0, 0].isnan(), torch.from_numpy(np.isnan(depth)))
    assert np.nanmin(latents) == -1
    assert np.nanmax(latents) == 1
    inside = (depth > near) & (depth < far)
    back = modality.decode(latents.nan_to_num())[0].numpy() / 100 * (far - near) + near
    assert np.allclose(back[inside], depth[inside], rtol=1e-5)
    assert torch.allclose(modality.prepare([3 * depth + 7]).nan_to_num(9), latents.nan_to_num(9), atol=1e-5)
    assert not modality.prepare([np.full((2, 2), 5, np.float32)]).any()


def test_super_resolution_reads_the_shrunk_square_of_its_target(roots):
    recipe = small("paper-sr")
    batch = batches(recipe, roots / "imagenet")[0].batch
    expected = {}
    for index in range(5):
        low, high = shrunk_pair(small_sets.picture(40, 40 + index, index), 32, 8)
        expected[tuple(low.flatten()[:9].tolist())] = (low, high)
    for source, target in zip(batch["small image"].values, batch["image"].values, strict=True):
        low = ((source + 1) * 127.5).round().permute(1, 2, 0).to(torch.uint8).numpy()
        held = expected[tuple(low.flatten()[:9].tolist())]
        assert np.array_equal(low, held[0])
        assert np.array_equal(((target + 1) * 127.5).round().permute(1, 2, 0).to(torch.uint8).numpy(), held[1])


def test_captions_are_drawn_of_all_that_an_image_has(roots):
    recipe = small("paper-caption", steps=12)
    model = recipe.model.build()
    seen = set()
    for share in batches(recipe, roots / "coco"):
        for ids in share.batch["text"].values.tolist():
            seen.add(model.autoencoder.config.vocabulary.decode([each for each in ids if each]))
    assert seen == {f"{caption.lower()} {number}" for caption in small_sets.CAPTIONS for number in range(6)}


def test_an_epoch_has_every_item_once_on_any_number_of_processes(roots):
    recipe = small("paper-sr", steps=5)
    whole = [share.batch.same for share in batches(recipe, roots / "imagenet")]
    assert sorted(torch.cat(whole).tolist()) == sorted(list(range(5)) * 4)
    parts = [
        [share.batch for share in batches(recipe, roots / "imagenet", process=rank, processes=2)] for rank in (0, 1)
    ]
    for step, (first, second) in enumerate(zip(*parts, strict=True)):
        assert torch.equal(torch.cat([first.same, second.same]), whole[step])


def test_an_image_of_ones_own_is_made_of_one_of_its_captions_as_the_language_model_reads_it(roots):
    recipe = small_of_text()
    items = open_sets(("images",), roots / "own")
    model = recipe.model.build()
    fit_to_sets(items, recipe, model, 0)
    embedder = recipe.model.reads.embedder()
    texts = {str(embedder.embed([text], 32)[0][0].tolist()): text for n in range(6) for text in own_captions(n)}
    pairs = SetPairs(items, recipe, model, 0)
    seen = set()
    for share in shares(pairs, replace(recipe, steps=12), 0):
        batch = share.batch
        for values, same, latents in zip(batch["text"].values, batch.same, batch["image"].values, strict=True):
            text = texts[str(values.tolist())]
            seen.add(text)
            image = covering(small_sets.picture(20, 24, int(text[-1])), (16, 16), (0.5, 0.5))
            assert torch.equal(latents, model.autoencoder.prepare([image])[0])
            assert int(same) == seed_of(text)
        assert torch.equal(batch.goal[share.draws.conditional], batch["image"].values[share.draws.conditional])
    assert seen == set(texts.values())


def test_an_autoencoder_is_fitted_to_the_images_at_hand(roots):
    """Oracle: the components of all patches of all images, by numpy."""
    recipe = small_of_text()
    items = open_sets(("images",), roots / "own")
    model = recipe.model.build()
    fit_to_sets(items, recipe, model, 0)
    images = [covering(items.read(index).image, (16, 16), (0.5, 0.5)) / 255 - 0.5 for index in range(6)]
    patches = np.stack(images).reshape(6, 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(24, -1)
    _, _, directions = np.linalg.svd(patches - patches.mean(0), full_matrices=False)
    assert np.allclose(model.autoencoder.mean, patches.mean(0), atol=1e-6)
    assert np.allclose(np.abs(directions[:6] @ model.autoencoder.basis.numpy()), np.eye(6), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("paper-caption", "coco"), ("paper-depth-zeroshot", ""), ("paper-sr", "imagenet"), ("own-t2i", "own")],
)
def test_a_run_that_was_killed_ends_in_the_same_bits(roots, tmp_path, name, folder):
    recipe, root = small_of_text(name) if name == "own-t2i" else small(name), roots / folder
    train(recipe, tmp_path / "whole", data=root, device="cpu", precision="fp32")

    @contextmanager
    def killed(stage, unit):
        def at(done, total, there=0):
            if done == 3:
                raise KeyboardInterrupt

        yield at

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "killed", data=root, device="cpu", precision="fp32", stage=killed)
    train(recipe, tmp_path / "killed", data=root, device="cpu", precision="fp32", resume=True)
    for file in ("model.safetensors", "state.safetensors", "log.jsonl"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    shown = "step-000004.txt" if name == "paper-caption" else "step-000004.png"
    assert (tmp_path / "whole" / "samples" / shown).stat().st_size > 0


def test_draws_of_a_resumed_run_are_those_of_the_whole_one(roots):
    long = small("paper-depth-zeroshot", steps=6)
    whole, rest = batches(long, roots), batches(long, roots, first=3)
    for one, other in zip(whole[3:], rest, strict=True):
        assert torch.equal(one.batch["image"].values, other.batch["image"].values)
        assert torch.equal(one.batch["depth"].values, other.batch["depth"].values)


def test_kitti_is_trained_on_in_its_benchmark_crop(tmp_path, monkeypatch):
    """The bottom 352 rows and the middle 1,216 columns."""
    recipe = small("paper-depth-kitti")
    model = replace(recipe.model, shape=(1, 352, 1216), reads=replace(recipe.model.reads, shape=(3, 352, 1216)))
    data = replace(recipe.data, size=(352, 1216))
    items = open_sets(("kitti",), small_sets.small_kitti(tmp_path, monkeypatch, count=1))
    image, depth = ends(items, 0, data, model)
    raw = items.read(0)
    assert np.array_equal(image, raw.image[23:, 13:1229])
    assert np.array_equal(depth, raw.depth[23:, 13:1229], equal_nan=True)
    image, _ = ends(items, 0, replace(data, benchmark=False, resize=False, crop="random"), model, (0, 0, 1 << 30, 0))
    assert np.array_equal(image, raw.image[:352, :1216])


def test_random_places_and_mirrors_are_fields(roots):
    still = replace(VIRTUAL, data=replace(VIRTUAL.data, crop="center", flip=0.0), steps=24)
    centres = {}
    for share in batches(still, roots / "virtual-kitti"):
        for index, image in zip(share.batch.same.tolist(), share.batch["image"].values, strict=True):
            assert torch.equal(centres.setdefault(index, image), image)
    mirrored = replace(still, data=replace(still.data, flip=1.0))
    for share in batches(mirrored, roots / "virtual-kitti"):
        for index, image in zip(share.batch.same.tolist(), share.batch["image"].values, strict=True):
            assert torch.equal(centres[index], image.flip(-1))
    moved = replace(still, data=replace(still.data, crop="random"))
    same = [
        torch.equal(centres[index], image)
        for share in batches(moved, roots / "virtual-kitti")
        for index, image in zip(share.batch.same.tolist(), share.batch["image"].values, strict=True)
    ]
    assert sum(same) < len(same) / 4


def broken(root: Path, count: int, of: int) -> Path:
    """COCO with ``count`` of ``of`` images damaged or missing."""
    small_sets.coco(root, count=of)
    for number in range(count):
        folder = "train2014" if number % 2 else "val2014"
        path = root / folder / f"COCO_{folder}_{number:012d}.jpg"
        path.write_bytes(path.read_bytes()[:200]) if number % 3 else path.unlink()
    return root


def test_a_data_set_with_five_per_cent_broken_files_trains_and_names_them(tmp_path):
    root = broken(tmp_path / "coco", 2, 40)
    recipe = replace(small("paper-caption", steps=10), sample_every=10)
    with pytest.warns(Notice) as caught:
        train(recipe, tmp_path / "run", data=root, device="cpu", precision="fp32")
    named = sorted(str(each.message).split(" is left out: ")[0] for each in caught if issubclass(each.category, Notice))
    assert named == ["train2014/COCO_train2014_000000000001.jpg", "val2014/COCO_val2014_000000000000.jpg"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 10


def test_another_item_stands_in_the_place_of_a_broken_one_in_every_process(tmp_path):
    root = broken(tmp_path / "coco", 2, 40)
    recipe = small("paper-caption", steps=10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        whole = [share.batch.same for share in batches(recipe, root)]
        parts = [[share.batch.same for share in batches(recipe, root, process=rank, processes=2)] for rank in (0, 1)]
    for step, halves in enumerate(zip(*parts, strict=True)):
        assert torch.equal(torch.cat(halves), whole[step])


def test_a_data_set_that_is_mostly_broken_ends_the_training(tmp_path):
    root = broken(tmp_path / "coco", 0, 60)
    for folder in ("train2014", "val2014"):
        for path in list((root / folder).iterdir())[5:]:
            path.write_bytes(b"")
    with warnings.catch_warnings(), pytest.raises(CrossFlowError, match="items that were read cannot be used"):
        warnings.simplefilter("ignore", Notice)
        train(small("paper-caption"), tmp_path / "run", data=root, device="cpu")


def test_images_that_are_too_small_are_left_out_without_a_word(tmp_path, recwarn):
    root = small_sets.imagenet_folders(tmp_path, count=4)
    small_sets.save(root / "train" / "n01440000" / "small.png", small_sets.picture(31, 90, 9))
    recipe = small("paper-sr", steps=5)
    found = torch.cat([share.batch.same for share in batches(recipe, root)])
    names = open_data(recipe, root, 0).items.names
    assert "n01440000/small.png" not in {names[index] for index in found.tolist()}
    assert not [each for each in recwarn if issubclass(each.category, Notice)]


def test_a_recipe_of_captions_does_not_train_on_a_data_set_without(roots, tmp_path):
    recipe = small("paper-caption")
    recipe = replace(recipe, data=replace(recipe.data, layouts=("imagenet",)))
    with (
        warnings.catch_warnings(),
        pytest.raises(CrossFlowError, match="has no captions, and this recipe"),
    ):
        warnings.simplefilter("ignore", Notice)
        train(recipe, tmp_path / "run", data=roots / "imagenet", device="cpu")


def test_a_folder_is_given_and_is_there(tmp_path):
    with pytest.raises(CrossFlowError, match="reads the data set coco: give its folder as --data"):
        train(small("paper-caption"), tmp_path / "run")
    with pytest.raises(CrossFlowError, match="give --data a folder that holds hypersim and virtual-kitti"):
        train(ZEROSHOT, tmp_path / "run", data=tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"size": (8, 8)}, "the data are cut to"),
        ({"size": (0, 8)}, "height is 0"),
        ({"flip": 1.5}, "flip is 1.5"),
    ],
)
def test_data_that_do_not_fit_the_model_are_refused(data, said):
    with pytest.raises(CrossFlowError, match=said):
        replace(ZEROSHOT, data=SetData(**({"layouts": ("kitti",), "size": (16, 24)} | data)))


def test_a_part_that_covers_keeps_proportions_and_one_of_the_right_size_is_left_as_it_is():
    image = small_sets.picture(20, 60, 0)
    assert np.array_equal(covering(image, (20, 60)), image)
    assert np.array_equal(covering(image, (20, 30)), image[:, 15:45])
    assert np.array_equal(covering(image, (20, 30), (0.0, 1.0)), image[:, 30:])
    assert covering(image, (10, 12)).shape == (10, 12, 3)
    assert np.array_equal(
        covering(image[..., 0].astype(np.float32), (40, 120)), np.kron(image[..., 0], np.ones((2, 2)))
    )
    with pytest.raises(CrossFlowError, match="smaller than the 21 x 8"):
        cut(image, (21, 8))
