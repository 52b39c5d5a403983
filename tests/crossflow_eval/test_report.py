"""Reports: golden texts, what a table refuses to mix, and that no prompt can break out of its place."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from crossflow.errors import CrossFlowError
from crossflow_eval.report import FORMATS, Entry, check_replaces, render
from crossflow_eval.report.curves import POINTS, sweep, training, trainings
from crossflow_eval.report.grid import build_grid
from crossflow_eval.tables import Column, Table, TableRow, load_table, parse_table, table_names
from crossflow_eval.types import Result, Role, Row, Settings, Value

TABLE = Table(
    name="small",
    title="A small table",
    notes="Of 100% fakes.",
    columns=(
        Column(label="FID", value="fid", decimals=2),
        Column(label="accuracy", value="accuracy"),
        Column(label="FID-30K", published="FID-30K", decimals=2),
    ),
    rows=(
        TableRow(label="Baseline", models=("base*",), published={"FID-30K": 10.79}),
        TableRow(label="Ours", models=("ours",), published={"FID-30K": 10.13}),
    ),
)
PROTOCOL: dict[str, dict[str, Any]] = {"fid": {"dim": 64, "reference": {"n": 10}}, "accuracy": {"rules": "exact"}}


def entry(model: str = "ours", *, role: Role = "model", label: str | None = None, **change: Any) -> Entry:
    """A run with FID 12.5 and accuracy 0.25; ``change`` replaces n, fid, protocol, suite, data, seed, rows, picture."""
    n = change.get("n", 1000)
    identity = {"weights_sha256": "ab" * 32, "steps": 50}
    settings = Settings(
        suite=change.get("suite", "fake"), suite_version="1", model=model, identity=identity, seed=change.get("seed", 0)
    )
    values = {
        "fid": Value(mean=change.get("fid", 12.5), ci_low=11.25, ci_high=13.75, n=n),
        "accuracy": Value(mean=0.25, n=n),
    }
    result = Result(
        settings=settings,
        protocol=change.get("protocol", PROTOCOL),
        n=n,
        values=values,
        higher_is_better={"fid": False, "accuracy": True},
        data_sha256=change.get("data", "cd" * 32),
        environment={"python": "3.11"},
    )
    rows, picture = change.get("rows", ()), change.get("picture", lambda row: None)
    return Entry(result=result, role=role, label=label, rows=rows, picture=picture)


def test_markdown_is_as_it_was() -> None:
    nbsp = "\N{NO-BREAK SPACE}"
    assert render([entry()], "md", table=TABLE) == (
        "**A small table**\n"
        "\n"
        f"|          |           FID@1000{nbsp}↓ | accuracy{nbsp}↑ | FID-30K (paper) |    n |\n"
        "| :------- | -------------------: | ---------: | --------------: | ---: |\n"
        "| Baseline |                    — |          — |           10.79 |    — |\n"
        "| Ours     | 12.50 [11.25, 13.75] |      0.250 |           10.13 | 1000 |\n"
        "\n"
        "Of 100% fakes.\n"
        "\n"
        "Brackets hold 95 % intervals, where one is defined; a dash is a run not made.\n"
    )


def test_latex_is_as_it_was() -> None:
    assert render([entry()], "latex", table=TABLE).splitlines() == [
        r"\begin{table}",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        r"  \caption{A small table}",
        r"  \begin{tabular}{lrrrr}",
        r"    \toprule",
        r"     & FID@1000~$\downarrow$ & accuracy~$\uparrow$ & FID-30K (paper) & n \\",
        r"    \midrule",
        r"    Baseline & --- & --- & 10.79 & --- \\",
        r"    Ours & 12.50 & 0.250 & 10.13 & 1000 \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\medskip",
        r"  \begin{tabular}{lr}",
        r"    \toprule",
        r"    95 \% intervals & FID@1000~$\downarrow$ \\",
        r"    \midrule",
        r"    Ours & [11.25, 13.75] \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"  \par\smallskip\scriptsize Of 100\% fakes. Brackets hold 95 \% intervals, where one is defined; "
        r"a dash is a run not made.",
        r"\end{table}",
    ]


def test_a_table_that_is_too_wide_has_its_intervals_below() -> None:
    columns = (Column(label="a score whose name is long", value="fid"), Column(label="accuracy", value="accuracy"))
    wide = Table(name="wide", title="wide", transpose=True, columns=columns)
    entries = [entry(name) for name in ("first", "second", "third")]
    values, intervals = render(entries, table=wide).split("\n\n")[1:3]
    assert max(map(len, [*values.splitlines(), *intervals.splitlines()])) <= 100
    assert "12.500" in values and "[" not in values
    assert intervals.startswith("| 95 % intervals ") and intervals.count("[11.250, 13.750]") == 3
    assert "accuracy" in values and "accuracy" not in intervals, "it has none"


def test_latex_has_intervals_as_subscripts_where_they_fit() -> None:
    assert "& 12.500$_{[11.250, 13.750]}$ " in render([entry()], "latex")


def test_more_than_three_models_are_rows() -> None:
    entries = [entry(f"model-{number}") for number in range(4)]
    assert render(entries[:3]).splitlines()[2].count("model-") == 3
    lines = render(entries).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("| model-")] == [f"model-{i}" for i in range(4)]


def test_csv_has_one_line_a_cell_and_all_digits() -> None:
    lines = list(csv.DictReader(io.StringIO(render([entry(fid=1 / 3)], "csv", table=TABLE))))
    assert len(lines) == 6
    ours = next(line for line in lines if line["row"] == "Ours" and line["value"] == "fid")
    assert float(ours["mean"]) == 1 / 3 and (ours["ci_low"], ours["n"], ours["published"]) == ("11.25", "1000", "")
    assert ours["digest"] == entry().result.settings.digest and ours["suite"] == "fake"
    baseline = next(line for line in lines if line["row"] == "Baseline" and line["value"] == "fid")
    assert baseline["mean"] == "" and baseline["published"] == "", "no run: nothing, not the published number"


def test_no_text_of_a_csv_is_a_formula_and_numbers_stay_numbers() -> None:
    for begins in "=+-@":
        text = render([entry("m", label=f"{begins}HYPERLINK(1)", fid=-0.5)], "csv")
        (line,) = (each for each in csv.DictReader(io.StringIO(text)) if each["value"] == "fid")
        assert (line["row"], float(line["mean"])) == (f"'{begins}HYPERLINK(1)", -0.5)


def test_runs_are_named_below_their_tables_by_what_finds_them_again() -> None:
    first, second = entry(), entry(label=HOSTILE + "\n\\end", protocol=PROTOCOL | {"fid": {"dim": 64}}, data="ef" * 32)
    digest = first.result.settings.digest
    text = render([first], provenance=True)
    (line,) = (line for line in text.splitlines() if line.startswith("- "))
    wanted = f"- ours: run {digest}, suite fake, version 1, 1,000 outputs, seed 0, examples cdcdcdcdcdcd, protocol "
    assert line.startswith(wanted) and line.endswith(", weights abababababab.") and text.startswith(render([first]))
    warned = entry(protocol={name: {**of, "warning": "few", "n": 3} for name, of in PROTOCOL.items()})
    assert line in render([warned], provenance=True).splitlines(), "what follows from outputs is no protocol"
    tex = render([first, second], "latex", table=TABLE, allow_mixed=True, provenance=True).partition(r"\end{table}")[2]
    lines = tex.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("% ") for line in lines)
    assert lines[0].split("protocol ")[1] != lines[1].split("protocol ")[1]


def test_the_label_tells_n_unless_it_is_the_published_one() -> None:
    assert "FID@1000" in render([entry()], "md", table=TABLE)
    assert "FID@" not in render([entry(n=30_000)], "md", table=TABLE)
    audio = Table(name="a", title="a", columns=(Column(label="FD", value="fd_panns"),))
    assert "FD@" in render([sounds(10)], table=audio)
    with pytest.raises(CrossFlowError, match=r"n is 10 in .* and 20 in"):
        render([sounds(10), sounds(20)], table=audio)


def sounds(n: int) -> Entry:
    """A run of so many clips, of which everybody has another part."""
    made = entry(f"m{n}", n=n, protocol={"panns": {}}, data=f"{n:064d}")
    values = {"fd_panns": Value(mean=float(n), n=n)}
    return dataclasses.replace(made, result=made.result.model_copy(update={"values": values}))


def test_a_suite_without_a_table_gets_all_its_values() -> None:
    text = render([entry(), entry("guess", role="chance")])
    assert "| FID@1000" not in text and re.search(r"\| fid@1000\W+↓ +\| 12.50? ?", text)
    assert re.search(r"\|.*ours.*\|.*Chance", text) and "Ceiling" not in text, "a row never run is left out"


def test_two_suites_are_two_tables() -> None:
    text = render([entry(), entry(suite="other")])
    assert "**fake**" in text and "**other**" in text


def test_models_that_share_a_row_are_told_apart() -> None:
    first, second = entry("base-1"), entry("base-2")
    text = render([first, second], "md", table=TABLE)
    assert all(f"Baseline ({each.result.settings.digest})" in text for each in (first, second))


def test_runs_of_equal_settings_on_other_references_are_two_runs() -> None:
    """References of one's own are part of the data, and of no digest of settings."""
    first, second = entry(), entry(data="ef" * 32)
    with pytest.raises(CrossFlowError, match="all give 'fid' for the row 'ours'; report them apart"):
        render([first, second])


