"""The page in a real browser: it draws, its filters work, its console is silent, and it asks nothing of the network."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from crossflow_eval.report import Entry, render
from crossflow_eval.types import Result, Role, Row, Settings, Value

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and os.environ.get("CI") != "true",
    reason="needs chromium and chromedriver (Debian: apt install chromium chromium-driver)",
)
PROMPTS = ("a red ball", "<script>document.title='broken'</script> & a cone", "two green boxes", "a pink ring")


class Browser:
    """A session of the W3C WebDriver protocol, as little of it as these tests need."""

    def __init__(self, driver: str) -> None:
        self._root = driver
        options = {
            "binary": BROWSER,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"],
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._root = f"{driver}/session/{session['sessionId']}"

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self._ask("POST", "/url", {"url": page.as_uri()})

    def run(self, script: str) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def command(self, name: str, **parameters: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def log(self, kind: str) -> list[dict[str, Any]]:
        return self._ask("POST", "/se/log", {"type": kind})

    def close(self) -> None:
        self._ask("DELETE", "")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert BROWSER and DRIVER, "CI must have chromium and chromedriver"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        session = Browser(f"http://127.0.0.1:{port}")
        yield session
        session.close()
    finally:
        driver.terminate()
        driver.wait(timeout=20)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four outputs, two of them wrong, beside chance and ceiling."""
    tasks = ("single_object", "two_object", "counting", "colors")
    rows: list[Row] = [
        {"id": f"e{i}", "output": f"e{i}-0.png", "prompt": prompt, "task": task, "correct": i % 2 == 0,
         "reason": "expected more" if i % 2 else "", "clip_score": 0.9 - 0.2 * i}
        for i, (prompt, task) in enumerate(zip(PROMPTS, tasks, strict=True))
    ]  # fmt: skip
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 30, 30)).save(stream, "PNG")
    entries: list[Entry] = []
    roles: dict[str, tuple[Role, float]] = {
        "scenes-t2i": ("model", 0.5),
        "chance": ("chance", 0.05),
        "ceiling": ("ceiling", 0.99),
    }
    for model, (role, mean) in roles.items():
        values = {f"geneval/{task}": Value(mean=mean, ci_low=mean / 2, ci_high=mean, n=4) for task in tasks}
        result = Result(
            settings=Settings(suite="scenes-t2i", suite_version="1", model=model, identity={"solver": "euler"}),
            protocol={"geneval": {"rules": "GenEval"}},
            n=4,
            values=values,
            higher_is_better=dict.fromkeys(values, True),
            data_sha256="0" * 64,
            environment={},
        )
        entries.append(Entry(result=result, role=role, rows=rows, picture=lambda row: stream.getvalue()))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(entries, "html"), encoding="utf-8")
    return path


SHOWN = "return [...document.querySelectorAll('.cards figure:not([hidden]) .prompt')].map(p => p.textContent)"


def choose(browser: Browser, name: str, value: str) -> list[str]:
    """Set one control as a reader would, and say which prompts are left."""
    browser.run(
        f"const field = document.querySelector('[name={name}]'); field.value = {value!r};"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    return browser.run(SHOWN)


def test_it_draws_without_an_error_and_without_the_network(browser: Browser, page: Path) -> None:
    browser.log("performance")
    browser.log("browser")
    browser.open(page)
    assert browser.log("browser") == []
    assert browser.run("return document.title") == "Text to image on the embedded world"
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth === 32)")
    assert browser.run("return document.querySelector('svg').getBoundingClientRect().height") > 100
    assert browser.run("return document.querySelectorAll('tbody tr').length") == 10
    events = [json.loads(each["message"])["message"] for each in browser.log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def test_failures_come_first_and_the_controls_work(browser: Browser, page: Path) -> None:
    browser.open(page)
    one, two, three, four = PROMPTS
    assert browser.run(SHOWN) == [two, four, one, three]
    assert choose(browser, "verdict", "wrong") == [two, four]
    assert browser.run("return document.querySelector('.count').textContent") == "2 of 4 outputs, failures first"
    assert choose(browser, "verdict", "") == [two, four, one, three]
    assert choose(browser, "sort", "score-0") == [four, three, two, one]
    assert choose(browser, "sort", "order") == [one, two, three, four]
    assert choose(browser, "task", "counting") == [three]
    assert choose(browser, "task", "") == [one, two, three, four]
    assert choose(browser, "search", "RED ball") == [one]
    assert choose(browser, "search", "expected more") == [two, four]
    assert browser.log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_have_readable_contrast(browser: Browser, page: Path, scheme: str) -> None:
    """WCAG's 4.5 to 1 for every text's color against the page's paper."""
    browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page)
    colors = browser.run(
        "const of = (s, p) => [...document.querySelectorAll(s)].map(e => getComputedStyle(e)[p]);"
        "return [of('body', 'backgroundColor')[0], [...new Set(of('main *', 'color'))], of('svg text', 'fill')]"
    )
    paper, text, drawn = colors
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for color in {*text, *drawn}:
        light, dark = sorted((luminance(paper), luminance(color)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, color


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2)."""
    channels = [float(each) / 255 for each in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_at_400_pixels_nothing_but_the_table_scrolls_sideways(browser: Browser, page: Path) -> None:
    browser.command("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    browser.open(page)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [400, 400]
    shot = base64.b64decode(browser.command("Page.captureScreenshot")["data"])
    with Image.open(io.BytesIO(shot)) as image:
        assert image.size == (400, 800) and len(image.convert("RGB").getcolors(1 << 20) or []) > 50
    browser.command("Emulation.clearDeviceMetricsOverride")
