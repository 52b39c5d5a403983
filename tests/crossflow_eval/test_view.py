"""``crossflow-eval view``: what it answers, to whom, and that it follows what goes on in a folder."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from benchmarks.browser import BROWSER, DRIVER
from benchmarks.browser import browser as headless
from crossflow.errors import CrossFlowError
from crossflow_eval import records
from crossflow_eval.cli import app as program
from crossflow_eval.outputs import KINDS
from crossflow_eval.types import Result, Settings, Value
from crossflow_eval.view.folder import Folder
from crossflow_eval.view.server import application

TOKEN = "a-token"
HOSTILE = "<script>document.title='broken'</script>"
PROMPTS = ("a red ball", HOSTILE, "two green boxes", "a pink ring")


def settings(model: str, suite: str, limit: int | None = None) -> Settings:
    return Settings(suite=suite, suite_version="1", model=model, identity={}, limit=limit)


def ask(folder: Path, model: str, suite: str, limit: int | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(settings(model, suite, limit).model_dump_json())
    lines = [{"id": f"e{i}", "source": prompt, "target": None, "tags": {}} for i, prompt in enumerate(PROMPTS[:limit])]
    (folder / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def begin(folder: Path, model: str = "ours", suite: str = "pictures") -> Path:
    """A run of four outputs, none of them made, all in one folder, as an earlier version has it."""
    (folder / "outputs").mkdir(parents=True)
    return ask(folder, model, suite)


def begin_within(home: Path, count: int) -> Path:
    """A run of the first so many examples beside the outputs of its model."""
    if not home.exists():
        begin(home)
    return ask(home / f"n-{count}", "ours", "pictures", count)


def make(folder: Path, *numbers: int) -> None:
    """Make some of a run's outputs, each whole at once."""
    outputs = records.home_of(folder) / "outputs"
    for number in numbers:
        hidden = outputs / f".e{number}.tmp"
        Image.fromarray(np.full((32, 32, 3), 50 * number, np.uint8)).save(hidden, "PNG")
        hidden.rename(outputs / f"e{number}-0.png")


def finish(folder: Path) -> None:
    """Score a run: the second output is wrong."""
    made = len(records.read_ids(folder))
    make(folder, *range(made))
    rows = [
        {"id": f"e{i}", "output": f"e{i}-0.png", "prompt": prompt, "correct": i != 1}
        for i, prompt in enumerate(PROMPTS[:made])
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "per_example.jsonl").write_text(content)
    result = Result(
        settings=records.read_settings(folder),
        protocol={"right": {}},
        n=made,
        values={"right": Value(mean=1 - 1 / made, ci_low=0.25, ci_high=0.9, n=made)},
        higher_is_better={"right": True},
        data_sha256="0" * 64,
        environment={},
    )
    (folder / "result.json").write_text(result.model_dump_json())


