"""Files of predicted captions: both kinds, kept as they stand, and what cannot be read named with its place."""

from __future__ import annotations

import json

import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.models.predictions import PredictedCaptions, read_predictions
from crossflow_eval.types import Example, Lookup

EXAMPLES = [Example(id=str(number), source=f"{number}.jpg", target=["a dog"]) for number in (7, 8, 9)]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_both_kinds_of_file_give_the_captions_as_they_stand(tmp_path):
    long = "word " * 10_000
    wanted = {"7": " A “dog”\n", "8": "", "9": long}
    results = [{"image_id": int(name), "caption": caption, "score": 1} for name, caption in wanted.items()]
    lines = "\n\n".join(json.dumps({"id": name, "caption": caption}) for name, caption in wanted.items())
    assert read_predictions(write(tmp_path / "results.json", results)) == wanted
    assert read_predictions(write(tmp_path / "captions.jsonl", f"\ufeff{lines}\n")) == wanted
    ours = [PredictedCaptions(tmp_path / name) for name in ("results.json", "captions.jsonl")]
    assert ours[0].identity == ours[1].identity
    assert ours[0].identity["captions"] == 3
    assert isinstance(ours[0], Lookup)
    assert [ours[0].read(name, 0) for name in wanted] == list(wanted.values())
    ours[0].check(EXAMPLES[:1], EXAMPLES, 1)


def test_lines_may_name_images_by_their_files_as_references_do(tmp_path):
    named = write(tmp_path / "a.jsonl", '{"image": "val/7.jpg", "caption": "a"}\n{"id": "8.png", "caption": "b"}\n')
    assert read_predictions(named) == {"7": "a", "8": "b"}
    for line, told in (
        ('{"image": "train/7.png", "caption": "c"}', "line 3: a second caption for 7"),
        ('{"id": 9, "image": "9.png", "caption": "c"}', "line 3: expected an object with 'id' or"),
    ):
        with pytest.raises(CrossFlowError, match=told):
            read_predictions(write(tmp_path / "b.jsonl", named.read_text() + line))


def test_another_caption_is_another_identity_and_another_order_is_not(tmp_path):
    entries = [{"image_id": 7, "caption": "a"}, {"image_id": 8, "caption": "b"}]
    first, turned, other = (
        PredictedCaptions(write(tmp_path / f"{name}.json", content)).identity
        for name, content in {"a": entries, "b": entries[::-1], "c": entries[:1]}.items()
    )
    assert first == turned != other


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", "a dog", r"must be a file \.json \(COCO results\) or \.jsonl"),
        ("a.json", "[{", r"a\.json: it is not JSON \(Expecting"),
        ("a.json", {"annotations": []}, r'holds {"annotations": \[\]}; expected COCO results, a list of'),
        ("a.json", [], "holds no captions"),
        ("a.json", [{"image_id": 7, "caption": "a"}, {"image_id": 8}], r'entry 2: expected .* got {"image_id": 8}'),
        ("a.json", [{"image_id": True, "caption": "a"}], "entry 1: expected an object with 'image_id' and 'caption'"),
        ("a.json", [{"image_id": 7.0, "caption": "a"}], r"entry 1: expected .* got .*7\.0"),
        ("a.json", [["7", "a"]], "entry 1: expected an object"),
        ("a.json", [{"image_id": 7, "caption": None}], "entry 1: expected an object"),
        ("a.json", [{"image_id": 7, "caption": "\ud83d"}], "half a character"),
        ("a.json", [{"image_id": 7, "caption": ["x" * 99]}], r"got .{80}…\.$"),
        ("a.json", [{"image_id": name, "caption": "a"} for name in (7, "7")], "entry 2: a second caption for 7"),
        ("a.json", [{"image_id": "\ud83d", "caption": "a"}], "half a character"),
        ("a.json", "[" * 100_000, r"a\.json"),
        ("a.jsonl", '{"id": 1' + "0" * 5000 + ', "caption": "a"}', "line 1"),
        ("a.jsonl", '{"id": NaN, "caption": "a"}', "line 1"),
        ("a.jsonl", '{"id": "7", "caption": "a"}\n\nnot json', "line 3: it is not JSON"),
        ("a.jsonl", '{"id": "7", "caption": "a"}\n\n{"id": "8"}', "line 3: expected an object with 'id' or"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place(tmp_path, name, content, told):
    with pytest.raises(CrossFlowError, match=told):
        read_predictions(write(tmp_path / name, content))


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(CrossFlowError, match=r"The predictions .*none\.json cannot be read"):
        read_predictions(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes('[{"image_id": 7, "caption": "café"}]'.encode("latin-1"))
    with pytest.raises(CrossFlowError, match=r"The predictions .*latin\.json cannot be read .*: save it as UTF-8"):
        read_predictions(tmp_path / "latin.json")


def test_missing_and_foreign_captions_are_counted_and_named(tmp_path):
    some = PredictedCaptions(write(tmp_path / "some.json", [{"image_id": 8, "caption": "a"}]))
    with pytest.raises(CrossFlowError, match=r"2 of 3 captions are missing in .*some\.json: 7, 9\."):
        some.check(EXAMPLES, EXAMPLES, 1)
    with pytest.raises(CrossFlowError, match=r"1 of 1 captions in .*some\.json belong to no example: 8\."):
        some.check([], EXAMPLES[:1], 1)
    for name, index in (("7", 0), ("8", 1)):
        with pytest.raises(CrossFlowError, match=f"holds no caption {index} of {name}"):
            some.read(name, index)
