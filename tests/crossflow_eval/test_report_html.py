"""The page in a real browser: it draws, its filters work, its console is silent, and it asks nothing of the network."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.browser import BROWSER, DRIVER, Browser
from benchmarks.browser import browser as headless
from crossflow_eval.report import Entry, render
from crossflow_eval.types import Result, Role, Row, Settings, Value

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER) and os.environ.get("CI") != "true",
    reason="needs chromium and chromedriver (Debian: apt install chromium chromium-driver)",
)
PROMPTS = ("a red ball", "<script>document.title='broken'</script> & a cone", "two green boxes", "a pink ring")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with headless() as session:
        yield session


TASKS = ("single_object", "two_object", "counting", "colors")


def png(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (red, 30, 30)).save(stream, "PNG")
    return stream.getvalue()


def entry(model: str, mean: float, rows: Sequence[Row], role: Role = "model") -> Entry:
    values = {f"geneval/{task}": Value(mean=mean, ci_low=mean / 2, ci_high=mean + 0.02, n=4) for task in TASKS}
    result = Result(
        settings=Settings(suite="scenes-t2i", suite_version="1", model=model, identity={"solver": "euler"}),
        protocol={"geneval": {"rules": "GenEval"}},
        n=4,
        values=values,
        higher_is_better=dict.fromkeys(values, True),
        data_sha256="0" * 64,
        environment={},
    )
    return Entry(result=result, role=role, rows=rows, picture=lambda row: png(int(row["red"])))


def rows(count: int, right: Callable[[int], bool]) -> list[Row]:
    return [
        {"id": f"e{i}", "output": f"e{i}-0.png", "prompt": PROMPTS[i] if i < 4 else f"prompt {i}", "task": TASKS[i % 4],
         "correct": right(i), "reason": "" if right(i) else "expected more", "clip_score": 0.9 - 0.2 * i,
         "red": i % 250, "size": [32, 32], "detections": [{"label": "cone", "box": [2, 4, 12, 24]}]}
        for i in range(count)
    ]  # fmt: skip


def written(folder: Path, entries: Sequence[Entry]) -> Path:
    (folder / "report.html").write_text(render(entries, "html"), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four outputs, two of them wrong, beside chance and ceiling."""
    outputs = rows(4, lambda i: i % 2 == 0)
    entries = [entry("scenes-t2i", 0.5, outputs), entry("c", 0.05, (), "chance"), entry("d", 0.99, (), "ceiling")]
    return written(tmp_path_factory.mktemp("page"), entries)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models with 130 outputs each; the second differs from the first in the verdict of one."""
    right = [lambda i: True, lambda i: i != 100, lambda i: True, lambda i: True]
    means = (0.5, 0.6, 0.59, 0.1)
    entries = [entry(f"model-{m}", means[m], rows(130, right[m])) for m in range(4)]
    return written(tmp_path_factory.mktemp("models"), entries)


SHOWN = "return [...document.querySelectorAll('.tab:not([hidden]) .cards .prompt')].map(p => p.textContent)"
SCREEN = {"desktop": (1280, 800), "phone": (390, 844)}


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
    assert browser.run("return document.querySelector('svg').getBoundingClientRect().height") > 100
    assert browser.run("return document.querySelectorAll('tbody tr').length") == 10
    browser.run("location.hash = '#run-0'")
    assert len(browser.run(SHOWN)) == 4 and browser.run("return document.title") != "broken"
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth === 32)")
    events = [json.loads(each["message"])["message"] for each in browser.log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert all(url.startswith(("file:", "data:")) for url in asked), asked


def test_failures_come_first_and_the_controls_work(browser: Browser, page: Path) -> None:
    browser.open(page, "run-0")
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
    assert len(text) > 1 and drawn
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for color in {*text, *drawn}:
        light, dark = sorted((luminance(paper), luminance(color)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, color


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2)."""
    channels = [float(each) / 255 for each in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_an_output_is_looked_at_closely(browser: Browser, page: Path) -> None:
    browser.open(page, "run-0")
    browser.run("document.querySelectorAll('.cards button')[1].click()")
    said = "return document.getElementById('zoom').textContent"
    assert "a pink ring" in browser.run(said) and "seen: cone" in browser.run(said)
    box = "return [...document.querySelector('#zoom rect').attributes].map(each => each.value)"
    assert browser.run(box) == ["2", "4", "10", "20"]
    browser.run("document.querySelector('#zoom [name=back]').click()")
    assert PROMPTS[1] in browser.run(said), "a prompt that is a script is text"
    browser.run("document.querySelector('#zoom [name=close]').click()")
    assert browser.run("return document.getElementById('zoom').open") is False


def test_outputs_come_by_pages_of_60(browser: Browser, models: Path) -> None:
    browser.open(models, "run-0")
    sizes = [len(browser.run(SHOWN))]
    for _ in range(2):
        browser.run("document.querySelector('.tab:not([hidden]) [name=next]').click()")
        sizes.append(len(browser.run(SHOWN)))
    assert sizes == [60, 60, 10]
    assert browser.run("return document.querySelector('.tab:not([hidden]) [name=next]').disabled") is True


def test_models_stand_side_by_side_with_differences_first(browser: Browser, models: Path) -> None:
    browser.open(models, "side-1")
    shown = browser.run(SHOWN)
    assert (len(shown), shown[:2]) == (15, ["prompt 100", PROMPTS[0]])
    named = "return [...document.querySelector('.tab:not([hidden]) figure').querySelectorAll('.between p')]"
    assert browser.run(f"{named}.map(p => p.textContent)") == ["✓ model-0", "✗ model-1", "✓ model-2", "✓ model-3"]
    browser.run(
        "const field = document.querySelector('.tab:not([hidden]) [name=verdict]'); field.value = 'differs';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert browser.run(SHOWN) == ["prompt 100"]


def test_more_than_three_models_are_rows_that_a_column_sorts_and_the_best_are_marked(
    browser: Browser, models: Path
) -> None:
    browser.open(models)
    names = "return [...document.querySelectorAll('tbody th')].map(th => th.textContent)"
    assert browser.run(names) == ["model-0", "model-1", "model-2", "model-3"]
    heads = browser.run("return [...document.querySelectorAll('thead th')].map(th => th.textContent)")
    column = next(i for i, head in enumerate(heads) if head.startswith("colors"))
    browser.run(f"document.querySelectorAll('thead th')[{column}].querySelector('button').click()")
    assert browser.run(names) == ["model-1", "model-2", "model-0", "model-3"]
    marks = f"return [...document.querySelectorAll('tbody td:nth-child({column + 1}) > :first-child')]"
    assert browser.run(f"{marks}.map(span => span.className)") == ["model best", "model near", "model", "model"]


@pytest.mark.parametrize("screen", SCREEN)
def test_a_tab_is_less_than_four_screens_high_and_not_wider_than_one(
    browser: Browser, models: Path, screen: str
) -> None:
    width, height = SCREEN[screen]
    browser.command(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=screen == "phone"
    )
    for tab in ("scores", "side-1", "run-0"):
        browser.open(models, tab)
        size = browser.run("return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert size[0] == width and size[1] < 4 * height, (tab, size)
    browser.command("Emulation.clearDeviceMetricsOverride")


def test_a_tab_is_printed_on_at_most_four_sheets(browser: Browser, models: Path) -> None:
    browser.open(models, "run-0")
    sheets = base64.b64decode(browser.command("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])
    assert 1 <= len(re.findall(rb"/Type /Page\b", sheets)) <= 4


def test_on_paper_no_table_is_cut(browser: Browser, page: Path, tmp_path: Path) -> None:
    """A4 without its margins is 718 CSS pixels wide."""
    second = dataclasses.replace(entry("another", 0.5, ()), label="A model of a long name, on another suite")
    settings = second.result.settings.model_copy(update={"suite": "scenes-t2i-heldout"})
    second = dataclasses.replace(second, result=second.result.model_copy(update={"settings": settings}))
    both = written(tmp_path, [entry("scenes-t2i", 0.5, ()), entry("c", 0.05, (), "chance"), second])
    browser.command("Emulation.setDeviceMetricsOverride", width=718, height=1000, deviceScaleFactor=1, mobile=False)
    browser.command("Emulation.setEmulatedMedia", media="print")
    for each in (page, both):
        browser.open(each)
        wider = "return [...document.querySelectorAll('.scroll')].map(s => s.scrollWidth > s.clientWidth)"
        assert set(browser.run(wider)) == {False}
    browser.plain()


def test_a_page_of_10_000_outputs_is_small_and_holds_one_page_of_them_at_a_time(
    browser: Browser, tmp_path: Path
) -> None:
    large = entry("many", 0.5, rows(10_000, lambda i: i % 3 > 0))
    noise = [bytes(np.random.default_rng(i).integers(0, 256, 1300, dtype=np.uint8)) for i in range(500)]
    pictures = itertools.cycle(range(500))
    page = written(
        tmp_path,
        [dataclasses.replace(large, picture=lambda row: noise[next(pictures)] + str(row["id"]).encode())],
    )
    assert page.stat().st_size < 30e6
    browser.open(page, "run-0")
    assert len(browser.run(SHOWN)) == 60
    spent = "return performance.getEntriesByType('navigation')[0].domComplete"
    assert browser.run(spent) < 10_000, "milliseconds: under two seconds on a machine with nothing else to do"


def test_at_400_pixels_nothing_but_the_table_scrolls_sideways(browser: Browser, page: Path) -> None:
    browser.command("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    browser.open(page)
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [400, 400]
    shot = base64.b64decode(browser.command("Page.captureScreenshot")["data"])
    with Image.open(io.BytesIO(shot)) as image:
        assert image.size == (400, 800) and len(image.convert("RGB").getcolors(1 << 20) or []) > 50
    browser.command("Emulation.clearDeviceMetricsOverride")