def test_a_run_that_fits_no_row_has_its_own() -> None:
    assert "| stranger" in render([entry("stranger")], "md", table=TABLE)


def test_one_row_gathers_a_models_runs_of_several_suites() -> None:
    columns = (Column(label="A", value="accuracy", suite="one"), Column(label="B", value="accuracy", suite="two"))
    table = Table(name="wide", title="wide", columns=columns)
    text = render([entry(suite="one"), entry(suite="two")], "md", table=table)
    assert re.search(r"\| ours +\| +0.250 \| +0.250 \|", text)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"n": 500}, "n is 1000 in first .* and 500 in second"),
        ({"suite": "other"}, "the suite is fake 1 .* and other 1"),
        ({"data": "ef" * 32}, "examples is cdcdcdcdcdcd .* and efefefefefef"),
        ({"protocol": PROTOCOL | {"fid": {"dim": 64, "reference": {"n": 20}}}}, "fid.reference.n is 10 .* and 20"),
        ({"protocol": PROTOCOL | {"fid": {"dim": 64}}}, "fid.reference.n is 10 .* and absent"),
    ],
)
def test_what_may_not_be_compared_does_not_share_a_column(change: Mapping[str, Any], difference: str) -> None:
    entries = [entry("first"), entry("second", **change)]
    with pytest.raises(CrossFlowError, match=f"FID mixes what may not be compared: .*{difference}"):
        render(entries, "md", table=TABLE)
    mixed = render(entries, "md", table=TABLE, allow_mixed=True)
    assert re.search(f"FID: not comparable, .*{difference}", mixed)


