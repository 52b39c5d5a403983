"""A run's folder proves itself, and one from somebody else is hostile input: it ends in a sentence, nothing leaks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.cli import app
from crossflow_eval.report.runs import entries
from crossflow_eval.runs import launch
from crossflow_eval.runs.compare import compare_runs
from crossflow_eval.runs.store import Store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with captions, and a finished run of them."""
    place = tmp_path_factory.mktemp("runs")
    (place / "images").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "images" / f"i{i}.png")
    (place / "captions.csv").write_text("image,caption\n" + "".join(f"i{i},number {i}\n" for i in range(5)))
    launch.evaluate(request(place))
    return place


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def request(place: Path, seed: int = 0) -> launch.Request:
    folder = place / "images"
    return launch.Request(
        model="folder", checkpoint=folder, captions=place / "captions.csv", seed=seed, out=place / "run"
    )


def invoke(*arguments: str | Path):
    return CliRunner().invoke(app, list(map(str, arguments)))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def swap(run: Path) -> None:
    one, two, aside = (run.parent / "outputs" / name for name in ("i0-0.png", "i1-0.png", "aside"))
    for source, target in ((one, aside), (two, one), (aside, two)):
        source.rename(target)


def repaint(run: Path) -> None:
    Image.new("RGB", (8, 8)).save(run.parent / "outputs" / "i3-0.png")


def flatter(run: Path) -> None:
    record = json.loads((run / "result.json").read_text())
    record["values"]["sharpness"]["mean"] = 1e6
    (run / "result.json").write_text(json.dumps(record))


def flatter_a_row(run: Path) -> None:
    rows = (run / "per_example.jsonl").read_text()
    (run / "per_example.jsonl").write_text(rows.replace('"width":8', '"width":9', 1))


def cover_up(run: Path) -> None:
    repaint(run)
    lines = (run / "outputs.jsonl").read_text().splitlines(keepends=True)
    (run / "outputs.jsonl").write_text("".join(lines[:3] + lines[4:]))


CHANGES = {
    swap: "2 of 5 outputs in .* are not what was scored: i0-0.png, i1-0.png",
    repaint: "1 of 5 outputs in .* are not what was scored: i3-0.png",
    flatter: "result.json was edited",
    flatter_a_row: "per_example.jsonl was edited",
    cover_up: "outputs.jsonl was edited",
    lambda run: (run / "per_example.jsonl").unlink(): "per_example.jsonl was edited",
    lambda run: (run / "outputs.jsonl").unlink(): "outputs.jsonl was edited",
    lambda run: edit(run / "settings.json", seed=5): "settings.json is of another run|seed is 5 there and 0 now",
    lambda run: (run / "settings.json").unlink(): "no settings.json|settings.json, which says .* is gone",
    lambda run: (run / "examples.jsonl").write_text(""): "examples.jsonl (is not what was scored|differs)",
}


@pytest.mark.parametrize(("change", "sentence"), CHANGES.items())
def test_what_was_changed_after_scoring_is_named_by_every_command(place: Path, change, sentence: str) -> None:
    shutil.copytree(place / "run", place / "other")
    change(place / "run" / "n-5")
    for command in (
        lambda: launch.evaluate(request(place)),
        lambda: entries([place / "run"]),
        lambda: compare_runs(place / "other", place / "run"),
        lambda: records.check_whole(place / "run" / "n-5"),
    ):
        with pytest.raises(CrossFlowError, match=sentence):
            command()
    checked = invoke("check", place / "other", place / "run")
    assert checked.exit_code == 2
    assert checked.stdout == f"{place / 'other' / 'n-5'}: sound, 5 outputs\n"
    assert checked.stderr.startswith(f"Error: {place / 'run' / 'n-5'} is not as it was scored: ")


def test_outputs_that_are_gone_are_counted_and_named_and_the_run_makes_them_again(place: Path) -> None:
    for name in ("i1-0.png", "i2-0.png"):
        (place / "run" / "outputs" / name).unlink()
    said = "2 of 5 outputs in .*outputs are not what was scored: i1-0.png, i2-0.png; put them back, or remove them"
    with pytest.raises(CrossFlowError, match=said):
        records.check_whole(place / "run" / "n-5")
    launch.evaluate(request(place))
    records.check_whole(place / "run" / "n-5")


@pytest.mark.parametrize("change", [flatter, flatter_a_row, lambda run: (run / "result.json").write_text("{")])
def test_scoring_again_mends_what_follows_from_the_outputs(place: Path, change) -> None:
    before = (place / "run" / "n-5" / "result.json").read_bytes()
    change(place / "run" / "n-5")
    launch.score_again(place / "run")
    assert (place / "run" / "n-5" / "result.json").read_bytes() == before
    records.check_whole(place / "run" / "n-5")


