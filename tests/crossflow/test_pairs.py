"""Training reads a folder's pairs once an epoch, on any processes; what is not the recipe's is refused by name."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.flow.batch import Batch
from crossflow.flow.guidance import Indicator
from crossflow.flow.losses import draw
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.data.folders import SourcePairs, open_pairs
from crossflow.training.data.pairs import Pairs, shares
from crossflow.training.data.shards import KeptPair, shard_name, write_index, write_shard

TINY = CONFIGS["t2i-tiny"]
TINY = replace(TINY, model=replace(TINY.model, guidance=Indicator(null_rate=0.6)), batch_size=8, steps=3)


def with_tower(config: TrainConfig, tower: str) -> TrainConfig:
    kl, contrast = config.model.losses
    return replace(config, model=replace(config.model, losses=(kl, replace(contrast, tower=tower))))


def tensors(batch: Batch) -> dict[str, Tensor]:
    """All that a batch holds."""
    parts = {f"{name} {part}": values for name, item in batch.items() for part, values in item._asdict().items()}
    parts |= {"same": batch.same, "goal": batch.goal}
    return {name: values for name, values in parts.items() if values is not None}


def item(number: int, **changes: object) -> KeptPair:
    generator = torch.Generator().manual_seed(number)
    parts = {
        "moments": torch.randn(8, 4, 4, generator=generator),
        "tokens": torch.randn(77, 384, generator=generator),
        "mask": torch.arange(77) < 3 + number,
        "caption": f"caption {number % 5}",
        "image": torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8),
        "image_features": torch.randn(1024, generator=generator).half(),
    }
    return KeptPair(**(parts | changes))


class Source:
    """Items made on demand; ``asked`` are the numbers of those that were."""

    fingerprint = "f" * 64

    def __init__(self, count: int = 11) -> None:
        self.count, self.asked = count, []

    def __len__(self) -> int:
        return self.count

    def item(self, index: int) -> KeptPair:
        self.asked.append(index)
        return item(index)


def picked(count: int, batch: int, steps: int, seed: int = 0) -> list[int]:
    """The items of the first steps, in order."""
    pairs = SourcePairs(Source(count), TINY, seed)
    return [int(i) for step in range(steps) for i in pairs.pick(step, batch, torch.Generator())]


@given(count=st.integers(1, 30), batch=st.integers(1, 20))
def test_every_epoch_goes_once_through_all_pairs(count, batch):
    """Also where steps lie across epochs, or hold several."""
    found = picked(count, batch, steps=-(-3 * count // batch))
    for epoch in range(3):
        assert sorted(found[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_hangs_on_seed_and_epoch():
    first, other = picked(50, 50, steps=2), picked(50, 50, steps=2, seed=1)
    assert first[:50] != first[50:] != other[50:]
    assert first[:50] != other[:50]
    assert sum(a != b for a, b in zip(first[:50], range(50), strict=True)) > 40
    pairs = SourcePairs(Source(50), TINY, 0)
    assert [int(i) for i in pairs.pick(1, 50, torch.Generator())] == first[50:], "a step needs no step before it"


@pytest.fixture
def source() -> Source:
    return Source()


def whole_step(source: Source, config: TrainConfig = TINY):
    """A step's picks, draws and batch."""
    pairs = SourcePairs(source, config, 0)
    assert isinstance(pairs, Pairs)
    picks = pairs.pick(0, 8, torch.Generator())
    draws = draw(8, (4, 4, 4), 0.6, torch.Generator().manual_seed(3), sampled_targets=True)
    assert 2 < (~draws.conditional).sum() < 8
    return pairs, picks, draws, pairs.load(picks, draws, 0, 8)