@pytest.mark.parametrize("name", ["inception_score", "is_panns", "prdc/recall", "fvd/stylegan-v", "cider_d", "spider"])
def test_what_depends_on_how_many_are_scored_does_not_share_a_column_with_another_n(name: str) -> None:
    """Nor does it where both are means of single outputs, as CIDEr-D is; what is none of these may."""
    table = Table(name="t", title="t", columns=(Column(label="score", value=name),))

    def scored(n: int, called: str) -> Entry:
        of = entry(f"model {n}", n=n)
        return dataclasses.replace(of, result=of.result.model_copy(update={"values": {called: Value(mean=0.5, n=n)}}))

    with pytest.raises(CrossFlowError, match="score mixes what may not be compared: n is 1000 in model 1000"):
        render([scored(1000, name), scored(5000, name)], table=table)
    plain = Table(name="t", title="t", columns=(Column(label="score", value="bleu_4"),))
    assert "0.500" in render([scored(1000, "bleu_4"), scored(5000, "bleu_4")], table=plain)


def test_a_warning_is_printed_and_does_not_forbid_comparison() -> None:
    warned = {"fid": PROTOCOL["fid"] | {"warning": "the covariance is singular"}, "accuracy": PROTOCOL["accuracy"]}
    text = render([entry("base"), entry("ours", protocol=warned)], "md", table=TABLE)
    assert re.search(r"ours \(\w+\), fid: the covariance is singular\.", text)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: render([]), "at least one run"),
        (lambda: render([entry()], "pdf"), "Available: md, csv, latex, html"),
        (lambda: render([entry(), entry()]), "given twice"),
        (lambda: render([entry()], table=load_table("table1")), "gives no value of the table 'table1'"),
        (lambda: load_table("tabel1"), "Did you mean 'table1'"),
        (lambda: parse_table("x", "title = 3"), "'x' cannot be read"),
        (lambda: parse_table("x", 'title = "t"\n[[columns]]\nlabel = "both"\nvalue = "a"\npublished = "b"'), "one of"),
        (lambda: parse_table("x", "= no toml"), "'x' cannot be read"),
    ],
)
def test_wrong_calls_are_one_sentence(call, sentence: str) -> None:
    with pytest.raises(CrossFlowError, match=sentence):
        call()