@pytest.mark.parametrize("change", [swap, repaint, lambda run: edit(run / "settings.json", seed=5)])
def test_scoring_again_does_not_put_its_seal_on_other_outputs(place: Path, change) -> None:
    change(place / "run" / "n-5")
    with pytest.raises(CrossFlowError, match="is not as it was scored"):
        launch.score_again(place / "run")


def test_another_seed_does_not_take_over_the_outputs_of_a_folder_without_settings(place: Path) -> None:
    (place / "run" / "settings.json").unlink()
    with pytest.raises(CrossFlowError, match=r"outputs.* but no settings.json, which says what made them"):
        launch.evaluate(request(place, seed=1))
    assert not (place / "run" / "settings.json").exists()


def test_a_run_of_an_earlier_version_is_read_and_said_to_carry_no_digests(place: Path) -> None:
    record = json.loads((place / "run" / "n-5" / "result.json").read_text())
    del record["proof"]
    (place / "run" / "n-5" / "result.json").write_text(json.dumps(record))
    (place / "run" / "n-5" / "outputs.jsonl").unlink()
    assert entries([place / "run"])[0].result.n == 5
    checked = invoke("check", place / "run")
    assert (checked.exit_code, "carries no digests" in checked.stdout) == (0, True)
    launch.score_again(place / "run")
    assert "sound, 5 outputs" in invoke("check", place / "run").stdout


def test_a_second_evaluation_is_turned_away_at_once_and_the_first_is_not_disturbed(place: Path) -> None:
    """Two processes; the second holds no judge yet, nor has it touched a file, when it is turned away."""
    before = {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*") if path.is_file()}
    code = "import sys; from crossflow_eval.cli import app; app()"
    arguments = ["t2i", "--model", "folder", "--ckpt", "images", "--captions", "captions.csv", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with Store(place / "run").locked():
        second = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=place, env=environment, capture_output=True, text=True
        )
    assert (second.returncode, second.stdout) == (2, "")
    said, error = second.stderr.splitlines()
    assert said.startswith("run: 5 outputs of folder on the suite folder, by ")
    assert error == "Error: Another process is working in run; wait for it or stop it."
    after = {path: path.stat().st_mtime_ns for path in (place / "run").rglob("*") if path.name != ".lock"}
    assert {path: after.get(path, time) for path, time in before.items()} == before


PRIVATE = ("../../private.png", "{place}/private.png", "..", ".hidden.png", "a\\b.png", "a\0.png", "n" * 300 + ".png")


@pytest.mark.parametrize("name", PRIVATE)
def test_a_row_that_names_a_file_elsewhere_is_refused(place: Path, name: str) -> None:
    Image.new("RGB", (4, 4)).save(place / "private.png")
    sealed_with_rows(place / "run" / "n-5", [{"id": "i0", "index": 0, "output": name.format(place=place)}])
    with pytest.raises(CrossFlowError, match=r"per_example.jsonl, line 1 cannot be read: output: "):
        entries([place / "run"])


@pytest.mark.parametrize("what", ["the file", "the folder", "a pipe"])
def test_a_link_out_of_the_outputs_is_not_followed(place: Path, what: str) -> None:
    """By the page, by scoring, by the check: nothing of the private file is read or shown."""
    private, run = place / "private", place / "run" / "n-5"
    shutil.copytree(run.parent / "outputs", private)
    if what == "the folder":
        shutil.rmtree(run.parent / "outputs")
        (run.parent / "outputs").symlink_to(private)
    else:
        (run.parent / "outputs" / "i0-0.png").unlink()
        file = run.parent / "outputs" / "i0-0.png"
        os.mkfifo(file) if what == "a pipe" else file.symlink_to(private / "i0-0.png")
    for command in (
        lambda: launch.evaluate(request(place)),
        lambda: launch.score_again(run),
        lambda: entries([run]),
    ):
        with pytest.raises(CrossFlowError, match=r"leads out of the run's outputs|is no file, and is not read"):
            command()
    unsealed(run)
    entry = entries([run])[0]
    with pytest.raises(CrossFlowError, match=r"leads out of the run's outputs|is no file, and is not read"):
        entry.picture(entry.rows[0])


HOSTILE_ROWS = [
    "[]",
    "3",
    "null",
    "{}",
    '{"id": null}',
    '{"id": 3}',
    '{"id": "a", "index": "0"}',
    '{"id": "a", "index": NaN}',
    '{"id": "a", "score": NaN}',
    '{"id": "a", "score": [1e999]}',
    '{"id": "a", "score": 1' + "0" * 5000 + "}",
    '{"id": "a", "score": 1' + "0" * 400 + "}",
    '{"id": "\\ud800"}',
    '{"id": "a", "deep": ' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"id": "a", "task": {}}',
    '{"id": "a", "size": "ab"}',
    '{"id": "a", "size": [0, 5]}',
    '{"id": "a", "size": [5, 5], "detections": 7}',
    '{"id": "a", "size": [5, 5], "detections": [{"label": "cat", "box": ["1", "2", "3", "4"]}]}',
    '{"id": "a", "size": [5, 5], "detections": [{"label": "cat"}]}',
    '{"id": "a"} and more',
    '{"id": "a"',
]


