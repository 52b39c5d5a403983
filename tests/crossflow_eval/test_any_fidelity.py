"""How real outputs of any to any are: distances beside the codec's, captions without Java, and an outside verifier."""

import any_oracle
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from benchmarks import any_fidelity
from benchmarks.any_fidelity import (
    CAPTIONED,
    Made,
    captioned,
    distances,
    new,
    of_captions,
    read_run,
    refuse_its_own,
    report,
    similarity,
    through_codec,
    together,
)
from crossflow.errors import CrossFlowError
from crossflow.scenes.events import event
from crossflow.scenes.sense import value
from crossflow_eval.cli import app
from crossflow_eval.suites.scenes import any_to_any
from crossflow_eval.types import Value
from tests.crossflow.tiny_systems import RAW, tiny_system

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def test_the_outputs_of_a_run_are_read_with_what_was_given(tmp_path, monkeypatch):
    monkeypatch.setattr(any_to_any, "EVENTS", dict.fromkeys(any_to_any.TASKS, 2))
    for kept in (any_to_any._drawn, any_to_any._by_id):
        kept.cache_clear()
    words = ["any", "--model", "any_oracle:Oracle", "--suite", "scenes-any-joint", "--limit", "10", "--out", tmp_path]
    done = CliRunner().invoke(app, list(map(str, words)))
    for kept in (any_to_any._drawn, any_to_any._by_id):
        kept.cache_clear()
    assert done.exit_code == 0, done.stderr
    name, made = read_run(tmp_path)
    assert name == any_oracle.Oracle.name and {each.event for each in made} == {"test-000000"}
    by_task = {each.task: each for each in made}
    both = by_task["text/audio+video"]
    assert (
        both.given == ("text",)
        and list(both.outputs) == ["audio", "video"]
        and np.array_equal(both.outputs["video"], value(event("test", 0), "video"))
    )
    assert by_task["text+image+audio/audio+video"].given == ("text", "image", "audio")
    assert len(new(made, "audio")) == sum("audio" in each.outputs for each in made) - 1, "one was given a sound"
    assert len(together(made)) == 7, "two outputs, of a text alone"


def test_all_distances_of_a_modality_are_of_one_n_and_what_is_spoilt_is_farther(monkeypatch):
    def tiny():
        def network(images):
            return np.stack([image.reshape(4, 8, 32, 3).mean((1, 2)).ravel() for image in images]).astype(np.float32)

        network.name, network.dim, network.weights_sha256 = "tiny", 12, ""
        return network

    monkeypatch.setattr(any_fidelity, "NETWORKS", {"scenes-features": tiny})
    images, dark = list(IMAGES), list(IMAGES // 4)
    sets = {"real": {"image": images[6:]}, "dark": {"image": dark[6:11]}, "none": {"image": []}}
    found = distances(sets, {"image": images[:6]}, 50)
    assert found["none"] == {} and {found[name]["image"].n for name in ("real", "dark")} == {5}
    assert found["dark"]["image"].mean > 10 * found["real"]["image"].mean


def test_captions_of_other_events_score_less_than_true_ones():
    events = [event("test", i) for i in range(12)]
    true = captioned([each.captions[1] for each in events], [each.captions[2:] for each in events])
    other = captioned([each.captions[1] for each in events[::-1]], [each.captions[2:] for each in events])
    assert tuple(true) == CAPTIONED and all(true[name].mean > other[name].mean for name in CAPTIONED)
    made = [Made(event=each.id, task="image/text", given=("image",), outputs={"text": each.prompt}) for each in events]
    given = Made(event=events[0].id, task="text/text", given=("text",), outputs={"text": "a ball"})
    found = of_captions("ours", [*made, given], {each.id: each for each in events}.__getitem__)
    assert list(found) == ["ours, image → text"] and found["ours, image → text"]["bleu_4"].n == 12


def test_what_belongs_together_is_nearer_to_an_outside_verifier_than_what_is_shuffled():
    system = tiny_system()
    pairs = [("image", image, "image", image) for image in IMAGES]
    ((name, (own, mixed)),) = similarity(system, pairs).items()
    assert name == "image + image" and own.mean == pytest.approx(1) and mixed.mean < own.mean - 1e-4


def test_a_system_is_no_verifier_of_itself():
    system, other = tiny_system(), tiny_system()
    with pytest.raises(CrossFlowError, match="another seed"):
        refuse_its_own(system, other)
    with torch.no_grad():
        next(other.prompts.parameters()).add_(1)
    refuse_its_own(system, other)


def test_the_ceiling_of_a_codec_is_what_it_decodes():
    film = np.random.default_rng(1).integers(0, 256, (2, *RAW["video"]), dtype=np.uint8)
    again = through_codec(tiny_system(), "video", list(film))
    assert all(np.array_equal(one, other) for one, other in zip(film, again, strict=True))


def test_the_page_names_networks_n_and_what_is_shuffled():
    score = Value(mean=0.5, ci_low=0.4, ci_high=0.6, n=7)
    page = report(
        {"real": {"image": score}, "ours": {"audio": score}},
        {"real": dict.fromkeys(CAPTIONED, score)},
        {"ours": {"audio + video": (score, score)}},
        ["made so"],
    )
    assert "image, as it is, scenes-features, n = 7" in page and "log-mel in colours, efficientnet-lite0" in page
    assert "| ours, shuffled | 0.500 [0.400, 0.600] |" in page and "| real | 0.5 [0.4, 0.6] |  |" in page
    assert "Similarity" not in report({}, {}, {}, [])
