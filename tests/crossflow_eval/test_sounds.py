"""PANNs, VGGish and the scores on them, against what audioldm_eval made of the same files and weights; and CLAP."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden_file
from small_sounds import COUNT, sound, weights, write_panns, write_sounds, write_vggish
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

from crossflow.errors import CrossFlowError
from crossflow.files.recordings import Recording, read_recording
from crossflow_eval.judges.clap import Clap, load_clap
from crossflow_eval.judges.features import FeatureCache, FeatureExtractor, extract
from crossflow_eval.judges.panns import Panns, load_panns, published_panns
from crossflow_eval.judges.vggish import Vggish, load_vggish, patches, published_vggish
from crossflow_eval.metrics.sounds import ClapScore, FrechetAudioDistance, PannsScores
from crossflow_eval.types import Example

ROUNDING = 2e-5
"""Between float32 arithmetic of audioldm_eval and ours, of numbers around 1."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve recordings, twelve generated sounds, and the weights of both networks."""
    folder = tmp_path_factory.mktemp("sounds")
    write_sounds(folder / "real", generated=False)
    write_sounds(folder / "made", generated=True)
    write_panns(folder / "panns.pth")
    write_vggish(folder / "vggish.pth")
    return folder


@pytest.fixture(scope="module")
def panns(folder) -> Panns:
    return load_panns(folder / "panns.pth")


@pytest.fixture(scope="module")
def vggish(folder) -> Vggish:
    return load_vggish(folder / "vggish.pth")


@pytest.fixture(scope="module")
def made(folder) -> list[Recording]:
    return [read_recording(path) for path in sorted((folder / "made").iterdir())]


@pytest.fixture(scope="module")
def examples(folder) -> list[Example]:
    return [
        Example(id=f"clip{n:02d}", source=f"sound {n}", target=folder / "real" / f"clip{n:02d}.wav")
        for n in range(COUNT)
    ]


def test_both_networks_hear_what_the_originals_hear(panns, vggish, made):
    hidden, logits = panns.split(panns(made))
    golden = weights("features")
    for ours, theirs in ((hidden, "hidden"), (logits, "logits")):
        assert np.abs(ours - golden[theirs].numpy()).max() < ROUNDING
    embeddings = np.concatenate([vggish(each) for each in made])
    assert np.abs(embeddings - golden["vggish"].numpy()).max() < ROUNDING


def test_the_scores_are_audioldms(panns, vggish, made, examples):
    golden = json.loads(golden_file("audioldm_small.json").read_bytes())
    scores, distance = PannsScores(panns), FrechetAudioDistance(vggish)
    rows = []
    for part in (slice(0, 5), slice(5, None)):
        rows += scores.update(examples[part], made[part])
        distance.update(examples[part], made[part])
    values = {**scores.compute(), **distance.compute()}
    named = {
        "kl_panns": "kullback_leibler_divergence_softmax",
        "kl_panns_sigmoid": "kullback_leibler_divergence_sigmoid",
        "is_panns": "inception_score_mean",
        "is_panns_std": "inception_score_std",
        "fd_panns": "frechet_distance",
        "fad_vggish": "frechet_audio_distance",
    }
    for ours, theirs in named.items():
        assert values[ours].mean == pytest.approx(golden[theirs], rel=ROUNDING, abs=ROUNDING), ours
        assert values[ours].n == COUNT
    assert np.mean([row["kl_panns"] for row in rows]) == pytest.approx(values["kl_panns"].mean, rel=1e-12)
    assert scores.protocol["weights_sha256"] == panns.weights_sha256
    assert "do not span 8 feature dimensions" not in scores.protocol.get("warning", "")


def test_recordings_have_no_distance_to_themselves(panns, vggish, folder, examples):
    scores, distance = PannsScores(panns), FrechetAudioDistance(vggish)
    themselves = [read_recording(example.target) for example in examples]
    scores.update(examples, themselves)
    distance.update(examples, themselves)
    values = {**scores.compute(), **distance.compute()}
    for name in ("fd_panns", "fad_vggish"):
        assert values[name].mean == pytest.approx(0, abs=1e-9)
    assert abs(values["kl_panns"].mean) < 1e-5  # EPSILON keeps it from 0


def test_a_run_keeps_what_was_heard_of_outputs_and_recordings(panns, made, examples, tmp_path):
    cache = FeatureCache(panns, tmp_path)
    cached, plain = PannsScores(panns), PannsScores(panns)
    assert cached.update_from(cache, examples[:2], made[:2]) == plain.update(examples[:2], made[:2])
    size = cache.path.stat().st_size
    cached.update_from(cache, examples[:2], made[:2])
    assert cache.path.stat().st_size == size
    quieter = Recording(made[0].samples, made[0].rate * 2)
    assert not np.array_equal(cache.extract([quieter]), cache.extract(made[:1]))


def test_what_sounds_alike_in_the_first_channel_is_heard_alike(panns, vggish):
    rate, samples = sound(1, True)
    wave = (samples / 2**16).astype(np.float32)
    one = Recording(wave[:, :1], rate)
    other = Recording(np.stack([wave[:, 0], wave[::-1, 1]], axis=1), rate)
    assert isinstance(panns, FeatureExtractor)
    assert np.array_equal(panns([one]), panns([other]))
    assert np.array_equal(vggish(one), vggish(other))


