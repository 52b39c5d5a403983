"""The Java programs that define caption metrics, run from pycocoevalcap's own jars: PTB tokeniser, METEOR 1.5, SPICE.

pycocoevalcap itself is not imported: its wrappers write beside the jars, take over the machine's language and may leave
METEOR running after an error. Here files lie in a folder that goes away, Java speaks English (letter case and decimal
point depend on it), and every program has ended when its call or its ``with`` block has.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from crossflow.errors import CrossFlowError

Align = Callable[[Sequence[str], Sequence[Sequence[str]]], Future[np.ndarray]]
"""Takes a tokenised candidate and its references an image; promises METEOR's statistics, float64 [n 23]."""

PUNCTUATION = frozenset(
    ("''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";")
)
"""Tokens that coco-caption drops. Brackets stay: lower-casing has made them -lrb- and -rrb- by then."""

SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SPICE_SOURCE = "nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
JAVASCRIPT_UNTIL = 14
"""SPICE writes its scores through a JavaScript engine; Java had one up to this version."""
JAVASCRIPT = "nashorn-core"
"""The engine that later versions can be given, as a jar."""

_OPTIONS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8", "-XX:+UseSerialGC")
_REFLECTED = ("java.lang", "java.util", "java.math", "java.net", "java.text", "java.util.concurrent")
"""Packages that SPICE's libraries reflect on, which is forbidden since Java 16 unless they are opened."""
_LINE_BREAKS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))
"""What the tokeniser takes for the end of a line."""


_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./\\:~-]+")
"""Paths that every Java takes in every locale; METEOR looks for its data by a URL, and does not decode it."""


def find_java() -> str:
    """The path of ``java``. Raises CrossFlowError where there is none."""
    found = shutil.which("java")
    if found is None:
        raise CrossFlowError(
            "Caption metrics need Java, and there is no java on the PATH; install a Java runtime of version 8 or later "
            "(on Debian: apt install default-jre-headless)."
        )
    return found


def find_jar(name: str) -> Path:
    """The path of a file of pycocoevalcap, such as ``meteor/meteor-1.5.jar``. CrossFlowError where it is missing."""
    package = importlib.util.find_spec("pycocoevalcap")
    for place in (package and package.submodule_search_locations) or ():
        if (Path(place) / name).exists():
            return Path(place) / name
    raise CrossFlowError(f"The package pycocoevalcap is not here or lacks {name}; run pip install pycocoevalcap.")


@contextmanager
def readable_jar(name: str) -> Iterator[Path]:
    """As :func:`find_jar`, under a path that Java and METEOR can read: without blanks, signs and letters beyond ASCII.

    Where the installed one has some, its folder is linked, or copied, into a temporary one.
    """
    jar = find_jar(name)
    if _PLAIN_PATH.fullmatch(str(jar)):
        yield jar
        return
    with tempfile.TemporaryDirectory() as place:
        if not _PLAIN_PATH.fullmatch(place):
            raise CrossFlowError(f"Java cannot read jars under {place}; set TMPDIR to a path of plain letters.")
        yield shutil.copytree(jar.parent, Path(place) / "jars", copy_function=_link) / jar.name


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def tokenize(*texts: Sequence[str]) -> list[list[str]]:
    """The captions of each of the ``texts`` as coco-caption compares them: lower-case PTB tokens joined by blanks.

    Stanford's PTBTokenizer 3.4.1 with coco-caption's options, less ``PUNCTUATION``. Each text is a document of its own,
    one caption a line, for the tokeniser looks ahead over the end of a line. Line breaks within a caption are blanks.
    Raises CrossFlowError for no Java, one that dies, and captions that are not valid unicode.
    """
    numbers = range(len(texts))
    with readable_jar("tokenizer/stanford-corenlp-3.4.1.jar") as jar, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, captions in enumerate(texts):
            lines = "\n".join(caption.translate(_LINE_BREAKS) for caption in captions)
            try:
                (folder / f"{number}.txt").write_bytes(lines.encode())
            except UnicodeEncodeError as error:
                raise CrossFlowError(f"A caption is not valid unicode ({error}); mend it.") from error
        (folder / "files").write_text("".join(f"{number}.txt\t{number}.out\n" for number in numbers))
        program = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", "-ioFileList", "files")
        _run("The PTB tokeniser", ["-XX:TieredStopAtLevel=1", "-cp", str(jar), *program], folder)
        outputs = [(folder / f"{number}.out").read_bytes().decode() for number in numbers]
    tokenized = [[_without_punctuation(line) for line in output.split("\n")] for output in outputs]
    return [lines if captions else [] for lines, captions in zip(tokenized, texts, strict=True)]


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)


