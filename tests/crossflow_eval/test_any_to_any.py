"""Any to any: outputs made together are kept, resumed and proved as others are; every metric moves as what it is of."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from crossflow.errors import CrossFlowError, Stopped
from crossflow.files import folders
from crossflow.files.hashes import file_sha256
from crossflow.model.checkpoint import save_checkpoint
from crossflow_eval import environment, records, suites
from crossflow_eval.metrics.any_to_any import Coherence, Conflict, Synchrony, ToldFactors, World, shuffled
from crossflow_eval.models.any_to_any import CrossFlowAny, _steps
from crossflow_eval.report import render
from crossflow_eval.report.entry import each_output
from crossflow_eval.report.runs import entries
from crossflow_eval.runs import launch, run
from crossflow_eval.types import Ask, Example, Model, Suite, Value
from crossflow_eval.view.server import application
from tests.crossflow.tiny_systems import tiny_system

MODEL = """
import numpy as np
from pathlib import Path

class Together:
    name, identity = "together", {"weights_sha256": "0" * 64}

    def generate(self, sources, seeds):
        with Path("asked").open("a") as log:
            log.writelines(f"{source}\\n" for source in sources)
        made = {
            "text": lambda source, seed: f"{source.given} {seed}",
            "image": lambda source, seed: np.full((4, 4, 3), seed % 251, dtype=np.uint8),
            "depth": lambda source, seed: np.full((4, 4), seed % 7, dtype=np.float32),
        }
        return [{name: made[name](*each) for name in each[0].wanted} for each in zip(sources, seeds)]

class Short(Together):
    def generate(self, sources, seeds):
        return [{"text": "alone"} for source in sources]