def test_a_batch_is_its_items(source):
    """Targets by hand in float64: 0.23010 (mean + exp(log_var / 2) noise), noise and all those of the donor."""
    _, picks, draws, batch = whole_step(source)
    items = [item(int(i)) for i in picks]

    def target(row: int) -> Tensor:
        mean, log_var = items[row].moments.double().chunk(2)
        return 0.23010 * (mean + (log_var / 2).exp() * draws.target_noise[row].double())

    for row in range(8):
        assert torch.allclose(batch["image"].values[row].double(), target(row), rtol=1e-5, atol=1e-7)
        assert torch.allclose(batch.goal[row].double(), target(int(draws.donor[row])), rtol=1e-5, atol=1e-7)
        assert torch.equal(batch["text"].values[row], items[row].tokens)
        assert torch.equal(batch["text"].mask[row], items[row].mask)
    same = [[a.caption == b.caption for b in items] for a in items]
    assert ((batch.same[:, None] == batch.same[None, :]) == torch.tensor(same)).all()
    assert set(batch) == {"text", "image"}


def test_captions_have_the_same_numbers_in_every_run(source):
    """They are compared across processes, so they are the first 63 bits of the text's sha256."""
    _, picks, _, batch = whole_step(source)
    for i, number in zip(picks, batch.same, strict=True):
        digest = hashlib.sha256(f"caption {int(i) % 5}".encode()).hexdigest()
        assert int(number) == int(digest[:16], 16) // 2


def test_shares_are_the_rows_of_the_batch_and_read_nothing_else(source):
    pairs, picks, draws, batch = whole_step(source)
    for start, stop in ((0, 1), (1, 4), (4, 8), (7, 8)):
        source.asked.clear()
        share = pairs.load(picks, draws, start, stop)
        mine, all_of_it = tensors(share), tensors(batch)
        assert mine.keys() == all_of_it.keys()
        assert all(torch.equal(mine[name], all_of_it[name][start:stop]) for name in mine)
        needed = {*range(start, stop), *draws.donor[start:stop].tolist()}
        assert sorted(source.asked) == sorted(int(picks[row]) for row in needed)


