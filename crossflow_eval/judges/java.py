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
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Lock

import numpy as np

from crossflow.errors import CrossFlowError
from crossflow_eval.judges.paraphrases import Paraphrases

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

_ENCODINGS = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8")
"""The second one is what Java prints in since version 19."""
_OPTIONS = ("-Duser.language=en", "-Duser.country=US", *_ENCODINGS, "-XX:+UseSerialGC")
_QUICK = "-XX:TieredStopAtLevel=1"
"""For programs that run for seconds, in which the second compiler takes longer than it saves."""
_REFLECTED = ("java.lang", "java.util", "java.math", "java.net", "java.text", "java.util.concurrent")
"""Packages that SPICE's libraries reflect on, which is forbidden since Java 16 unless they are opened."""
_MOST, _LEAST = 8, 500
"""METEOR's programs at a time, and the fewest captions that one is started for."""
_PLAIN = re.compile("[a-z0-9]+(?: [a-z0-9]+)*")
"""Captions that METEOR reads as they are."""
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
        _run("The PTB tokeniser", [_QUICK, "-cp", str(jar), *program], folder)
        outputs = [(folder / f"{number}.out").read_bytes().decode() for number in numbers]
    tokenized = [[_without_punctuation(line) for line in output.split("\n")] for output in outputs]
    return [lines if captions else [] for lines, captions in zip(tokenized, texts, strict=True)]


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in PUNCTUATION)


@contextmanager
def meteor() -> Iterator[Align]:
    """METEOR 1.5's aligner: a function that aligns in the background while other work goes on.

    It runs a program a core, each on a part of the captions, which are normalised once, and on those paraphrases alone
    that can match (:mod:`crossflow_eval.judges.paraphrases`). One takes 1 GB at most; captions of 10,000 words may take
    it to 4 GB. All end with the block, whatever happens inside. Raises CrossFlowError for no Java; what is promised
    raises it where a program died.
    """
    find_java()
    programs = _Programs()
    with readable_jar("meteor/meteor-1.5.jar") as jar, ThreadPoolExecutor(1) as pool:
        table = pool.submit(Paraphrases.of, jar.parent / "data" / "paraphrase-en.gz")
        try:
            yield lambda candidates, references: pool.submit(_align, jar, programs, table, candidates, references)
        finally:
            programs.end()


class _Programs:
    """What runs, so that it can be ended; after that nothing starts."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._lock, self._ended = Lock(), False

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for process in self._running:
                process.kill()

    def run(self, arguments: Sequence[str], said: str) -> tuple[bytes, bytes, int]:
        """What a Java program answers to what it is ``said``, what it says beside that, and its exit code."""
        pipe = subprocess.PIPE
        with self._lock:
            if self._ended:
                raise CrossFlowError("METEOR was stopped before it had started.")
            process = subprocess.Popen([find_java(), *_OPTIONS, *arguments], stdin=pipe, stdout=pipe, stderr=pipe)
            self._running.append(process)
        with process:
            answers, errors = process.communicate(said.encode())
        return answers, errors, process.returncode


def _align(
    jar: Path,
    programs: _Programs,
    table: Future[Paraphrases],
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
) -> np.ndarray:
    with tempfile.TemporaryDirectory() as name:
        said = Path(name) / "paraphrases.gz"
        captions = _normalized(jar, programs, {each for texts in (candidates, *references) for each in texts})
        table.result().write(captions.values(), said)
        options = (_QUICK, "-Xmx4G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-lower", "-a", str(said))

        def align(part: slice) -> np.ndarray:
            questions = [
                " ||| ".join(("SCORE", *(captions[each] for each in (*several, candidate)))) + "\n"
                for candidate, several in zip(candidates[part], references[part], strict=True)
            ]
            answers, errors, code = programs.run(options, "".join(questions))
            done = answers.count(b"\n")
            if code or done != len(questions):
                raise _death(f"METEOR, after {done} of {len(questions)} captions,", code, errors)
            return np.array(answers.split(), dtype=np.float64).reshape(len(questions), -1)

        parts = _parts(len(candidates))
        with ThreadPoolExecutor(len(parts)) as pool:
            return np.concatenate(list(pool.map(align, parts)))


def _normalized(jar: Path, programs: _Programs, captions: Set[str]) -> dict[str, str]:
    """Each caption as METEOR's option ``-norm`` lets it be read; where all are plain that costs no program."""
    found = {caption: caption for caption in captions if _PLAIN.fullmatch(caption)}
    if rest := sorted(captions - found.keys()):
        normalizer = (_QUICK, "-cp", str(jar), "edu.cmu.meteor.util.Normalizer", "en", "true")
        answers, errors, code = programs.run(normalizer, "".join(f"{caption}\n" for caption in rest))
        lines = answers.decode().split("\n")
        if code or len(lines) != len(rest) + 1:
            raise _death("METEOR", code, errors)
        found |= zip(rest, lines[:-1], strict=True)
    return found


def _parts(n: int) -> list[slice]:
    """``n`` captions in as many parts as there are cores, but none of fewer than ``_LEAST``."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(cores, _MOST, n // _LEAST))
    bounds = [n * part // count for part in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


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