"""
WORLD = World(
    name="toy: an output is the JSON of its facts, and a text need not say the color",
    read=lambda modality, value: json.loads(value),
    tells=lambda event, name: {"shape": f"shape of {event}", "color": f"color of {event}"},
    right=lambda read, true, factor: None if factor not in true else read.get(factor) == true[factor],
    said=lambda facts, factor: factor in facts,
    bounce=lambda facts: facts.get("bounce"),
    may={"text": ("color",)},
)


class Count:
    """How many outputs there are of an example."""

    protocol, higher_is_better = {"counts": "outputs"}, {"outputs": True}

    def __init__(self):
        self.counts = []

    def update(self, examples, outputs):
        self.counts += map(len, outputs)
        return [
            {"task": example.tags["task"], "outputs_made": len(made)}
            for example, made in zip(examples, outputs, strict=True)
        ]

    def compute(self):
        return {"outputs": Value(mean=float(np.mean(self.counts)), n=len(self.counts))}


def toy(root: Path | None = None) -> Suite:
    """Three examples: two outputs of an input that stands by its name, one output, one by way of another."""
    asks = (
        Ask(given={"image": ("name",)}, wanted=("text", "depth")),
        Ask(given={"text": ("a ball",)}, wanted=("image",)),
        Ask(given={"text": ("a box",)}, wanted=("text",), via=("image",)),
    )
    return Suite(
        name="toy-any",
        version="1",
        task="any",
        output={"text": "txt", "image": "png", "depth": "npy"},
        examples=lambda root: [Example(id=f"e-{i}", source=ask, tags={"task": f"t{i}"}) for i, ask in enumerate(asks)],
        given=lambda ask: replace(ask, given={name: tuple(map(str.upper, of)) for name, of in ask.given.items()}),
        metrics={"count": Count},
        pictures=lambda example_id: {
            "source image": np.zeros((2, 2, 3), np.uint8),
            "target depth": np.ones((2, 2), np.float32),
        },
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two models, and a suite; no git state enters the records."""
    (tmp_path / "toy_together.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setitem(suites.SUITES, "toy-any", toy)
    return tmp_path


def request(out: Path, model: str = "Together") -> launch.Request:
    return launch.Request(task="any", model=f"toy_together:{model}", suite="toy-any", out=out)


def files(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: each for name, each in found.items() if not name.endswith((".lock", "timing.jsonl", "report.html"))}


def test_outputs_made_together_are_a_file_each_and_one_row(place):
    launch.evaluate(request(place / "run"))
    names = {"e-0-0.text.txt", "e-0-0.depth.npy", "e-1-0.image.png", "e-2-0.text.txt"}
    assert set(os.listdir(place / "run" / "outputs")) == names
    rows = records.read_rows(place / "run" / "n-3")
    assert rows[0]["outputs"] == {"text": "e-0-0.text.txt", "depth": "e-0-0.depth.npy"}
    assert [row["prompt"] for row in rows] == [
        "image → text, depth",
        "text: a ball → image",
        "text: a box → image → text",
    ]
    assert records.read_manifest(place / "run" / "n-3").keys() == names
    asked = (place / "asked").read_text().splitlines()
    assert "text: A BOX → image" in asked and "image → text" in asked, "what is on the way is made first, and given"
    (place / "run" / "outputs" / "e-0-0.depth.npy").write_bytes(b"other")
    with pytest.raises(CrossFlowError, match=r"1 of 4 outputs .* are not what was scored: e-0-0\.depth\.npy"):
        records.check_whole(place / "run" / "n-3")


def test_a_run_stopped_at_any_rename_ends_byte_equal(place, monkeypatch):
    """Exhaustive: also between two files of outputs that are made together."""
    launch.evaluate(request(place / "whole"))
    whole = files(place / "whole")
    replaced = os.replace
    for moment in range(len(whole)):
        left = iter(range(moment, -1, -1))

        def stopping(*names, left=left):
            if next(left, None) == 0:
                raise KeyboardInterrupt
            replaced(*names)

        with monkeypatch.context() as context, pytest.raises(Stopped) as stopped:
            context.setattr(os, "replace", stopping)
            launch.evaluate(request(place / f"stopped{moment}"))
        made, of = re.match(r"(\d+) of (\d+) outputs are kept", str(stopped.value)).groups()
        assert int(made) <= int(of), "outputs that are made together are one"
        launch.evaluate(request(place / f"stopped{moment}"))
        assert files(place / f"stopped{moment}") == whole


def test_a_finished_run_is_scored_again_where_the_source_is_another_and_not_for_another_commit(place, monkeypatch):
    first, _ = launch.evaluate(request(place / "run"))
    monkeypatch.setattr(environment, "_commit", lambda root: {"git_commit": "other", "git_dirty": "true"})
    with monkeypatch.context() as patch:
        patch.setattr(Count, "__module__", "crossflow_eval.metrics.count")
        patch.setattr(run, "_update", lambda *_: pytest.fail("it was scored again"))
        again, _ = launch.evaluate(request(place / "run"))
    assert again == first
    others, _ = launch.evaluate(request(place / "run"))
    assert others.environment["git_commit"] == "other", "nothing says that the metric of another package is the same"
    monkeypatch.setattr(Count, "__module__", "crossflow_eval.metrics.count")
    monkeypatch.setattr(environment, "source_sha256", lambda root: "0" * 64)
    anew, _ = launch.evaluate(request(place / "run"))
    assert anew.environment["source_sha256"] == "0" * 64 and anew.environment["git_commit"] == "other"
    assert anew.values == first.values


def test_the_source_is_what_both_packages_hold_and_no_compiled_file(tmp_path):
    for name in ("crossflow/a.py", "crossflow_eval/tables/b.toml", "tests/c.py", "crossflow/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    digest = environment.source_sha256.__wrapped__
    first = digest(tmp_path)
    for name in ("tests/c.py", "crossflow/__pycache__/a.pyc"):
        (tmp_path / name).write_text("two")
    assert digest(tmp_path) == first
    (tmp_path / "crossflow_eval" / "tables" / "b.toml").write_text("two")
    assert digest(tmp_path) != first


def test_a_model_that_leaves_an_output_out_is_told_so(place):
    with pytest.raises(CrossFlowError, match="gave outputs of text, and was asked for image"):
        launch.evaluate(request(place / "run", "Short"))


def test_a_row_of_a_stranger_leads_out_of_no_folder(place):
    launch.evaluate(request(place / "run"))
    rows = place / "run" / "n-3" / "per_example.jsonl"
    rows.write_text(rows.read_text().replace("e-0-0.depth.npy", "../settings.json"))
    with pytest.raises(CrossFlowError, match=r"line 1 cannot be read: outputs\.depth"):
        records.read_rows(rows.parent)


def test_the_page_shows_what_was_given_made_and_real(place):
    launch.evaluate(request(place / "run"))
    (shown,) = entries([place / "run"])
    first, second, _ = shown.rows
    assert list(shown.pictures(first)) == ["source image", "output depth", "target depth"]
    assert list(shown.pictures(second)) == ["source image", "output image", "target depth"]
    assert each_output(first)["text"]["output"] == "e-0-0.text.txt"
    page = render([shown], "html", beside=place)
    (data,) = re.findall(r'id="data-0">(.*?)</script>', page)
    one = json.loads(data)["outputs"][0]
    assert one["links"] == {"text": "run/outputs/e-0-0.text.txt", "depth": "run/outputs/e-0-0.depth.npy"}
    assert one["several"] and "link" not in one


def test_the_live_page_finds_every_picture_and_every_original(place):
    launch.evaluate(request(place / "run"))
    client = TestClient(application(place / "run", "token"), base_url="http://127.0.0.1/token/")
    page = client.get("show", params={"run": "n-3"}).text
    data, pictures = (re.findall(rf'id="{name}">(.*?)</script>', page)[0] for name in ("data-0", "pictures"))
    first, second, third = json.loads(data)["outputs"]
    assert first["pictures"].keys() == {"source image", "output depth", "target depth"}
    assert second["pictures"].keys() == {"source image", "output image", "target depth"}
    assert third["several"] and third["links"].keys() == {"text"}
    for part in (first, second):
        for place_of in part["pictures"].values():
            assert client.get(json.loads(pictures)[place_of]).headers["content-type"] == "image/png"
    assert client.get(first["links"]["text"]).text == (place / "run" / "outputs" / "e-0-0.text.txt").read_text()
    assert client.get(first["links"]["depth"].replace("e-0-0.depth.npy", "settings.json")).status_code == 404


def test_a_run_that_is_not_finished_shows_the_outputs_that_are_whole(place):
    launch.evaluate(request(place / "run"))
    (place / "run" / "n-3" / "result.json").unlink()
    (place / "run" / "outputs" / "e-0-0.depth.npy").unlink()
    rows, expected = records.read_outputs_so_far(place / "run" / "n-3")
    assert ([row["id"] for row in rows], expected) == (["e-1", "e-2"], 3)
    assert rows[0]["outputs"] == {"image": "e-1-0.image.png"} and rows[0]["task"] == "t1"


def made(**facts: dict) -> dict[str, str]:
    """Outputs by modality that say these facts."""
    return {modality: json.dumps(of) for modality, of in facts.items()}


def told(number: int, **target) -> Example:
    tags = {"task": "text/image+audio", "link": "trained", "weight": "0.50"}
    return Example(
        id=f"e-{number}", source=Ask(given={}, wanted=()), target={"event": str(number), **target}, tags=tags
    )


def test_told_factors_count_what_is_as_the_input_tells_it():
    """Law: with the truth in a share p of the outputs, p of the factors are right, and of a text those that it says."""
    metric = ToldFactors(WORLD)
    judged = {"told": {"image": {"shape": "text", "color": "text"}, "text": {"shape": "text", "color": "text"}}}
    examples = [told(number, **judged) for number in range(40)]
    outputs = []
    for number in range(40):
        true = WORLD.tells(str(number), "text")
        image = true if number < 30 else {"shape": true["shape"]}
        outputs.append(made(image=image, text={"shape": true["shape"]}))
    rows = metric.update(examples, outputs)
    values = {name: value.mean for name, value in metric.compute().items()}
    task = "told/text/image+audio"
    assert values[f"{task}/image/shape"] == values[f"{task}/text/shape"] == 1
    assert values[f"{task}/image/color"] == values["right/text/image+audio"] == 0.75
    assert f"{task}/text/color" not in values, "a text need not say it"
    assert values["told"] == values["told/trained"] == pytest.approx(0.75 + 0.25 * 2 / 3)
    assert (rows[0]["correct"], rows[39]["correct"], rows[39]["reason"]) == (True, False, "wrong in image: color")
    assert metric.higher_is_better["told/trained"] and metric.compute()["told"].ci_low < values["told"]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_coherence_is_the_share_that_agrees_and_shuffled_outputs_agree_by_chance(share):
    metric = Coherence(WORLD)
    count = 60
    examples = [told(number, untold={"image+audio": ["shape"]}) for number in range(count)]
    outputs = [
        made(image={"shape": number}, audio={"shape": number if number < share * count else -1})
        for number in range(count)
    ]
    metric.update(examples, outputs)
    values = {name: value.mean for name, value in metric.compute().items()}
    task = "coherence/text/image+audio"
    assert values["coherence"] == values[task] == values[f"{task}/shape"] == share
    assert values[f"{task}/shuffled"] == 0
    assert "coherence" in metric.higher_is_better and f"{task}/shuffled" not in metric.higher_is_better


def test_pairs_that_were_never_trained_have_a_mean_of_their_own():
    metric = Coherence(WORLD)
    examples = [told(number, untold={"image+audio": ["shape"]}) for number in range(4)]
    tags = [{"task": str(number), "link": "trained" if number < 3 else "zero_shot"} for number in range(4)]
    outputs = [made(image={"shape": 1}, audio={"shape": number}) for number in range(4)]
    metric.update([replace(each, tags=tag) for each, tag in zip(examples, tags, strict=True)], outputs)
    values = metric.compute()
    means = [values[name].mean for name in ("coherence", "coherence/trained", "coherence/zero_shot")]
    assert means == pytest.approx([1 / 4, 1 / 3, 0])
    assert metric.higher_is_better["coherence/zero_shot"]


def test_what_cannot_be_read_agrees_with_nothing():
    metric = Coherence(WORLD)
    metric.update([told(0, untold={"image+audio": ["shape"]})], [made(image={}, audio={})])
    assert metric.compute()["coherence"].mean == 0


def test_synchrony_counts_frames_and_an_unreadable_bounce_as_the_most():
    metric = Synchrony(WORLD, largest=5)
    bounces = [(1, 4), (2, 2), (None, 3)]
    outputs = [made(audio={"bounce": audio}, video={"bounce": video}) for audio, video in bounces]
    rows = metric.update([told(number) for number in range(3)], outputs)
    assert [row["sync_error"] for row in rows] == [3, 0, 5]
    values = metric.compute()
    assert values["sync_error/text/image+audio"].mean == pytest.approx(8 / 3)
    assert metric.higher_is_better == {"sync_error/text/image+audio": False}
    assert metric.update([told(3)], [made(audio={"bounce": 1})]) == [{}], "there is nothing to compare with"


def test_a_single_example_is_not_shuffled_with_itself():
    for metric, factor in ((Coherence(WORLD), "shape"), (Synchrony(WORLD, largest=5), "bounce")):
        outputs = made(image={factor: 1}, audio={factor: 1}, video={factor: 1})
        metric.update([told(0, untold={"image+audio": ["shape"]})], [outputs])
        values = metric.compute()
        assert values and not [name for name in values if name.endswith("/shuffled")]


def test_conflicts_say_whose_word_an_output_takes():
    metric = Conflict(WORLD)
    judged = {"told": {"image": {"shape": "text"}}, "against": {"text": "a", "audio": "b"}}
    outputs = [made(image={"shape": f"shape of {event}"}) for event in "aaab"]
    rows = metric.update([told(number, **judged) for number in range(4)], outputs)
    values = {name: value.mean for name, value in metric.compute().items()}
    assert values == {"wins/text/image+audio/text/0.50": 0.75, "wins/text/image+audio/audio/0.50": 0.25}
    assert rows[3] == {"wins_text": 0.0, "wins_audio": 1.0}


def test_shuffled_items_are_each_with_another_one():
    pairs = list(shuffled(range(7)))
    assert sorted(one for one, _ in pairs) == sorted(other for _, other in pairs) == list(range(7))
    assert all(one != other for one, other in pairs)


def test_an_example_that_does_not_say_what_is_judged_is_refused():
    with pytest.raises(CrossFlowError, match="e-0 does not say what is judged"):
        ToldFactors(WORLD).update([replace(told(0), target="a text")], [{}])


def test_an_ask_reads_as_one_line():
    ask = Ask(given={"text": ("a ball",), "audio": ("x", "y")}, wanted=("image", "video"), mix={"text": 0.3})
    assert str(ask) == "text: a ball + audio (2) → image, video (text 0.3)"
    assert json.dumps(str(Ask(given={}, wanted=("text",)))) == json.dumps("nothing → text")


def test_what_a_system_cannot_make_is_said_before_a_run_has_a_folder(place):
    save_checkpoint(place / "tiny.safetensors", tiny_system())
    asked = launch.Request(
        task="any", checkpoint=place / "tiny.safetensors", suite="toy-any", out=place / "run", device="cpu"
    )
    for more, says in (
        ({}, "Unknown modality 'depth'"),
        ({"method": "anchor"}, "has no networks for the method anchor"),
        ({"method": "anchor", "guidance_scale": 2.0}, "The method anchor does not use guidance_scale"),
        ({"merge": "concat"}, "merge changes nothing of fewer than 3 outputs"),
    ):
        with pytest.raises(CrossFlowError, match=says):
            launch.evaluate(replace(asked, **more))
    assert not (place / "run").exists()


def test_every_step_of_what_is_asked_for_is_checked():
    ask = Ask(given={"audio": ("x", "y")}, wanted=("image",), via=("text", "depth"))
    assert _steps(ask) == [
        ((("audio", 2),), ("text",)),
        ((("text", 1),), ("depth",)),
        ((("depth", 1),), ("image",)),
    ]


def test_a_run_that_lacks_a_judge_leaves_no_folder(place, monkeypatch):
    def lacking():
        raise CrossFlowError("The weights are not here: fetch them.")

    monkeypatch.setitem(suites.SUITES, "toy-any", lambda root: replace(toy(), metrics={"count": lacking}))
    with pytest.raises(CrossFlowError, match="The weights are not here"):
        launch.evaluate(request(place / "new" / "run"))
    assert not (place / "new").exists()


def test_our_own_system_is_asked_for_all_that_wants_the_same_at_once(tmp_path):
    """Law: outputs come back in the order of their sources, each of its own inputs and seed."""
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny_system())
    model = CrossFlowAny(path, context="self", device="cpu")
    assert isinstance(model, Model)
    assert (model.name, model.identity["context"], model.identity["method"]) == ("tiny", "self", "together")
    image = np.zeros((32, 32, 3), np.uint8)
    sources = [
        Ask(given={"text": ("a red ball",)}, wanted=("image", "audio")),
        Ask(given={"image": (image,)}, wanted=("text",)),
        Ask(given={"text": ("a blue box",), "image": (image,)}, wanted=("image", "audio")),
        Ask(
            given={"text": ("a blue box",), "image": (image,)},
            wanted=("image", "audio"),
            mix={"text": 0.9, "image": 0.1},
        ),
    ]
    made = model.generate(sources, [1, 2, 3, 3])
    assert [tuple(each) for each in made] == [each.wanted for each in sources]
    assert np.array_equal(model.generate(sources[2:3], [3])[0]["image"], made[2]["image"])
    assert not np.array_equal(made[2]["image"], made[3]["image"]), "weights change what is made"
    for option in ("method", "context", "merge"):  # before a run has a folder
        with pytest.raises(CrossFlowError, match=f"Unknown {option} 'alone'"):
            CrossFlowAny(path, device="cpu", **{option: "alone"})


def test_without_a_checkpoint_the_shipped_system_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "WEIGHTS", tmp_path)
    with pytest.raises(CrossFlowError, match=r"There is no file .*scenes-any\.safetensors: give the path"):
        CrossFlowAny(device="cpu")
    save_checkpoint(folders.shipped("any"), tiny_system(), half=True)
    model = CrossFlowAny(device="cpu")
    assert model.name == "scenes-any"
    assert model.identity["weights_sha256"] == file_sha256(folders.shipped("any"))
