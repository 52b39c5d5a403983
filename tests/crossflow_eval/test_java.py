"""The Java programs: their tokens, what happens where one is missing or dies, and that none outlives its use.

Where no Java would do, a shell script of that name stands on the PATH.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from crossflow.errors import CrossFlowError
from crossflow_eval.judges import java

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")
NORMALIZER = 'case "$*" in *Normalizer*) exec cat;; esac'
"""What a script says in the place of METEOR's first program."""
BARE_MESSAGE = "there is no java on the PATH; install a Java runtime of version 8 or later"


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Put a shell script called java on the PATH, given its lines."""

    def write(*lines: str) -> None:
        place = tmp_path / "bin" / "java"
        place.parent.mkdir(exist_ok=True)
        place.write_text("\n".join(("#!/bin/sh", *lines, "")))
        place.chmod(0o755)
        monkeypatch.setenv("PATH", str(place.parent), prepend=os.pathsep)

    return write


@needs_java
def test_each_line_is_a_caption_and_each_text_a_document():
    """A line break of any kind within a caption is a blank; empty captions keep their place; a text may be empty."""
    first = ["", "A\rB\u2028C\u2029D\vE\fF\nG", " ", "Isn't it (nice)?", ".", ""]
    assert java.tokenize(first, [], ["U.S."], [""]) == [
        ["", "a b c d e f g", "", "is n't it -lrb- nice -rrb-", "", ""],
        [],
        ["u.s."],
        [""],
    ]


@needs_java
def test_java_speaks_english_on_a_machine_that_does_not(monkeypatch):
    """In Turkish the small letter of I has no dot, and 1.5 has a comma."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
    command = [java.find_java(), *java._OPTIONS, "-XshowSettings:locale", "-version"]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    assert "default locale = English" in said
    assert "Türk" not in said.partition("available locales")[0]
    assert java.tokenize(["A BIG IGUANA"]) == [["a big iguana"]]


def test_captions_that_are_no_unicode_are_refused():
    with pytest.raises(CrossFlowError, match="A caption is not valid unicode"):
        java.tokenize(["a dog", "half a pair: \ud83d"])


def test_without_java_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (lambda: java.tokenize(["a"]), lambda: java.meteor().__enter__(), java.find_java):
        with pytest.raises(CrossFlowError, match=BARE_MESSAGE):
            call()


def test_without_the_jars_the_sentence_says_where_they_come_from(monkeypatch):
    with pytest.raises(CrossFlowError, match=r"lacks meteor/meteor-2.jar; run pip install pycocoevalcap"):
        java.find_jar("meteor/meteor-2.jar")
    monkeypatch.setattr(java.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CrossFlowError, match=r"pycocoevalcap is not here or lacks meteor/meteor-1\.5"):
        java.find_jar("meteor/meteor-1.5.jar")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (("(echo note; echo 'Error: no room for the heap'; echo at line 1) >&2; exit 1",), "1 .Error: no room for"),
        (("exit 3",), r"3 \(it said nothing\)"),
        (("kill -9 $$",), r"-9 \(it said nothing\)"),
    ],
)
def test_a_java_that_dies_is_told_with_its_reason(script, lines, told):
    script(*lines)
    with pytest.raises(CrossFlowError, match=f"The PTB tokeniser died with exit code {told}"):
        java.tokenize(["a dog"])
    for first, what in ((), "METEOR"), ((NORMALIZER,), "METEOR, after 0 of 1 captions,"):
        script(*first, *lines)
        with java.meteor() as align, pytest.raises(CrossFlowError, match=f"{what} died with exit code {told}"):
            align(["a dog"], [["a cat 's"]]).result()


def test_meteor_that_ends_half_way_gives_no_scores(script):
    script(NORMALIZER, "read line", "echo 1 2 3", "exit 0")
    with java.meteor() as align, pytest.raises(CrossFlowError, match="METEOR, after 1 of 2 captions, died"):
        align(["a", "b"], [["a"], ["b"]]).result()


