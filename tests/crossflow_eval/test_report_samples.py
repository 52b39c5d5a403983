"""The outputs of a run as the page gets them: boxes over a picture, what is cut, what is played, and how much room."""

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from crossflow.files.mel import log_mel
from crossflow.files.sounds import decode_wav
from crossflow_eval.outputs import KINDS
from crossflow_eval.report.entry import Entry
from crossflow_eval.report.pictures import Pictures, played, thumbnail
from crossflow_eval.report.samples import CARDS, samples
from crossflow_eval.types import Result, Row, Settings

FOUND = [{"label": "tv <remote>", "box": [10, 20, 110, 60]}, {"color": "red", "label": "cow", "box": [0.5, 0, 1.5, 2]}]


def entry(rows: list[Row]) -> Entry:
    result = Result(
        settings=Settings(suite="geneval", suite_version="1", model="toy", identity={}),
        protocol={}, n=1, values={}, higher_is_better={}, data_sha256="0" * 64, environment={},
    )  # fmt: skip
    return Entry(result=result, rows=rows, picture=lambda row: b"PNG")


def test_boxes_are_in_the_coordinates_of_the_output():
    (shown,), _ = samples([entry([{"output": "a-0.png", "size": [512, 256], "detections": FOUND}])], (), None)
    (output,) = shown.data["outputs"]
    assert output["size"] == [512, 256]
    assert output["boxes"] == [[10, 20, 110, 60], [0.5, 0, 1.5, 2]]
    assert output["seen"] == ["tv <remote>", "red cow"]


def test_without_a_size_no_box_is_known():
    (shown,), _ = samples([entry([{"output": "a-0.png", "detections": FOUND}])], (), None)
    (output,) = shown.data["outputs"]
    assert "boxes" not in output and output["seen"] == ["tv <remote>", "red cow"]


def test_runs_share_the_room_of_a_page_and_show_the_same_first_examples():
    runs = [entry([{"id": str(i), "output": f"{i}-0.png"} for i in range(CARDS)])] * 2
    shown, pictures = samples(runs, (), None)
    assert [(each.shown, each.of, each.data["outputs"][-1]["id"]) for each in shown] == [(5000, CARDS, "4999")] * 2
    assert len(pictures) == 1, "equal pictures are there once"


def test_pictures_too_large_for_their_share_become_smaller():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    kept = Pictures(room=10 * 2000, count=10)
    kept.add(stream.getvalue())
    assert kept.addresses[0].startswith("data:image/webp;base64,") and len(kept.addresses[0]) < 2000 * 1.4


FILM = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)


def test_a_film_is_in_the_page_as_its_own_file_and_as_its_frames(tmp_path):
    path = tmp_path / "a-0.webp"
    path.write_bytes(KINDS["webp"].encode(FILM))
    run = entry([{"output": path.name}])
    run = replace(run, picture=lambda row: thumbnail(path), play=lambda row: played(path))
    (shown,), addresses = samples([run], (), None)
    places = shown.data["outputs"][0]["pictures"]
    assert list(places) == ["output", "film"]
    assert addresses[places["film"]] == f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"
    with Image.open(io.BytesIO(thumbnail(path))) as strip:
        assert strip.size == (67, 33)
    assert shown.legend == "The frames of a film go from left to right, then down."


def test_a_sound_is_in_the_page_as_a_wave_of_its_spectrogram(tmp_path):
    mel = log_mel(0.3 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000))
    path = tmp_path / "a-0.mel.npy"
    path.write_bytes(KINDS["mel.npy"].encode(mel))
    sound = played(path)["sound"]
    again = log_mel(decode_wav(sound, rate=16_000, samples=16_000))
    assert abs(again.argmax(axis=0) - mel.argmax(axis=0)).max() == 0, "the same band is the loudest in every frame"


def test_what_is_played_takes_its_room_in_order_and_the_page_says_how_much_of_it_there_is():
    content = [bytes([0] * 8) + b"WAVE" + bytes([i]) * 900_000 for i in range(4)]
    rows: list[Row] = [{"id": str(i), "output": f"{i}-0.mel.npy"} for i in range(4)]
    asked = []

    def play(row: Row) -> dict[str, bytes]:
        asked.append(row["id"])
        return {"sound": content[int(row["id"])]}

    (shown,), addresses = samples([replace(entry(rows), play=play)], (), None)
    assert ["sound" in each["pictures"] for each in shown.data["outputs"]] == [True, True, False, False]
    assert asked == ["0", "1", "2"], "a sound takes a tenth of a second to make"
    assert sum(address.startswith("data:audio/wav;base64,") for address in addresses) == 2
    assert shown.legend.endswith("loud is light. The first 2 can be played here.")
