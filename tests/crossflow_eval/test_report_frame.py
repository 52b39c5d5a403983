"""Runs as a data frame: the numbers of the CSV file, or the outputs with all that was said of them."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

import crossflow_eval
from crossflow.errors import CrossFlowError
from crossflow_eval.report import render
from crossflow_eval.report.runs import entries
from crossflow_eval.runs import launch


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of images of one's own, three in each."""
    place = tmp_path_factory.mktemp("frame")
    (place / "captions.csv").write_text("image,caption\na,one\nb,two\nc,three\n")
    found = []
    for seed, name in enumerate(("first", "second")):
        (place / name).mkdir()
        for letter in "abc":
            pixels = np.random.default_rng([seed, ord(letter)]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{letter}.png")
        request = launch.Request(
            model="folder",
            checkpoint=place / name,
            captions=place / "captions.csv",
            name=name,
            out=place / f"run-{name}",
        )
        found.append(launch.evaluate(request)[1])
    return found


def test_a_frame_is_the_csv_file_of_the_report(runs: list[Path]) -> None:
    written = pandas.read_csv(io.StringIO(render(entries(runs), "csv")))
    frame = crossflow_eval.frame(*map(str, runs))
    assert set(frame["model"].dropna()) == {"first", "second"}
    pandas.testing.assert_frame_equal(frame, written, check_dtype=False, rtol=0)


def test_outputs_are_the_rows_of_their_runs(runs: list[Path]) -> None:
    frame = crossflow_eval.frame(*runs, outputs=True)
    assert frame.groupby("model")["id"].apply(list).to_dict() == {"first": ["a", "b", "c"], "second": ["a", "b", "c"]}
    assert list(frame["prompt"]) == ["one", "two", "three"] * 2
    means = frame.groupby("model")["sharpness"].mean()
    values = crossflow_eval.frame(*runs).query("value == 'sharpness'").set_index("model")["mean"]
    assert means.to_dict() == pytest.approx(values.to_dict())


def test_what_gives_no_frame_is_one_sentence(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossFlowError, match="at least one run"):
        crossflow_eval.frame()
    with pytest.raises(CrossFlowError, match=r"holds no result\.json"):
        crossflow_eval.frame(tmp_path)
    with pytest.raises(AttributeError, match="frames"):
        _ = crossflow_eval.frames  # pyright: ignore
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CrossFlowError, match="pip install pandas"):
        crossflow_eval.frame(*runs)