@pytest.mark.parametrize("row", HOSTILE_ROWS, ids=range(len(HOSTILE_ROWS)))
def test_a_row_of_another_form_is_a_sentence_with_its_line(place: Path, row: str) -> None:
    unsealed(place / "run" / "n-5")
    path = place / "run" / "n-5" / "per_example.jsonl"
    path.write_text(path.read_text() + row + "\n")
    for command in ("report", "compare"):
        said = invoke(command, place / "run", place / "run")
        assert said.exit_code == 2
        assert said.stderr.startswith(f"Error: {path}, line 6 cannot be read: ")
        assert len(said.stderr) < len(str(path)) + 200


@pytest.mark.parametrize("name", ["settings.json", "result.json", "outputs.jsonl", "examples.jsonl"])
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b"{}", b"\xff", b'{"id": NaN}', b"[" * 100_000])
def test_a_record_of_another_form_is_a_sentence(place: Path, name: str, content: bytes) -> None:
    (place / "run" / "n-5" / name).write_bytes(content)
    for command in (("check",), ("report",), ("report", "--format", "html")):
        said = invoke(*command, place / "run")
        assert (said.exit_code, said.stderr.startswith("Error: ")) == (2, True), said.output
    said = invoke("score", place / "run", "--data", place / "captions.csv")
    assert said.exception is None or isinstance(said.exception, SystemExit), said.exception


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("settings.json", {"limit": -1}),
        ("settings.json", {"outputs_per_example": 10**12}),
        ("settings.json", {"suite": ["folder"]}),
        ("result.json", {"values": {"sharpness": {"mean": "high", "n": 5}}}),
        ("result.json", {"values": {"sharpness": {"mean": float("nan"), "n": 5}}}),
        ("result.json", {"protocol": {"depth": float("inf")}}),
        ("result.json", {"protocol": {"depth": {"scale": float("inf")}}}),
    ],
)
def test_a_record_with_a_value_of_another_kind_is_a_sentence(place: Path, name: str, change: dict[str, object]) -> None:
    unsealed(place / "run" / "n-5")
    edit(place / "run" / "n-5" / name, **change)
    said = invoke("score" if name == "settings.json" else "report", place / "run")
    assert (said.exit_code, said.stderr.startswith("Error: ")) == (2, True), said.output


STEERING = "\x1b]0;mine\x07[/x] a|b"


@pytest.mark.parametrize("command", [("report",), ("report", "--format", "csv"), ("report", "--format", "latex")])
def test_names_in_a_strangers_run_steer_no_terminal_and_are_no_markup(place: Path, command: tuple[str, ...]) -> None:
    record = json.loads((place / "run" / "n-5" / "result.json").read_text())
    record["settings"] |= {"model": STEERING, "suite": "without-a-table"}
    record |= {"proof": None, "values": {STEERING: {"mean": 1.0, "n": 5}}, "higher_is_better": {STEERING: True}}
    (place / "run" / "n-5" / "result.json").write_text(json.dumps(record))
    (place / "run" / "n-5" / "per_example.jsonl").write_text(
        "".join(json.dumps({"id": f"i{i}", STEERING: float(i)}) + "\n" for i in range(5))
    )
    shutil.copytree(place / "run", place / "other")
    for said in (invoke(*command, place / "run"), invoke("compare", place / "run", place / "other")):
        assert said.exit_code == 0, said.output
        assert "mine" in said.stdout and "[/x]" in said.stdout
        assert not set(said.output) & {"\x1b", "\x07"}


def unsealed(run: Path) -> None:
    """As an earlier version would have left it, or somebody who wants no digest to be looked at."""
    record = json.loads((run / "result.json").read_text())
    record["proof"] = None
    (run / "result.json").write_text(json.dumps(record))


def sealed_with_rows(run: Path, rows: list[dict[str, object]]) -> None:
    """The run with other rows and a seal that fits them: whoever wants to deceive can make one."""
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    result = records.read_result(run)
    assert result is not None
    (run / "per_example.jsonl").write_bytes(content)
    sealed = records.seal(result, (run / "outputs.jsonl").read_bytes(), content)
    (run / "result.json").write_text(sealed.model_dump_json())
