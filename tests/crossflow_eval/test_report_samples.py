"""The boxes over a picture: where the row says they are, and none where it does not say the picture's size."""

import re
from xml.etree import ElementTree

from crossflow_eval.report.entry import Entry
from crossflow_eval.report.samples import samples
from crossflow_eval.types import Result, Row, Settings

FOUND = [{"label": "tv <remote>", "box": [10, 20, 110, 60]}, {"color": "red", "label": "cow", "box": [0.5, 0, 1.5, 2]}]


def drawings(row: Row) -> list[str]:
    """What is drawn over the picture of a run's only output."""
    result = Result(
        settings=Settings(suite="geneval", suite_version="1", model="toy", identity={}),
        protocol={}, n=1, values={}, higher_is_better={}, data_sha256="0" * 64, environment={},
    )  # fmt: skip
    shown = samples(Entry(result=result, rows=[{"output": "a-0.png", **row}], picture=lambda row: b"PNG"), 0, ())
    assert shown.count("<img") == 1
    return re.findall(r'<svg class="boxes".*?</svg>', shown)


def test_boxes_are_drawn_in_the_coordinates_of_the_output():
    (text,) = drawings({"size": [512, 256], "detections": FOUND})
    drawing = ElementTree.fromstring(text)
    assert drawing.get("viewBox") == "0 0 512 256"
    rectangles = [
        tuple(float(rect.get(side)) for side in ("x", "y", "width", "height")) for rect in drawing.iter("rect")
    ]
    assert rectangles == [(10, 20, 100, 40), (0.5, 0, 1, 2)]
    assert [text.text for text in drawing.iter("text")] == ["tv <remote>", "red cow"]


def test_without_a_size_nothing_is_drawn():
    assert drawings({"detections": FOUND}) == []