def train(folder: Path, steps: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"step": step, "learning_rate": 1e-3, "total": 2.0 / step, "flow": 1.0 / step}) + "\n"
            for step in steps
        )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A finished run, one that goes on, and a training."""
    finish(begin(tmp_path / "runs" / "done"))
    make(begin(tmp_path / "runs" / "deep" / "going", "theirs", "others"), 0, 1)
    train(tmp_path / "runs" / "training", range(1, 31))
    return tmp_path / "runs"


@pytest.fixture
def client(runs: Path) -> TestClient:
    return TestClient(application(runs, TOKEN), base_url=f"http://127.0.0.1/{TOKEN}/")


def data(text: str, number: int = 0) -> dict:
    """The outputs of a run in a page."""
    (found,) = re.findall(rf'id="data-{number}">(.*?)</script>', text)
    return json.loads(found)


def names(text: str) -> list[str]:
    """The runs and trainings that a list offers."""
    return [unescape(name) for name in re.findall(r'name="run" value="([^"]*)"', text)]


def test_the_list_has_every_run_and_training_and_is_filtered_by_model_and_suite(client: TestClient) -> None:
    assert sorted(names(client.get("").text)) == ["deep/going", "done", "training"]
    assert "2 of 4" in client.get("").text and "right 0.750" in client.get("").text
    assert names(client.get("?model=theirs").text) == ["deep/going", "training"]
    assert names(client.get("?suite=pictures&model=").text) == ["done", "training"]
    assert names(client.get("?suite=pictures&model=theirs").text) == ["training"]


def test_a_run_that_goes_on_has_its_rows_as_they_come(client: TestClient, runs: Path) -> None:
    page = client.get("show?run=deep/going").text
    assert "2 of 4 outputs" in page
    assert [each["prompt"] for each in data(page)["outputs"]] == list(PROMPTS[:2])
    before = client.get("state?run=deep/going").json()
    assert client.get("state?run=deep/going").json() == before
    make(runs / "deep" / "going", 3)
    assert client.get("state?run=deep/going").json() != before
    page = client.get("show?run=deep/going").text
    assert [each["prompt"] for each in data(page)["outputs"]] == [*PROMPTS[:2], PROMPTS[3]]


def test_a_run_that_becomes_finished_has_its_table_and_verdicts(client: TestClient, runs: Path) -> None:
    assert "<table" not in client.get("show?run=deep/going").text
    finish(runs / "deep" / "going")
    page = client.get("show?run=deep/going").text
    assert "0.750" in page and [each["correct"] for each in data(page)["outputs"]] == [True, False, True, True]


def test_runs_beside_their_models_outputs_are_listed_each_with_its_own(client: TestClient, runs: Path) -> None:
    """A longer run that goes on says nothing of a shorter one, and the models' references are no runs to be chosen."""
    home = runs / "model"
    finish(short := begin_within(home, 2))
    finish(begin_within(home / "references" / "chance", 2))
    make(begin_within(home, 4), 2)
    assert sorted(names(client.get("").text)) == ["deep/going", "done", "model/n-2", "model/n-4", "training"]
    folder = Folder(runs)
    lines = {name: folder.line(place) for name, place in folder.runs().items()}
    assert (lines["model/n-2"]["outputs"], lines["model/n-2"]["score"]) == ("2", "right 0.500")
    assert (lines["model/n-4"]["outputs"], lines["model/n-4"]["score"]) == ("3 of 4", "not scored yet")
    shown = client.get("show?run=model/n-2").text
    assert [each["prompt"] for each in data(shown)["outputs"]] == list(PROMPTS[:2])
    before = {name: client.get(f"state?run=model/{name}").json() for name in ("n-2", "n-4")}
    make(short, 3)
    assert client.get("state?run=model/n-2").json() == before["n-2"]
    assert client.get("state?run=model/n-4").json() != before["n-4"]
    page = client.get("show?run=model/n-4").text
    assert [each["prompt"] for each in data(page)["outputs"]] == list(PROMPTS)
    original = client.get(data(page)["outputs"][3]["link"])
    assert original.content == (home / "outputs" / "e3-0.png").read_bytes()


def test_a_models_folder_is_the_page_of_its_runs_and_stands_for_one_until_the_first(tmp_path: Path) -> None:
    home = begin(tmp_path / "model")
    client = TestClient(application(home, TOKEN), base_url=f"http://127.0.0.1/{TOKEN}/")
    make(home, 0)
    assert "1 of 4 outputs" in client.get("").text
    finish(begin_within(home, 2))
    begin_within(home, 4)
    page = client.get("").text
    assert (len(data(page)["outputs"]), len(data(page, 1)["outputs"])) == (2, 2)
    assert "2 of 4 outputs" in page and "0.500" in page


def test_captions_come_with_their_words(client: TestClient, runs: Path) -> None:
    run = begin(runs / "captions")
    (run / "outputs" / "e2-0.txt").write_text("two boxes")
    (output,) = data(client.get("show?run=captions").text)["outputs"]
    assert (output["prompt"], output["text"]) == (PROMPTS[2], "two boxes")


def test_a_curve_grows_with_its_training(client: TestClient, runs: Path) -> None:
    before = client.get("show?run=training").text
    assert "<svg" in before
    train(runs / "training", range(31, 61))
    with (runs / "training" / "log.jsonl").open("a") as file:
        file.write('{"step": 61, "tot')
    after = client.get("show?run=training").text
    assert after != before, "a line that is being written is left for later"
    assert "60" in client.get("").text