@needs_java
def test_meteor_reads_plain_captions_as_they_are() -> None:
    """Its normaliser is spared them: thousands of phrases of its own table, and what looks like an abbreviation."""
    with gzip.open(java.find_jar("meteor/data/paraphrase-en.gz"), "rt", encoding="utf-8") as table:
        phrases = {line.rstrip("\n") for line in islice(table, 2, 600_000, 30)}
    captions = [*filter(java._PLAIN.fullmatch, sorted(phrases)), "mr t no 5", "u s a", "1st 2nd", "i d e g 9 000"]
    assert len(captions) > 5000
    with java.readable_jar("meteor/meteor-1.5.jar") as jar:
        normalizer = ("-cp", str(jar), "edu.cmu.meteor.util.Normalizer", "en", "true")
        answers, _, _ = java._Programs().run(normalizer, "".join(f"{caption}\n" for caption in captions))
    assert answers.decode().splitlines() == captions


@needs_java
def test_meteor_reads_other_captions_normalised_as_its_own_option_does(tmp_path, monkeypatch) -> None:
    """Also where a character of theirs ends lines elsewhere. Oracle: METEOR with ``-norm``, both with a small table."""
    table = tmp_path / "table.gz"
    table.write_bytes(gzip.compress("1\nman - made\ncaf\u00e9\n".encode()))
    small = java.Paraphrases.read(table)
    monkeypatch.setattr(java.Paraphrases, "of", lambda path: small)
    captions = [
        "it 's a dog\x85 at no. 5",
        "a man-made e.g. \u201ccaf\u00e9\u201d & co .",
        "the dog -lrb- it 's -rrb- u.s. 's",
        "",
    ]
    references = [captions, captions[::-1], ["a d.o.g", "caf\u00e9"], ["one"]]
    questions = [" ||| ".join(("SCORE", *each, caption)) for caption, each in zip(captions, references, strict=True)]
    with java.readable_jar("meteor/meteor-1.5.jar") as jar:
        options = ("-Xmx4G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm", "-a", str(table))
        answers, _, _ = java._Programs().run(options, "".join(f"{each}\n" for each in questions))
    with java.meteor() as align:
        counts = align(captions, references).result()
    assert counts.tolist() == [[float(each) for each in line.split()] for line in answers.decode().splitlines()]


@pytest.mark.slow
@needs_java
def test_meteor_aligns_captions_of_10000_words():
    """Words that repeat take the most memory: pycocoevalcap's 2 GB are too few for these."""
    with java.meteor() as align:
        counts = align(["a dog " * 5000, ""], [["a dog runs on the grass", ""], ["a dog " * 5000]]).result()
    assert counts[:, :2].tolist() == [[10_000, 6], [0, 10_000]]


@pytest.mark.parametrize("fails", [False, True])
def test_meteor_ends_with_its_block(script, tmp_path, fails):
    """Also after an error, also in the middle of its work, and without waiting for the end of that."""
    whole = f"import time; time.sleep(30); open('{tmp_path}/whole', 'w')"
    script(f'echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec {sys.executable} -c "{whole}"')
    with pytest.raises(KeyError if fails else ZeroDivisionError):
        with java.meteor() as align:
            align(["a"], [["b"]])
            while not (tmp_path / "pid").exists():
                time.sleep(0.01)
            if fails:
                raise KeyError
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "whole").exists()


def spice_models(folder: Path, *more: str) -> Path:
    folder.mkdir()
    for name in (*java.SPICE_MODELS, *more):
        (folder / name).touch()
    return folder


def test_spice_names_the_models_that_are_missing(script, tmp_path):
    with pytest.raises(
        CrossFlowError, match=r"needs stanford-corenlp-3\.6\.0\.jar and .*-models\.jar in .*nlp\.stanford"
    ):
        java.check_spice(tmp_path)
    spice_models(tmp_path / "half").joinpath(java.SPICE_MODELS[0]).unlink()
    with pytest.raises(CrossFlowError, match=r"SPICE needs stanford-corenlp-3\.6\.0\.jar in .*stanford-corenlp-full"):
        java.spice(["a"], [["b"]], tmp_path / "half")