@pytest.mark.parametrize("tower", ["siglip-l16", "features"])
def test_what_the_tower_reads_comes_along(source, tower):
    _, picks, _, batch = whole_step(source, with_tower(TINY, tower))
    items = [item(int(i)) for i in picks]
    if tower == "features":
        assert "pixels" not in batch
        assert torch.equal(batch["image_features"].values, torch.stack([each.image_features.float() for each in items]))
    else:
        assert "image_features" not in batch
        assert torch.equal(batch["pixels"].values, torch.stack([each.image for each in items]))


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 1), (4, 2), (8, 1)])
def test_null_targets_come_from_the_whole_step(source, processes, accumulate):
    """However it is divided, down to single items."""
    config = replace(TINY, accumulate=accumulate)
    steps = list(shares(SourcePairs(source, TINY, 0), TINY, 0))
    assert all((~step.draws.conditional).sum() > 1 for step in steps)
    for process in range(processes):
        mine = list(shares(SourcePairs(source, config, 0), config, 0, 0, process, processes))
        assert len(mine) == len(steps) * accumulate
        for number, share in enumerate(mine):
            step = steps[number // accumulate]
            rows = slice(share.start, share.start + 8 // (processes * accumulate))
            assert torch.equal(share.batch.goal, step.batch.goal[rows])
            assert torch.equal(share.draws.conditional, step.draws.conditional[rows])
            assert torch.equal(share.draws.noise, step.draws.noise[rows])


def written_shards(folder, items, recipe=None):
    write_shard(folder / shard_name(0), items, {"skipped": []})
    write_index(folder, 1, recipe or {}, "0")
    return folder


def official(folder):
    """Three pairs in the authors' layout, of which 512 pixels and T5 are left out."""
    rng = np.random.default_rng(0)
    (folder / "imgs").mkdir(parents=True)
    (folder / "features").mkdir()
    for name in "abc":
        arrays = {
            "image_latent_256": rng.standard_normal((8, 32, 32), dtype=np.float32),
            "token_embedding_clip": rng.standard_normal((77, 768), dtype=np.float32),
            "token_mask_clip": (np.arange(77) < 9).astype(np.int64),
            "batch_caption": f"caption {name}",
        }
        np.save(folder / "features" / f"{name}.npy", arrays, allow_pickle=True)  # pyright: ignore
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(folder / "imgs" / f"{name}.png")
    lines = [json.dumps({"img_path": f"{name}.png", "prompt": f"caption {name}"}) + "\n" for name in "abc"]
    (folder / "img_text_pair.jsonl").write_text("".join(lines))
    return folder


def test_both_layouts_give_the_released_recipe_its_batches(tmp_path):
    config = replace(CONFIGS["t2i-256px-clip-dimr"], batch_size=3)
    source = open_pairs(official(tmp_path / "theirs"), config)
    again = open_pairs(written_shards(tmp_path / "ours", [source.item(i) for i in range(3)]), config)
    theirs, ours = (next(shares(SourcePairs(each, config, 0), config, 0)).batch for each in (source, again))
    assert theirs["image"].values.shape == (3, 4, 32, 32)
    assert theirs["text"].values.shape == (3, 77, 768)
    assert theirs["pixels"].values.shape == (3, 256, 256, 3)
    one, other = tensors(theirs), tensors(ours)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def refused(call, *arguments, **options) -> str:
    with pytest.raises(CrossFlowError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_folder_that_is_no_data_is_refused(tmp_path):
    assert "holds neither index.json (our shards) nor img_text_pair.jsonl" in refused(open_pairs, tmp_path, TINY)
    assert "holds no pairs" in refused(open_pairs, written_shards(tmp_path / "none", []), TINY)
    write_shard(tmp_path / shard_name(0), [item(0)], {"skipped": []})
    assert "run crossflow cache to its end" in refused(open_pairs, tmp_path, TINY)


def test_the_authors_layout_of_another_recipe_is_refused(tmp_path):
    folder = official(tmp_path)

    def first(name: str) -> str:
        config = CONFIGS[name]
        return refused(lambda: SourcePairs(open_pairs(folder, config), config, 0))

    assert "reads 32 pixels and minilm: make shards" in first("t2i-tiny")
    assert "holds no array token_mask_t5" in first("t2i-256px-t5-dimr")
    assert "holds no array image_latent_512" in first("t2i-512px-clip-dimr")
    assert "has no image_features, and this recipe reads" in first("t2i-256px-clip-dimr-image-features")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"moments": torch.zeros(8, 32, 32)}, "moments of [8, 32, 32], and this recipe reads moments of [8, 4, 4]"),
        ({"tokens": torch.zeros(77, 768)}, "tokens of [77, 768], and this recipe reads tokens of [77, 384]"),
        ({"tokens": torch.zeros(16, 384), "mask": torch.ones(16, dtype=torch.bool)}, "tokens of [16, 384]"),
        ({"image": None}, "no image, and this recipe reads image of [32, 32, 3]"),
        ({"image": torch.zeros(64, 64, 3, dtype=torch.uint8)}, "image of [64, 64, 3]"),
    ],
)
def test_items_of_other_sizes_are_refused(tmp_path, changes, said):
    """The first when the data is opened, a later one when it is read."""
    config = with_tower(TINY, "siglip-l16")
    source = open_pairs(written_shards(tmp_path, [item(0, **changes)]), config)
    assert f"Pair 0 of the training data has {said}" in refused(SourcePairs, source, config, 0)

    class Later(Source):
        def item(self, index: int) -> KeptPair:
            return item(index, **changes) if index == 4 else item(index)

    pairs = SourcePairs(Later(), config, 0)
    assert "Pair 4 of the training data has" in refused(list, shares(pairs, config, 0))


def test_shards_of_another_text_encoder_are_refused(tmp_path):
    """Also where the sizes are the same."""
    folder = written_shards(tmp_path, [item(0)], {"text": "clip-vit-l14"})
    message = refused(open_pairs, folder, TINY)
    assert "hold embeddings of clip-vit-l14, and this recipe reads those of minilm" in message
