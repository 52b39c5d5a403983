"""The suites of any to any: what is asked and judged, that every metric moves with what is true, and the page."""

import json
from collections import Counter
from pathlib import Path

import any_oracle
import numpy as np
import pytest
from typer.testing import CliRunner

from crossflow.recipes.anytoany import JOINED as JOINED_IN_TRAINING
from crossflow.recipes.recipe import PAIRS
from crossflow.sampling.media import read_value, writers
from crossflow.scenes.facts import TOLD
from crossflow.scenes.sense import read
from crossflow_eval.cli import app
from crossflow_eval.metrics.any_to_any import Judged
from crossflow_eval.report import render
from crossflow_eval.report.runs import entries
from crossflow_eval.suites import load_suite
from crossflow_eval.suites.scenes import any_to_any
from crossflow_eval.suites.scenes.any_to_any import (
    JOINED,
    MODALITIES,
    PROMPTED,
    SUITES,
    TASKS,
    WEIGHTS,
    inputs,
    real,
    unlike,
)
from crossflow_eval.tables import load_table, table_of_suite

NAMES = ("scenes-any-matrix", "scenes-any-bare", "scenes-any-joint", "scenes-any-prompts", "scenes-any-trips")


@pytest.fixture(autouse=True)
def few_events(monkeypatch, tmp_path):
    """Suites of four events, which take no time; their examples are not remembered beyond a test."""
    monkeypatch.setattr(any_to_any, "EVENTS", dict.fromkeys(TASKS, 4))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    any_to_any._drawn.cache_clear()
    any_to_any._by_id.cache_clear()
    yield
    any_to_any._drawn.cache_clear()
    any_to_any._by_id.cache_clear()


def test_the_matrix_asks_for_every_cell_of_every_event_and_marks_the_trained():
    examples = load_suite("scenes-any-matrix").examples(None)
    assert len(examples) == 4 * 25 and len({each.id for each in examples}) == len(examples)
    cells = {each.tags["task"]: each.tags["link"] for each in examples[:25]}
    assert list(cells) == [f"{one}/{other}" for one in MODALITIES for other in MODALITIES]
    assert Counter(cells.values()) == {"same": 5, "trained": 12, "zero_shot": 8}
    for name in ("scenes-any-matrix", "scenes-any-trips"):
        (matrix,) = load_table(name).matrices
        marked = {f"{row}/{column}" for row, columns in matrix.marked.items() for column in columns}
        assert marked == {cell for cell, link in cells.items() if link == "zero_shot"}
    for matrix in load_table("scenes-any-joint").matrices:
        assert set(matrix.marked) == {task.name for task in TASKS["joint"] if task.link == "zero_shot"}


def test_what_is_called_trained_is_what_the_recipes_train():
    """Text is trained with depth and film as their prompt, and never as an output beside them."""
    assert set(map(frozenset, PROMPTED)) == set(map(frozenset, PAIRS))
    assert set(map(frozenset, JOINED)) == set(map(frozenset, JOINED_IN_TRAINING))
    links = {each.name: each.link for each in (*TASKS["matrix"], *TASKS["joint"])}
    assert (links["text/depth"], links["depth/text"], links["image/audio"]) == ("trained", "trained", "zero_shot")
    assert (links["text/image+depth"], links["text/depth+audio"]) == ("trained", "zero_shot")


def test_bare_prompts_are_the_joint_tasks_of_a_single_input():
    bare, joint = (load_suite(f"scenes-any-{name}").examples(None) for name in ("bare", "joint"))
    single = [example for example in joint if len(example.source.given) == 1]
    assert [(each.id, each.source, each.target) for each in bare] == [(e.id, e.source, e.target) for e in single]
    assert len(bare) == 9 * len(joint) / 10