def test_every_table_reads_and_table_1_holds_the_papers_values() -> None:
    assert {"scenes", "table1"} <= set(table_names())
    table = load_table("table1")
    published = {row.label: row.published for row in table.rows}
    assert published["CrossFlow"] == {"params_B": 0.95, "steps_K": 300, "FID-30K": 10.13, "CLIP": 0.29}
    assert published["Standard FM (baseline)"] == {"params_B": 1.04, "steps_K": 300, "FID-30K": 10.79, "CLIP": 0.29}
    assert all(column.published is None or column.value is None for column in table.columns)
    assert load_table("scenes").suites and all(not row.published for row in load_table("scenes").rows)


HOSTILE = "<script>alert(1)</script> a_b & 100% \"quoted\" 'single' $x^2$ | ~ \\ {y} # </style>"


def test_hostile_text_stays_text_in_latex() -> None:
    text = render([entry("m", label=HOSTILE)], "latex", table=TABLE)
    line = next(line for line in text.splitlines() if "alert" in line)
    bare = re.sub(
        r"\\(textless|textgreater|textbar|textasciitilde|textbackslash|textasciicircum)\{\}|\\[&%$#_{}]", "", line
    )
    assert bare.count("&") == 1 and bare.endswith(r" \\") and not set("%$#_{}~^<>|") & set(bare)