def test_sounds_and_films_are_played(client: TestClient, runs: Path) -> None:
    outputs = {"e0-0.webp": np.arange(8 * 48, dtype=np.uint8).reshape(8, 4, 4, 3), "e1-0.mel.npy": np.ones((32, 32))}
    for folder, (name, output) in zip(("films", "sounds"), outputs.items(), strict=True):
        run = begin(runs / folder, model=folder)
        kind = KINDS[name.partition(".")[2]]
        (run / "outputs" / name).write_bytes(kind.encode(kind.convert(output)))
    film = client.get(f"picture?{urlencode({'run': 'films', 'part': 'film', 'output': 'e0-0.webp'})}")
    assert film.headers["content-type"] == "image/webp"
    assert film.content == (runs / "films" / "outputs" / "e0-0.webp").read_bytes()
    sound = client.get(f"picture?{urlencode({'run': 'sounds', 'part': 'sound', 'output': 'e1-0.mel.npy'})}")
    assert sound.headers["content-type"] == "audio/wav" and sound.content[8:12] == b"WAVE"
    page = client.get("show?run=films&run=sounds").text
    addresses = json.loads(re.findall(r'id="pictures">(.*?)</script>', page)[0])
    assert sum("part=film" in each for each in addresses) == sum("part=sound" in each for each in addresses) == 1
    assert "media-src data: 'self'" in unescape(page)


def test_pictures_are_small_ones_and_originals_the_very_files(client: TestClient, runs: Path) -> None:
    page = client.get("show?run=done").text
    addresses = json.loads(re.findall(r'id="pictures">(.*?)</script>', page)[0])
    assert len(addresses) == 4
    picture = client.get(addresses[0])
    assert picture.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).size == (32, 32)
    original = client.get(data(page)["outputs"][2]["link"])
    assert original.content == (runs / "done" / "outputs" / "e2-0.png").read_bytes()
    assert original.headers["content-type"] == "image/png"


@pytest.mark.parametrize("place", ["original", "picture"])
@pytest.mark.parametrize(
    ("run", "output"),
    [
        ("done", "../result.json"), ("done", "../../../secret.png"), ("done", "/etc/passwd"), ("done", "e9-0.png"),
        ("../outside", "e0-0.png"), ("..", "e0-0.png"), ("/etc", "passwd"), ("", ""), ("done", ""),
    ],
)  # fmt: skip
def test_no_address_leads_out_of_the_folder(client: TestClient, runs: Path, place: str, run: str, output: str) -> None:
    finish(begin(runs.parent / "outside"))
    (runs.parent / "secret.png").write_bytes((runs / "done" / "outputs" / "e0-0.png").read_bytes())
    assert client.get(f"{place}?{urlencode({'run': run, 'part': 'output', 'output': output})}").status_code == 404


@pytest.mark.parametrize("place", ["original", "picture"])
def test_a_link_in_an_outputs_place_is_not_followed(client: TestClient, runs: Path, place: str) -> None:
    there = runs / "done" / "outputs" / "e0-0.png"
    there.rename(runs.parent / "secret.png")
    there.symlink_to(runs.parent / "secret.png")
    address = urlencode({"run": "done", "part": "output", "output": "e0-0.png"})
    assert client.get(f"{place}?{address}").status_code == 404


def test_without_the_token_there_is_nothing(runs: Path) -> None:
    client = TestClient(application(runs, TOKEN), base_url="http://127.0.0.1/")
    assert client.get(f"/{TOKEN}/").status_code == 200
    for path in ("/", "/wrong/", "/a-toke/", f"/{TOKEN}x/", "/wrong/show?run=done", "/wrong/state"):
        assert client.get(path).status_code == 404, path