def test_texts_that_are_given_take_turns_and_say_what_is_judged():
    """Law: what an output is judged by is told by its inputs and can be told by it; what must agree is told by none."""
    for name in NAMES:
        for example in load_suite(name).examples(None)[:40]:
            judged, given = Judged.of(example), set(example.source.given)
            for output, factors in judged.told.items():
                assert {teller.partition("-")[0] for teller in factors.values()} <= given
                assert set(factors) <= TOLD[output]
                assert all(factor in TOLD[teller] or teller == "text-0" for factor, teller in factors.items())
            for pair, factors in judged.untold.items():
                told = {factor for of in judged.told.values() for factor in of}
                assert not told & set(factors)
                assert all(factor in TOLD[one] for one in pair.split("+") for factor in factors)
    captions = [example.source.given["text"][0] for example in load_suite("scenes-any-matrix").examples(None)[::25]]
    assert captions[0].startswith("a photo of") and captions[2].startswith("a picture of")


def test_an_input_stands_by_its_name_and_is_given_as_it_is():
    example = load_suite("scenes-any-matrix-val").examples(None)[15]
    assert (example.id, example.source.given) == ("val-000000-audio-to-text", {"audio": ("val-000000",)})
    given = inputs(example.source)
    assert given.given["audio"][0].dtype == np.float32 and given.wanted == ("text",)


def test_contradicting_inputs_are_of_events_that_share_no_look():
    examples = [
        each for each in load_suite("scenes-any-prompts").examples(None)[:19] if each.tags["link"] == "conflict"
    ]
    assert [each.tags["weight"] for each in examples] == [f"{weight:.2f}" for weight in WEIGHTS] * 2
    for each in examples:
        assert sum(each.source.mix.values()) == pytest.approx(1)
        assert len(set(Judged.of(each).against.values())) == 2
    ours, other = (
        {(thing.shape, thing.color) for thing in read("image", inputs_of).things}
        for inputs_of in (
            any_oracle.value(any_oracle.event("test", 0), "image"),
            any_oracle.value(unlike("test", 0), "image"),
        )
    )
    assert len(ours) == len(other) and not {part for look in ours for part in look} & {
        p for look in other for p in look
    }


def measured(name: str, share: str, tmp_path: Path, *words: object) -> dict:
    words = ("any", "--model", f"any_oracle:{share}", "--suite", name, *words)
    done = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / share), "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def by_metrics(name: str, model: type[any_oracle.Oracle]) -> dict[str, float]:
    """What a suite's metrics say of a model, without a run."""
    suite = load_suite(name)
    examples = suite.examples(None)
    outputs = model().generate([inputs(each.source) for each in examples], list(range(len(examples))))
    found: dict[str, float] = {}
    for make in suite.metrics.values():
        metric = make()
        metric.update(examples, outputs)
        found |= {name: value.mean for name, value in metric.compute().items()}
    return found


def test_every_metric_of_outputs_made_together_moves_with_what_is_true(tmp_path):
    """Law: an oracle that is right in a share of its outputs lies between shuffled and real data, which it equals."""
    oracle = measured("scenes-any-joint", "Oracle", tmp_path)["values"]
    told = [by_metrics("scenes-any-joint", any_oracle.Never), by_metrics("scenes-any-joint", any_oracle.Half)]
    told.append({name: value["mean"] for name, value in oracle.items()})
    for value, rises in (("told", True), ("coherence", True), ("sync_error/text/audio+video", False)):
        means = [values[value] for values in told]
        assert means == sorted(means, reverse=not rises) and means[0] != means[2], value
    assert told[2]["told"] == told[2]["coherence"] == 1
    assert told[2]["coherence/text/audio+video/shuffled"] < 0.6
    assert told[2]["sync_error/text/audio+video"] == 0
    for role, low, high in (("ceiling", 0.98, 1), ("chance", 0, 0.5)):
        (result,) = (tmp_path / "Oracle" / "references" / role).rglob("result.json")
        values = json.loads(result.read_text())["values"]
        assert low <= values["coherence"]["mean"] <= high and low <= values["told"]["mean"] <= high
    text = render(entries([tmp_path / "Oracle"]), "md")
    assert "Made together: oracle" in text and "Made together: Real data" in text
    assert "text → image + audio + video" in text and "1.00° " in text


