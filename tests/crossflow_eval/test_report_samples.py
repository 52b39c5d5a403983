"""The outputs of a run as the page gets them: boxes over a picture, what is cut, and how much room pictures take."""

import io

import numpy as np
from PIL import Image

from crossflow_eval.report.entry import Entry
from crossflow_eval.report.pictures import Pictures
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
