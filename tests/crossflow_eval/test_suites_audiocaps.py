"""The suites of AudioCaps: its table and a folder of recordings, and a run of sounds made elsewhere from end to end."""

import csv
import json
import shutil

import numpy as np
import pytest
from small_sounds import COUNT, write_panns, write_sounds, write_vggish

from crossflow.errors import CrossFlowError
from crossflow.files.recordings import Recording
from crossflow_eval.datasets.audiocaps import read_clips
from crossflow_eval.judges import panns, vggish
from crossflow_eval.metrics.caption import CaptionScores
from crossflow_eval.metrics.sounds import FrechetAudioDistance, PannsScores
from crossflow_eval.outputs import as_kind, kind_of
from crossflow_eval.request import Request
from crossflow_eval.runs import doctor, launch
from crossflow_eval.suites import audiocaps, load_suite
from crossflow_eval.types import Example

CLIPS = [f"{number:02d}-_qQ{number}" for number in range(COUNT)]


@pytest.fixture
def root(tmp_path):
    """Twelve clips with two captions each, of which the last has no recording."""
    root = tmp_path / "audiocaps"
    write_sounds(root / "test", generated=False, name="Y{:02d}.wav")
    for number, clip in enumerate(CLIPS):
        (root / "test" / f"Y{number:02d}.wav").rename(root / "test" / f"Y{clip}.wav")
    with (root / "test.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("audiocap_id", "youtube_id", "start_time", "caption"))
        for number, clip in enumerate([*CLIPS, "gone"]):
            table.writerow((100 + number, clip, 30, f"A dog barks {number} times, then stops"))
            table.writerow((200 + number, clip, 30, f"barks of dog {number}"))
    return root


@pytest.fixture
def made(tmp_path):
    """The outputs, named by the number of the caption."""
    write_sounds(tmp_path / "made", generated=True, name="1{:02d}.wav")
    return tmp_path / "made"


def test_a_suite_is_the_clips_that_are_there(root, caplog):
    sounds = load_suite("audiocaps", root).examples(root)
    assert [each.id for each in sounds] == CLIPS
    assert sounds[3].source == "A dog barks 3 times, then stops"
    assert sounds[3].target == root / "test" / f"Y{CLIPS[3]}.wav"
    captions = load_suite("audiocaps_caption", root).examples(root)
    assert captions[3].source == sounds[3].target
    assert captions[3].target == ["A dog barks 3 times, then stops", "barks of dog 3"]
    assert "1 of 13 clips have no recording" in caplog.text
    shutil.rmtree(root / "test")
    captions = load_suite("audiocaps_caption", root).examples(root)
    assert (len(captions), captions[12].source) == (13, "gone.wav")


def test_sounds_of_any_program_become_a_result(root, made, tmp_path, monkeypatch):
    """By a folder of WAV files of every rate and form; the run scored again, and a report, change nothing."""
    small = {
        "panns": lambda: PannsScores(panns.load_panns(write_panns(tmp_path / "panns.pth"))),
        "fad": lambda: FrechetAudioDistance(vggish.load_vggish(write_vggish(tmp_path / "vggish.pth"))),
    }
    kind = audiocaps.Kind(task="t2a", output="wav", metrics=small)
    monkeypatch.setitem(audiocaps.SUITES, "audiocaps", kind)
    request = Request(task="t2a", checkpoint=made, data=root, out=tmp_path / "run")
    assert (request.model_name, request.suite_name) == ("folder", "audiocaps")
    result, folder = launch.evaluate(request)
    assert result is not None
    assert result.n == COUNT
    assert {"fd_panns", "is_panns", "kl_panns", "fad_vggish"} <= result.values.keys()
    rows = [json.loads(line) for line in (folder / "per_example.jsonl").read_text().splitlines()]
    assert np.mean([row["kl_panns"] for row in rows]) == pytest.approx(result.values["kl_panns"].mean)
    before = (folder / "result.json").read_bytes()
    assert launch.score_again(folder, data=root) == result
    assert (folder / "result.json").read_bytes() == before
    kept = kind_of("a.wav").decode((tmp_path / "run" / "outputs" / f"{CLIPS[1]}-0.wav").read_bytes())
    assert (kept.rate, kept.samples.shape[1]) == (44_100, 2)


def test_captions_say_that_spider_needs_spice(root, tmp_path, monkeypatch):
    words = {"captions": lambda: CaptionScores(tokens="words", with_meteor=False)}
    kind = audiocaps.SUITES["audiocaps_caption"]
    monkeypatch.setitem(
        audiocaps.SUITES,
        "audiocaps_caption",
        audiocaps.Kind(task="caption", output="txt", metrics={**kind.metrics, **words}),
    )
    lines = [json.dumps({"id": clip, "caption": f"barks of dog {number}"}) for number, clip in enumerate(CLIPS)]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    request = Request(
        task="caption",
        suite="audiocaps_caption",
        checkpoint=tmp_path / "captions.jsonl",
        data=root,
        out=tmp_path / "run",
    )
    result, _ = launch.evaluate(request)
    assert result is not None
    assert result.values["rouge_l"].mean == 1
    assert "spider" not in result.values
    assert "SPIDEr is the mean of CIDEr-D and SPICE, and needs SPICE" in result.protocol["spider"]["warning"]


def test_spider_is_the_mean_of_cider_and_spice(tmp_path, monkeypatch):
    graphs = np.array([0.25, 0.5])
    monkeypatch.setattr("crossflow_eval.metrics.caption.find_java", lambda: "java")
    monkeypatch.setattr("crossflow_eval.metrics.caption.check_spice", lambda folder: None)
    monkeypatch.setattr("crossflow_eval.metrics.caption.spice", lambda captions, references, folder: graphs)
    scores = CaptionScores(tokens="words", with_meteor=False, spice_models=tmp_path, with_spider=True)
    references = ["a dog barks", "rain falls on tin"]
    examples = [Example(id=each, source="", target=[each]) for each in references]
    scores.update(examples, ["a dog barks", "rain on a roof of tin"])
    values = scores.compute()
    assert values["spider"].mean == pytest.approx((values["cider_d"].mean + values["spice"].mean) / 2)
    assert [row["spider"] for row in scores.rows()] == [(row["cider_d"] + row["spice"]) / 2 for row in scores.rows()]


def test_bad_tables_and_folders_are_refused(root, made):
    suite = load_suite("audiocaps", root)
    with pytest.raises(CrossFlowError, match="The suite audiocaps needs its data root: --data FOLDER"):
        suite.examples(None)
    shutil.copy(root / "test" / f"Y{CLIPS[0]}.wav", root / "test" / f"{CLIPS[0]}.wav")
    with pytest.raises(CrossFlowError, match="are of the same clip of AudioCaps; keep one of them"):
        suite.examples(root)
    shutil.rmtree(root / "test")
    with pytest.raises(CrossFlowError, match=r"There is no folder .*test; give the folder that holds the recordings"):
        suite.examples(root)
    write_sounds(root / "test", generated=False)
    with pytest.raises(CrossFlowError, match=r"No recording in .* is of a clip of test\.csv; name them YOUTUBE_ID"):
        suite.examples(root)
    (root / "test.csv").write_text("audiocap_id,youtube_id,caption\n1,a,b\n")
    with pytest.raises(CrossFlowError, match=r"test\.csv, line 2: expected audiocap_id, youtube_id, start_time, capt"):
        read_clips(root)
    (root / "test.csv").unlink()
    with pytest.raises(CrossFlowError, match=r"Cannot read .*test\.csv: No such file.*; fetch dataset/test\.csv of"):
        read_clips(root)


def test_outputs_that_lack_a_clip_or_cannot_be_read_are_refused(root, made):
    suite = load_suite("audiocaps", root)
    assert suite.made_elsewhere is not None
    examples = suite.examples(root)
    (made / "103.wav").unlink()
    with pytest.raises(CrossFlowError, match=rf"1 of 12 sounds are missing in .*: {CLIPS[3]}-0"):
        suite.made_elsewhere(made).check(examples, examples, 1)
    (made / "103.wav").write_bytes(b"")
    with pytest.raises(CrossFlowError, match=r"1 of 12 sounds in .* cannot be read: The recording .*103\.wav"):
        suite.made_elsewhere(made)


def test_a_model_in_python_answers_with_samples_and_their_rate():
    import torch

    wave = np.linspace(-0.5, 0.5, 100)
    for samples in (wave, wave[:, None], wave[None], torch.from_numpy(wave)):
        found = as_kind("mine", (samples, 8_000), "wav")
        assert isinstance(found, Recording)
        assert found.samples.shape == (100, 1)
        assert found.samples[:, 0].tolist() == wave.astype(np.float32).tolist()
    assert as_kind("mine", (np.stack([wave, wave], axis=1), 8_000), "wav").samples.shape == (100, 2)
    with pytest.raises(CrossFlowError, match="gave a sound at 0 samples a second where the suite needs a sound with"):
        as_kind("mine", (wave, 0), "wav")
    with pytest.raises(CrossFlowError, match=r"gave float64 \[100\] where the suite needs a sound with its rate"):
        as_kind("mine", wave, "wav")


def test_a_tone_is_a_bright_line_in_its_picture():
    wave = np.sin(2 * np.pi * 1000 * np.arange(8_000) / 8_000).astype(np.float32)[:, None]
    picture = kind_of("a.wav").picture
    assert picture is not None
    image = picture(Recording(wave, 8_000), 192)
    assert max(image.shape[:2]) <= 192
    loudest = image.sum(axis=2).mean(axis=1).argmax() / len(image)
    assert loudest == pytest.approx(1 - 1000 / 4000, abs=0.02)


def test_the_doctor_says_what_sounds_and_films_lack(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFLOW_EVAL_HOME", str(tmp_path))
    lacking = {"audiocaps": "Cnn14_16k_mAP=0.438.pth", "msrvtt": "ViT-B-32.pt", "ucf101": "i3d_torchscript.pt"}
    monkeypatch.setattr(doctor, "suite_names", lambda: list(lacking))
    found = list(doctor.examine())
    suites = {each.name: each for each in found if each.kind == "suite"}
    for name, file in lacking.items():
        assert not suites[name].ready
        assert file in suites[name].detail
    assert {"audiocaps", "msrvtt", "ucf101"} <= {each.name for each in found if each.kind == "data"}
    assert {"vggish-10086976.pth", *lacking.values()} <= {each.name for each in found if each.kind == "weights"}