@contextmanager
def meteor() -> Iterator[Align]:
    """METEOR 1.5's aligner: a function that aligns in the background while other work goes on.

    The program takes seconds to start, so enter before the captions are tokenised, and 1 GB; captions of 10,000 words
    may take it to 4 GB. It ends with the block, whatever happens inside. Raises CrossFlowError for no Java; what it
    promised raises it where the program died.
    """
    pipe = subprocess.PIPE
    with readable_jar("meteor/meteor-1.5.jar") as jar:
        command = [find_java(), *_OPTIONS, "-Xmx4G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process, ThreadPoolExecutor(1) as pool:
            try:
                yield lambda candidates, references: pool.submit(_align, process, candidates, references)
            finally:
                process.kill()


def _align(
    process: subprocess.Popen[bytes], candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> np.ndarray:
    questions = [
        " ||| ".join(("SCORE", *several, candidate)) + "\n"
        for candidate, several in zip(candidates, references, strict=True)
    ]
    answers, said = process.communicate("".join(questions).encode())
    done = answers.count(b"\n")
    if process.returncode or done != len(questions):
        raise _death(f"METEOR, after {done} of {len(questions)} captions,", process.returncode, said)
    return np.array(answers.split(), dtype=np.float64).reshape(len(questions), -1)


def check_spice(models: Path) -> None:
    """Check that SPICE can run, with the two CoreNLP jars in the folder ``models``.

    Raises CrossFlowError naming the jars that are missing and where they come from, or what this Java lacks.
    """
    missing = [name for name in SPICE_MODELS if not (models / name).exists()]
    if missing:
        raise CrossFlowError(f"SPICE needs {' and '.join(missing)} in {models}; take the jars out of {SPICE_SOURCE}.")
    said = subprocess.run([find_java(), "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version and int(version[1]) > JAVASCRIPT_UNTIL and not any(models.glob(f"{JAVASCRIPT}*.jar")):
        raise CrossFlowError(
            f"SPICE writes its scores through a JavaScript engine, which Java {version[1]} has not; put a Java of 8 to "
            f"{JAVASCRIPT_UNTIL} first on the PATH, or {JAVASCRIPT} and its asm jars (Maven Central) into {models}."
        )


def spice(candidates: Sequence[str], references: Sequence[Sequence[str]], models: Path) -> np.ndarray:
    """SPICE of each image, float64 [n] in [0, 1], from tokenised captions: the F-score of all tuples.

    P. Anderson et al., 2016, version 1.0. Takes minutes a thousand images and up to 8 GB. Raises CrossFlowError as
    :func:`check_spice` does, for a Java that dies, and for images that SPICE gives no score.
    """
    check_spice(models)
    records = [
        {"image_id": number, "test": candidate, "refs": list(several)}
        for number, (candidate, several) in enumerate(zip(candidates, references, strict=True))
    ]
    jar = find_jar("spice/spice-1.0.jar")
    path = os.pathsep.join((str(jar), str(jar.parent / "lib" / "*"), str(models.resolve() / "*")))
    flags = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _REFLECTED]
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "captions.json").write_text(json.dumps(records))
        program = ("edu.anu.spice.SpiceScorer", "captions.json", "-out", "scores.json", "-subset", "-silent")
        # The flags go through the environment, which Java 8 does not read: it would stop at an option it does not know.
        environment = {"JDK_JAVA_OPTIONS": " ".join((os.environ.get("JDK_JAVA_OPTIONS", ""), *flags))}
        _run("SPICE", ["-Xmx8G", "-cp", path, *program], Path(name), environment)
        scored = json.loads((Path(name) / "scores.json").read_text(encoding="utf-8"))
    found = {each["image_id"]: each["scores"]["All"]["f"] for each in scored}
    scores = np.array([found.get(number) for number in range(len(records))], dtype=np.float64)
    if not np.isfinite(scores).all():
        lost = np.flatnonzero(~np.isfinite(scores))
        raise CrossFlowError(
            f"SPICE gave {len(lost)} of {len(scores)} captions no score, first {candidates[lost[0]]!r}."
        )
    return scores


def _run(what: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a program to its end in ``folder``. Raises CrossFlowError where it fails."""
    done = subprocess.run(
        [find_java(), *_OPTIONS, *arguments],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    if done.returncode:
        raise _death(what, done.returncode, done.stderr)


def _death(what: str, code: int, said: bytes) -> CrossFlowError:
    lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    telling = next((line for line in lines if re.search("Error|Exception", line)), lines[-1])
    return CrossFlowError(
        f"{what} died with exit code {code} ({telling.strip()}); check that `java -version` answers, that memory is "
        "free and that no caption goes on without end, then run the same command again."
    )