def test_hostile_text_stays_text_in_markdown() -> None:
    text = render([entry("m", label=HOSTILE + "\nnext line")], "md", table=TABLE)
    line = next(line for line in text.splitlines() if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", line)) == 3 and not re.search(r"(?<!\\)<", line) and "next line" in line


@pytest.mark.parametrize("name", ["_v2_", "__init__", "~~old~~", "a &lt; b", "# big", "- one", "13. third"])
def test_a_name_is_shown_as_it_is_in_markdown_also_at_the_start_of_a_note(name: str) -> None:
    """Oracle: what CommonMark, with GitHub's tables and strikethrough, makes of it."""
    protocol = {"fid": {"warning": "it is biased"}, "accuracy": {}}
    text = render([entry(name, protocol=protocol)], "md", table=TABLE)
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    found = Tags(shown)
    assert f"{name} (" in found.text and name in found.text.split("Baseline")[1]
    assert [tag for tag, _ in found.tags if tag in ("em", "strong", "del", "s", "h1", "ul", "ol")] == ["strong"], (
        "title"
    )


def test_a_name_is_no_link_in_markdown_and_no_option_of_a_line_in_latex() -> None:
    named = [entry("m", label="[a](http://b)"), entry("n", label="*")]
    assert "[a]\\(http://b)" in render(named, "md", table=TABLE)
    lines = render(named, "latex", table=TABLE).splitlines()
    assert not any(line.lstrip().startswith(("[", "*")) for line in lines)
    assert any(line.startswith("    {}[a](http://b) &") for line in lines)


class Tags(HTMLParser):
    """Collects elements and text as a browser would."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rows() -> list[Row]:
    verdicts = [True, False, True]
    return [
        {"id": f"e{i}", "index": 0, "output": f"e{i}-0.png", "prompt": f"{HOSTILE} {i}", "task": "colors",
         "correct": correct, "reason": "" if correct else HOSTILE, "clip_score": 0.25 * i}
        for i, correct in enumerate(verdicts)
    ]  # fmt: skip


def picture(row: Row) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(stream, "PNG")
    return stream.getvalue()


def hostile_page() -> str:
    return render([entry("m", label=HOSTILE, rows=rows(), picture=picture)], "html")


def test_hostile_text_stays_text_in_html() -> None:
    text = hostile_page()
    page = Tags(text)
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert [each.get("type") for each in scripts] == ["application/json", "application/json", None]
    assert [tag for tag, _ in page.tags].count("style") == 1
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    (data,) = re.findall(r'id="data-0">(.*?)</script>', text)
    assert [each["prompt"] for each in json.loads(data)["outputs"]] == [f"{HOSTILE} {i}" for i in range(3)]
    assert "<" not in data and page.text.count("alert(1)") >= 5


def test_the_page_points_nowhere() -> None:
    page = Tags(hostile_page())
    links = [value for _, each in page.tags for name, value in each.items() if name in ("src", "href", "xlink:href")]
    assert links and all(str(link).startswith(("data:", "#")) for link in links)
    policy = str(next(each["content"] for tag, each in page.tags if "http-equiv" in each))
    assert "default-src 'none'" in policy and "unsafe" not in policy


def guided(scale: float, fid: float, folder: Path | None = None) -> Entry:
    """A run of the one model at a guidance scale."""
    run = entry(fid=fid)
    identity = {**run.result.settings.identity, "guidance_scale": scale}
    settings = run.result.settings.model_copy(update={"identity": identity})
    return dataclasses.replace(run, result=run.result.model_copy(update={"settings": settings}), folder=folder)


def test_runs_that_differ_in_guidance_alone_are_a_curve() -> None:
    runs = [guided(3.0, 11.0), guided(1.0, 12.5), guided(2.0, 10.0)]
    grid = build_grid(runs, TABLE)
    heading, (curve,) = sweep(grid)
    assert heading.startswith("FID@1000") and curve.label == "ours"
    assert (curve.x, curve.y) == ([1.0, 2.0, 3.0], [12.5, 10.0, 11.0])
    assert curve.reach == [(11.25, 13.75)] * 3
    page = Tags(render(runs, "html", table=TABLE))
    assert "A small table: guidance" in page.text
    assert {"role": "img", "aria-label": "A small table: guidance"}.items() <= {
        name: value for tag, each in page.tags if tag == "svg" for name, value in each.items()
    }.items()
    assert sweep(build_grid([guided(1.0, 12.5), entry("other")], TABLE)) == ("", [])


def test_a_run_in_the_folder_of_its_training_shows_the_curve(tmp_path: Path) -> None:
    run = guided(1.0, 12.5, tmp_path / "run")
    assert trainings([run]) == []
    lines = ({"step": step, "learning_rate": 1e-3, "flow": 1 / step} for step in (1, 2, 4))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (curve,) = trainings([run, dataclasses.replace(run, folder=tmp_path / "another")])
    assert (curve.label, curve.x, curve.y) == ("ours", [1.0, 2.0, 4.0], [1.0, 0.5, 0.25])
    assert trainings([dataclasses.replace(run, folder=tmp_path / "run" / "n-50")]) == [curve]
    assert "The flow loss in training" in render([run], "html", table=TABLE)


def test_a_long_log_becomes_a_curve_of_few_points(tmp_path: Path) -> None:
    """Each the mean of as many lines."""
    lines = (json.dumps({"step": step, "total": float(step)}) for step in range(1, 4 * POINTS + 1))
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    (curve,) = training(tmp_path)
    assert len(curve.x) == POINTS and curve.x == curve.y and curve.x[0] == 2.5


def test_pages_and_tables_are_byte_stable() -> None:
    """In two processes with different hash seeds, with the figure drawn."""
    program = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); import test_report as t\n"
        "shares = {f'geneval/{x}': t.Value(mean=0.5, ci_low=0, ci_high=1, n=9) for x in ('colors', 'position')}\n"
        "e = t.entry(suite='scenes-t2i', rows=t.rows(), picture=t.picture)\n"
        "e = t.Entry(result=e.result.model_copy(update={'values': shares}), rows=e.rows, picture=e.picture)\n"
        "pages = [t.render([e], format) for format in ('html', 'md', 'latex', 'csv')]\n"
        "assert '<svg' in pages[0] and 'torch' not in sys.modules\n"
        "print(hashlib.sha256(''.join(pages).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program, str(Path(__file__).parent)],
            env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


@pytest.mark.parametrize("name", table_names())
def test_an_earlier_report_of_any_format_is_known_by_its_beginning_and_may_be_replaced(tmp_path, name):
    for format in FORMATS:
        (tmp_path / format).write_text(render([], format, table=load_table(name)))
        check_replaces(tmp_path / format)
    (tmp_path / "prompts.txt").write_text("a red ball\n")
    with pytest.raises(CrossFlowError, match="holds no report: choose another name"):
        check_replaces(tmp_path / "prompts.txt")
