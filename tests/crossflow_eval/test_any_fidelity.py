"""How real outputs of any to any are: distances beside the codec's, captions without Java, and an outside verifier."""

from dataclasses import replace
from pathlib import Path

import any_oracle
import numpy as np
import pytest
import torch
import typer
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
    refuse_its_runs,
    report,
    similarity,
    through_codec,
    together,
)
from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.model.checkpoint import save_checkpoint
from crossflow.recipes.anytoany import SMALLEST
from crossflow.scenes.events import event
from crossflow.scenes.sense import value
from crossflow_eval import records
from crossflow_eval.cli import app
from crossflow_eval.suites.scenes import any_to_any
from crossflow_eval.types import Value
from tests.crossflow.tiny_systems import RAW, tiny_system

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def oracle_run(tmp_path_factory) -> Path:
    """A finished run of the first event's tasks, whose outputs are real."""
    out = tmp_path_factory.mktemp("runs") / "oracle"
    words = ["any", "--model", "any_oracle:Oracle", "--suite", "scenes-any-joint", "--limit", "10", "--out", out]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(any_to_any, "EVENTS", dict.fromkeys(any_to_any.TASKS, 2))
        for kept in (any_to_any._drawn, any_to_any._by_id):
            kept.cache_clear()
        done = CliRunner().invoke(app, list(map(str, words)))
        for kept in (any_to_any._drawn, any_to_any._by_id):
            kept.cache_clear()
    assert done.exit_code == 0, done.stderr
    return out


def test_the_outputs_of_a_run_are_read_with_what_was_given(oracle_run):
    name, made = read_run(oracle_run)
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


def test_a_system_is_no_verifier_of_itself_nor_of_one_encoder_of_its_own_nor_rounded():
    system, other = tiny_system(), tiny_system()
    for encoder in other.prompts.values():
        for weight in encoder.parameters():
            weight.data = weight.data.half().float()
    with pytest.raises(CrossFlowError, match="of text, image, audio, video: give one that was trained with another"):
        refuse_its_own(system, other)
    for name in ("text", "audio", "video"):
        next(other.prompts[name].parameters()).data.add_(1)
    with pytest.raises(CrossFlowError, match="of image: give one"):
        refuse_its_own(system, other)
    next(other.prompts["image"].parameters()).data.add_(1)
    refuse_its_own(system, other)


def test_a_run_of_the_verifiers_file_is_refused(oracle_run, tmp_path, monkeypatch):
    (tmp_path / "verifier").write_bytes(b"weights")
    refuse_its_runs([oracle_run], tmp_path / "verifier")
    identity = {"weights_sha256": file_sha256(tmp_path / "verifier")}
    settings = records.read_settings(records.run_in(oracle_run)).model_copy(update={"identity": identity})
    monkeypatch.setattr(records, "read_settings", lambda _: settings)
    with pytest.raises(CrossFlowError, match="oracle was made by the verifier itself"):
        refuse_its_runs([oracle_run], tmp_path / "verifier")


def test_the_command_writes_a_page_with_the_similarity_that_a_verifier_sees(oracle_run, tmp_path, monkeypatch):
    """Two systems of random weights stand for those of two seeds, and colours for the features of networks."""

    def colors(images):
        return np.stack([np.asarray(image, np.float32).reshape(-1, 3).mean(0) for image in images])

    colors.name, colors.dim, colors.weights_sha256 = "colors", 3, ""
    monkeypatch.setattr(any_fidelity, "NETWORKS", dict.fromkeys(any_fidelity.NETWORKS, lambda: colors))
    monkeypatch.setattr(any_fidelity, "through_codec", lambda system, modality, raw: list(raw))
    names = SMALLEST.names
    for seed in (0, 1):
        torch.manual_seed(seed)
        system = replace(SMALLEST, coded=names, prompted=names).build()
        save_checkpoint(tmp_path / f"{seed}.safetensors", system)
    command = typer.Typer()
    command.command()(any_fidelity.main)
    words = ["--ckpt", tmp_path / "0.safetensors", "--run", oracle_run, "--n", "6", "--out", tmp_path / "page.md"]
    refused = CliRunner().invoke(command, [*map(str, words), "--verifier", str(tmp_path / "0.safetensors")])
    assert refused.exit_code == 2 and "give one that was trained with another seed" in refused.stderr
    assert not (tmp_path / "page.md").exists()
    done = CliRunner().invoke(command, [*map(str, words), "--verifier", str(tmp_path / "1.safetensors")])
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "page.md").read_text()
    section = page[page.index("## Similarity by an outside verifier") :]
    assert "| text + image | text + audio |" in section and "| oracle, shuffled | " in section
    assert "| real | " in section and f"verifier {file_sha256(tmp_path / '1.safetensors')[:12]}" in page


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