def test_short_sounds_are_filled_up_to_two_seconds(vggish):
    assert vggish(Recording(np.full((160, 1), 0.1, dtype=np.float32), 16_000)).shape == (2, vggish.dim)


def test_a_tone_is_loudest_in_its_own_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(32_000) / 16_000).astype(np.float32)
    edges = 700 * (np.exp(np.linspace(np.log(1 + 125 / 700), np.log(1 + 7500 / 700), 66)) - 1)
    loudest = set(patches(tone).argmax(axis=2).ravel().tolist())
    assert loudest == {int(np.abs(edges[1:-1] - 1000).argmin())}


def test_too_few_outputs_are_refused(panns, made, examples):
    scores = PannsScores(panns)
    scores.update(examples[:9], made[:9])
    with pytest.raises(CrossFlowError, match=r"need 10 outputs and two recordings or more, got 9 and 9; raise --limit"):
        scores.compute()


def test_other_files_and_other_kinds_are_refused(folder, tmp_path, monkeypatch, vggish, examples):
    with pytest.raises(CrossFlowError, match=r"vggish\.pth is not a CNN14 of PANNs"):
        load_panns(folder / "vggish.pth")
    with pytest.raises(CrossFlowError, match=r"other\.pth is not torchvggish's VGGish"):
        torch.save(weights("panns"), tmp_path / "other.pth")
        load_vggish(tmp_path / "other.pth")
    with pytest.raises(CrossFlowError, match=r"has sha256 .*, expected e2ee543a27919542…; fetch the published file"):
        load_panns(folder / "panns.pth", "e2ee543a27919542")
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    with pytest.raises(CrossFlowError, match=r"needs Cnn14_16k_mAP=0\.438\.pth \(sha256 e2ee543a\) from zenodo\.org"):
        published_panns()
    with pytest.raises(CrossFlowError, match=r"FAD needs vggish-10086976\.pth \(sha256 10086976\) from github\.com"):
        published_vggish()
    with pytest.raises(CrossFlowError, match="This metric needs sounds, got str"):
        FrechetAudioDistance(vggish).update(examples[:1], ["a sound"])


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory) -> Path:
    """A tiny random CLAP in the published form."""
    folder = tmp_path_factory.mktemp("clap") / "small"
    torch.manual_seed(0)
    config = ClapConfig(
        text_config={
            "vocab_size": 262,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 90,
        },
        audio_config={
            "patch_embeds_hidden_size": 8,
            "hidden_size": 64,
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 1, 1],
            "enable_fusion": False,
        },
        projection_dim=12,
    )
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50).save_pretrained(folder)
    letters = [chr(code) for code in range(33, 127)] + ["Ġ"]
    vocabulary = {token: place for place, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    RobertaTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(clap_folder) -> Clap:
    return load_clap(clap_folder)


def test_clap_scores_are_the_models_own_cosines(clap, clap_folder, made, examples):
    """Of sounds at 48 kHz, where nothing is resampled, the model answers from its own processor's inputs."""
    sounds = [each for each in made if each.rate == 48_000][:2]
    metric = ClapScore(clap)
    rows = metric.update(examples[:2], sounds)
    model = ClapModel.from_pretrained(clap_folder).eval()
    waves = [each.samples[:, 0] for each in sounds]
    heard = ClapFeatureExtractor.from_pretrained(clap_folder)(waves, sampling_rate=48_000, return_tensors="pt")
    words = RobertaTokenizer.from_pretrained(clap_folder)(
        [example.source for example in examples[:2]], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        answer = model(input_features=heard["input_features"].float(), **words)
    cosines = (answer.audio_embeds * answer.text_embeds).sum(dim=1).tolist()
    assert [row["clap_score"] for row in rows] == pytest.approx(cosines, abs=1e-5)
    assert metric.compute()["clap_score"].mean == pytest.approx(np.mean(cosines), abs=1e-5)


def test_of_a_long_sound_clap_hears_the_beginning_whenever_it_is_asked(clap):
    wave = np.random.RandomState(0).uniform(-0.5, 0.5, (48_000 * 11, 1)).astype(np.float32)
    long, beginning = Recording(wave, 48_000), Recording(wave[: 48_000 * 10], 48_000)
    assert np.array_equal(extract(clap, [long]), extract(clap, [beginning]))


def test_a_clap_that_draws_its_windows_and_one_that_is_not_there_are_refused(clap_folder, tmp_path):
    import shutil

    fused = shutil.copytree(clap_folder, tmp_path / "fused")
    ClapFeatureExtractor(truncation="fusion").save_pretrained(fused)
    with pytest.raises(CrossFlowError, match="fuses several windows of a sound, drawn at random"):
        load_clap(fused)
    with pytest.raises(CrossFlowError, match="neither a folder here nor in the local hub cache: run `hf download"):
        load_clap("laion/clap-that-nobody-has")