@pytest.mark.parametrize(
    ("version", "more", "good"),
    [
        ("1.8.0_412", (), True),
        ("14.0.2", (), True),
        ("15", (), False),
        ("17.0.15", (), False),
        ("21-ea", ("nashorn-core-15.4.jar",), True),
    ],
)
def test_spice_needs_a_java_with_a_javascript_engine(script, tmp_path, version, more, good):
    script(f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")
    models = spice_models(tmp_path / "models", *more)
    if good:
        return java.check_spice(models)
    with pytest.raises(CrossFlowError, match=rf"which Java {version.split('.')[0]} has not; put a Java of 8 to 14"):
        java.check_spice(models)


def spice_script(script, tmp_path, scores: str) -> None:
    """A java of version 8 that keeps what SPICE was called with, and answers ``scores``."""
    script(
        "if [ $1 = -version ]; then echo 'java version \"1.8.0_412\"' >&2; exit; fi",
        f'echo "$@" > {tmp_path}/call; echo "$JDK_JAVA_OPTIONS" >> {tmp_path}/call; cp captions.json {tmp_path}',
        f"echo '{scores}' > scores.json",
    )


def test_spice_is_called_with_the_flags_of_new_javas(script, tmp_path, monkeypatch):
    """The scores come back in the order of the captions, whatever the order of SPICE's."""
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-Dmine=1")
    scores = '[{"image_id": 1, "scores": {"All": {"f": 0.25}}}, {"image_id": 0, "scores": {"All": {"f": 1}}}]'
    spice_script(script, tmp_path, scores)
    models = spice_models(tmp_path / "models")
    assert java.spice(["a “dog”", ""], [["b"], ["c", "d"]], models).tolist() == [1, 0.25]
    call, options = (tmp_path / "call").read_text().splitlines()
    assert options.split()[0] == "-Dmine=1"
    assert "--add-opens=java.base/java.lang=ALL-UNNAMED" in options.split()
    assert "-Duser.language=en" in call
    assert f"{models}/*" in call
    assert call.endswith("edu.anu.spice.SpiceScorer captions.json -out scores.json -subset -silent")
    captions = java.json.loads((tmp_path / "captions.json").read_text())
    assert captions[0] == {"image_id": 0, "test": "a “dog”", "refs": ["b"]}


@pytest.mark.parametrize("answer", ['[{"image_id": 0, "scores": {"All": {"f": null}}}]', "[]"])
def test_a_caption_without_a_spice_score_is_named(script, tmp_path, answer):
    spice_script(script, tmp_path, answer)
    with pytest.raises(CrossFlowError, match=r"gave 1 of 1 captions no score, first 'a dog'"):
        java.spice(["a dog"], [["b"]], spice_models(tmp_path / "models"))


@needs_java
def test_nothing_is_written_beside_the_jars(monkeypatch, tmp_path):
    """pycocoevalcap's own wrapper cannot work where its folder is read-only."""
    folder = java.find_jar("tokenizer/stanford-corenlp-3.4.1.jar").parent
    before = sorted(os.listdir(folder)), folder.stat().st_mtime_ns
    monkeypatch.setattr(java.tempfile, "tempdir", str(tmp_path))
    assert java.tokenize(["a"]) == [["a"]]
    assert (sorted(os.listdir(folder)), folder.stat().st_mtime_ns) == before
    assert not list(tmp_path.iterdir())


def test_meteor_and_the_tokeniser_run_under_any_path(tmp_path, monkeypatch):
    """The jars under a path with a blank, an accent and a percent sign, in a locale that knows none of them."""
    place = tmp_path / "b c" / "é+%41"
    for name in ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz", "tokenizer/stanford-corenlp-3.4.1.jar"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(java.find_jar(name))
    expected = scored()
    monkeypatch.setattr(java, "find_jar", lambda name: place / name)
    monkeypatch.setenv("LC_ALL", "C")
    assert scored() == expected


def scored():
    with java.meteor() as align:
        (candidates, references) = java.tokenize(["a dog runs."], ["A cat runs"])
        return candidates, references, align(candidates, [references]).result().tolist()
