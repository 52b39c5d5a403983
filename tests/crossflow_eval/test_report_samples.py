"""The boxes over a picture: where the row says they are, and none where it does not say the picture's size."""

from xml.etree import ElementTree

from crossflow_eval.report.samples import _boxes

FOUND = [{"label": "tv <remote>", "box": [10, 20, 110, 60]}, {"color": "red", "label": "cow", "box": [0.5, 0, 1.5, 2]}]


def test_boxes_are_drawn_in_the_coordinates_of_the_output():
    drawing = ElementTree.fromstring(_boxes({"size": [512, 256], "detections": FOUND}))
    assert drawing.get("viewBox") == "0 0 512 256"
    rectangles = [
        tuple(float(rect.get(side)) for side in ("x", "y", "width", "height")) for rect in drawing.iter("rect")
    ]
    assert rectangles == [(10, 20, 100, 40), (0.5, 0, 1, 2)]
    assert [text.text for text in drawing.iter("text")] == ["tv <remote>", "red cow"]


def test_without_a_size_nothing_is_drawn():
    assert _boxes({"detections": FOUND}) == ""