@pytest.mark.parametrize("host", ["example.org", "127.0.0.1.example.org", "192.168.0.1:80", "[::1]", ""])
def test_a_request_for_another_host_is_refused(client: TestClient, host: str) -> None:
    """So no site can read the pages through a name that it lets lead to this machine."""
    assert client.get("", headers={"Host": host}).status_code == 400
    assert client.get("", headers={"Host": "localhost:1234"}).status_code == 200


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    for path in ("", "show?run=done", "state", "original?run=done&output=e0-0.png"):
        assert getattr(client, method)(path).status_code == 405


def test_a_look_writes_nothing(client: TestClient, runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    for path in ("", "show?run=done&run=training", "state", "picture?run=done&part=output&output=e0-0.png"):
        assert client.get(path).status_code == 200
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before


def test_no_page_is_kept_framed_or_named_to_others(client: TestClient) -> None:
    headers = client.get("").headers
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(client: TestClient, runs: Path) -> None:
    (begin(runs / "edited") / "settings.json").write_text("{")
    finish(begin(runs / "changed", "another"))
    (runs / "changed" / "per_example.jsonl").write_text(f"{HOSTILE}\n")
    listed = client.get("").text
    assert "edited is left out: " in listed and "done" in names(listed)
    page = client.get("show?run=done&run=changed").text
    assert "changed: " in page and "line 1 cannot be read" in page and "0.750" in page


def test_a_run_alone_and_no_folder(runs: Path) -> None:
    client = TestClient(application(runs / "done", TOKEN), base_url=f"http://127.0.0.1/{TOKEN}/")
    assert len(data(client.get("").text)["outputs"]) == 4
    with pytest.raises(CrossFlowError, match="There is no folder"):
        application(runs / "nothing", TOKEN)


def test_the_command_names_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["view", str(tmp_path / "nothing")])
    assert (done.exit_code, done.stderr.startswith("Error: There is no file or folder")) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = CliRunner().invoke(program, ["view", str(tmp_path), "--port", str(taken.getsockname()[1])])
    assert done.exit_code == 2 and "give another --port" in done.stderr


@pytest.fixture
def address(runs: Path) -> Iterator[str]:
    """A server of the runs, on a port of its own."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application(runs, TOKEN), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/{TOKEN}/"
    server.should_exit = True
    thread.join(timeout=20)
    listening.close()


SHOWN = "return [...document.querySelectorAll('.tab:not([hidden]) .cards .prompt')].map(p => p.textContent)"


@pytest.mark.skipif(
    not (BROWSER and DRIVER) and os.environ.get("CI") != "true", reason="needs chromium and chromedriver"
)
def test_in_a_browser_an_open_page_follows_its_run(address: str, runs: Path) -> None:
    """Rows come, the filter that was set stays; the list knows of the run's end; the console stays silent."""
    with headless() as browser:
        browser.log("browser")
        browser.open(f"{address}show?run=deep%2Fgoing&run=training", "run-0")
        assert browser.run(SHOWN) == list(PROMPTS[:2])
        assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth === 32)")
        browser.run(
            "const field = document.querySelector('[name=search]'); field.value = 'i';"
            "field.dispatchEvent(new Event('input', {bubbles: true}))"
        )
        make(runs / "deep" / "going", 2, 3)
        until(browser, SHOWN, [HOSTILE, "a pink ring"])
        curve = "return document.querySelector('#part-1 svg').textContent.includes('100')"
        assert browser.run(curve) is False
        train(runs / "training", range(31, 121))
        until(browser, curve, True)
        finish(runs / "deep" / "going")
        until(browser, "return document.querySelectorAll('#run-0 [name=verdict]').length", 1)
        assert browser.run("return document.querySelector('#scores tbody td span').textContent") == "0.750"
        assert browser.run("return document.title") != "broken"
        browser.open(address)
        browser.run("document.querySelector('[value=done]').click()")
        begin(runs / "new")
        until(browser, "return document.querySelectorAll('[name=run]').length", 4)
        assert browser.run("return document.querySelector('[value=done]').checked") is True
        assert browser.log("browser") == []


def until(browser, script: str, wanted: object) -> None:
    for _ in range(100):
        if browser.run(script) == wanted:
            return
        time.sleep(0.2)
    assert browser.run(script) == wanted