def test_a_round_trip_and_contradicting_inputs_are_measured(tmp_path):
    trips = measured("scenes-any-trips", "Oracle", tmp_path / "trips", "--limit", 20)["values"]
    assert trips["told"]["mean"] == 1 and "told/text/audio/count" in trips
    prompts = measured("scenes-any-prompts", "Oracle", tmp_path / "prompts", "--limit", 19)["values"]
    assert prompts["told/complementary"]["mean"] == 1
    wins = [prompts[f"wins/text-2+audio/image/{of}/0.50"]["mean"] for of in ("text-2", "audio")]
    assert wins[0] + wins[1] <= 1, "an output takes one word, or none"


def test_outputs_made_elsewhere_are_made_of_files_and_read_from_files(tmp_path):
    """A program of another kind: it is given what the suite asks for, reads files, and writes files."""
    asked = CliRunner().invoke(
        app, ["prepare", "any", str(tmp_path / "asked"), "--suite", "scenes-any-joint", "--limit", "10"]
    )
    assert asked.exit_code == 0, asked.stderr
    examples = load_suite("scenes-any-joint").examples(None)[:10]
    rows = [json.loads(line) for line in (tmp_path / "asked" / "asks.jsonl").read_text().splitlines()]
    assert [(row["id"], row["to"]) for row in rows] == [(e.id, list(e.source.wanted)) for e in examples]
    (files,) = (row["from"] for row in rows if len(row["from"]) == 3)
    sound = next(file for name, file in files if name == "audio")
    given = real("test-000000", "audio")
    for suffix in (".npy", ".wav"):
        path = (tmp_path / "asked" / sound).with_suffix(suffix)
        assert looks(read_value("audio", str(path), given.shape)) == looks(given), "the WAV is the sound itself"
    out = tmp_path / "outputs"
    out.mkdir()
    for row in rows:
        for name in row["to"]:
            suffix, write = next(iter(writers(name).items()))
            (out / f"{row['id']}.{name}{suffix}").write_bytes(write(real("test-000000", name)))
    words = ["any", "--ckpt", out, "--suite", "scenes-any-joint", "--limit", 10, "--json"]
    done = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)["values"]
    assert values["told"]["mean"] == values["coherence"]["mean"] == 1
    again = CliRunner().invoke(
        app, [*map(str, words), "--out", str(tmp_path / "again"), "--ckpt", str(tmp_path / "run" / "outputs")]
    )
    assert json.loads(again.stdout)["values"] == values, "a run's own outputs are such a folder"
    for change, says in (
        (lambda: (out / "strange.image.png").write_bytes(b"x"), "cannot be read"),
        (
            lambda: (out / "strange.image.png").write_bytes(writers("image")[".png"](np.zeros((80, 50, 3), np.uint8))),
            "strange.image.png",
        ),
        (lambda: next(out.glob("*-to-text+audio.audio.npy")).unlink(), "test-000000-text-to-text+audio.audio"),
    ):
        change()
        told = CliRunner().invoke(app, [*map(str, words), "--out", str(tmp_path / "no")])
        assert told.exit_code == 2 and says in told.stderr.replace("\n", " ") and not (tmp_path / "no").exists()


class Large(any_oracle.Oracle):
    """Its images are of another size than the world's."""

    def generate(self, sources, seeds):
        return [{name: np.zeros((64, 64, 3), np.uint8) for name in ask.wanted} for ask in sources]


def test_an_output_that_no_reader_takes_is_refused_before_more_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(any_oracle, "Large", Large, raising=False)
    (tmp_path / "ids").write_text("test-000000-text-to-image\n")
    words = ["any", "--model", "any_oracle:Large", "--ids", str(tmp_path / "ids"), "--out", str(tmp_path / "run")]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2 and "image must be uint8 [32, 32, 3]" in " ".join(told.stderr.split())
    assert not list((tmp_path / "run" / "outputs").iterdir())


def looks(sound: np.ndarray) -> list[tuple[object, ...]]:
    found = read("audio", sound)
    return [(found.bounce, found.night), *((each.shape, each.color, each.column) for each in found.things)]


def test_every_task_stands_in_its_table():
    for suite, (of, _) in SUITES.items():
        table = table_of_suite(suite)
        assert table is not None
        named = {
            column.value.format(row=row)
            for matrix in table.matrices
            for row in matrix.rows
            for column in matrix.columns
        }
        for task in TASKS[of]:
            assert any(f"/{task.name}" in value for value in named), task.name
