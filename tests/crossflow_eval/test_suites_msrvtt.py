"""The suites of MSR-VTT: its list, two sets of prompts, and CLIPSIM of films made elsewhere."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow.files.videos import write_video
from crossflow_eval.judges.clip import Clip, Towers
from crossflow_eval.judges.clip_films import ClipFilms
from crossflow_eval.metrics.clipsim import VIT_B_32, VIT_L_14, ClipSim
from crossflow_eval.request import Request
from crossflow_eval.runs import launch
from crossflow_eval.suites import load_suite, msrvtt
from crossflow_eval.types import Example

SIDE, DIM = 8, 6


def small_clip() -> Clip:
    """Two random linear maps in the place of the towers."""
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(3 * SIDE * SIDE, DIM, generator=generator), torch.randn(77, DIM, generator=generator)
    towers = Towers(lambda x: x.flatten(1) @ image, lambda tokens: tokens.float() @ text, SIDE, DIM, "cpu")
    return Clip(towers, "small", "0" * 64)


def film(seed: int, frames: int = 3) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (frames, 12, 16, 3)).astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    """Three test clips of twenty captions, one that was for training, and one without captions."""
    videos = [{"video_id": f"video{n}", "split": "test", "id": n} for n in (7010, 7011, 7012, 7013)]
    sentences = [
        {"sen_id": 20 * n + k, "video_id": f"video{n}", "caption": f" caption {k} of {n}"}
        for n in (7010, 7011, 7012, 1)
        for k in range(20)
    ]
    videos.append({"video_id": "video1", "split": "train", "id": 1})
    root = tmp_path / "msrvtt"
    root.mkdir()
    (root / "test_videodatainfo.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    return root


def test_a_set_of_prompts_is_one_caption_a_clip_or_all(root):
    one, every = load_suite("msrvtt").examples(root), load_suite("msrvtt_all").examples(root)
    assert [each.id for each in one] == ["video7010", "video7011", "video7012"]
    assert len(every) == 60
    captions = {each.id: each.source for each in every}
    assert captions[str(20 * 7011 + 4)] == "caption 4 of 7011"
    assert [captions[each.tags["caption"]] for each in one] == [each.source for each in one]
    assert len({str(each.source).split()[1] for each in one}) > 1  # not always the first


def test_captions_have_all_twenty_references_and_the_film_where_it_is(root):
    example = load_suite("msrvtt_caption").examples(root)[1]
    assert example.source == "video7011.mp4"
    assert example.target == [f"caption {k} of 7011" for k in range(20)]
    (root / "TestVideo").mkdir()
    assert load_suite("msrvtt_caption").examples(root)[1].source == root / "TestVideo" / "video7011.mp4"


def test_clipsim_is_the_mean_over_frames_then_films_of_the_cosine():
    clip = small_clip()
    metric = ClipSim(clip, VIT_B_32)
    films = [film(0, 2), film(1, 5), film(1, 5)]
    examples = [Example(id=str(n), source=f"a red ball {n % 2}") for n in range(3)]
    rows = metric.update(examples[:1], films[:1]) + metric.update(examples[1:], films[1:])
    means = []
    for example, each in zip(examples, films, strict=True):
        text = clip.embed_texts([str(example.source)])[0].astype(np.float64)
        frames = clip.images("openai")(list(each)).astype(np.float64)
        means.append((frames @ text / np.linalg.norm(frames, axis=1) / np.linalg.norm(text)).mean())
    assert [row["clipsim/vit-b-32"] for row in rows] == pytest.approx(means, abs=1e-6)
    value = metric.compute()["clipsim/vit-b-32"]
    assert (value.mean, value.n) == (pytest.approx(np.mean(means), abs=1e-6), 3)
    assert min(means) < 0 or metric.protocol["negative_cosines"] == "as they are"


def test_a_variant_has_its_own_name_and_protocol():
    clip = small_clip()
    small, large = ClipSim(clip, VIT_B_32), ClipSim(clip, VIT_L_14)
    assert small.higher_is_better.keys() != large.higher_is_better.keys()
    assert small.protocol["protocol"] != large.protocol["protocol"]
    assert small.protocol["frames"] == "all, each of the same weight"


def test_films_longer_than_a_chunk_are_seen_whole():
    clip = small_clip()
    long = film(2, 70)
    frames = clip.images("openai")(list(long)).astype(np.float64)
    expected = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).mean(axis=0)
    assert ClipFilms(clip)([long])[0] == pytest.approx(expected, abs=1e-6)


def test_films_of_any_program_become_a_result(root, tmp_path, monkeypatch):
    kind = msrvtt.Kind(
        task="t2v",
        output="webp",
        examples=msrvtt.SUITES["msrvtt"].examples,
        metrics={"clipsim": lambda: ClipSim(small_clip(), VIT_B_32)},
    )
    monkeypatch.setitem(msrvtt.SUITES, "msrvtt", kind)
    for number, suffix in ((7010, "webp"), (7011, "gif"), (7012, "webp")):
        (tmp_path / "made").mkdir(exist_ok=True)
        write_video(tmp_path / "made" / f"video{number}.{suffix}", film(number))
    request = Request(task="t2v", checkpoint=tmp_path / "made", data=root, out=tmp_path / "run")
    assert (request.model_name, request.suite_name) == ("folder", "msrvtt")
    result, folder = launch.evaluate(request)
    assert result is not None
    assert result.values["clipsim/vit-b-32"].n == 3
    assert launch.score_again(folder, data=root) == result


def test_bad_lists_and_outputs_are_refused(root, tmp_path):
    with pytest.raises(CrossFlowError, match="The suite msrvtt needs its data root: --data FOLDER"):
        load_suite("msrvtt").examples(None)
    with pytest.raises(
        CrossFlowError, match=r"test_videodatainfo\.json.*fetch the test set's test_videodatainfo\.json"
    ):
        load_suite("msrvtt").examples(tmp_path)
    with pytest.raises(
        CrossFlowError, match=r"This metric needs films, uint8 \[frames h w 3\], got uint8 \[12, 16, 3\]"
    ):
        ClipSim(small_clip(), VIT_B_32).update([Example(id="a", source="a")], [film(0)[0]])
    (root / "test_videodatainfo.json").write_text('{"videos": [{"id": 1}], "sentences": []}')
    with pytest.raises(CrossFlowError, match=r"is not a list of MSR-VTT \(KeyError\('split'\)\)"):
        load_suite("msrvtt").examples(root)
    (root / "test_videodatainfo.json").write_text('{"videos": [], "sentences": []}')
    with pytest.raises(CrossFlowError, match="lists no clips of the test set with captions"):
        load_suite("msrvtt").examples(root)
    (tmp_path / "made").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "made" / "video7010.webp")
    from crossflow_eval.models import READERS

    with pytest.raises(CrossFlowError, match=r"1 of 1 films in .* cannot be read: The film .* is not used: .*a still"):
        READERS["webp"][1](tmp_path / "made")
