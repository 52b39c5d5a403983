"""What a run's folder says, read as a stranger's: a schema for each record, and the proof that all is as it was scored.

::

    outputs/                one file an output, of one model; of outputs made together one a modality
    n-50/, n-1000/          a run each, of the first so many examples
        settings.json       what made the run
        outputs.jsonl       one line an output: its name and its sha256
        per_example.jsonl   what was said of each
        result.json         the numbers, and the digests of all of these

Earlier versions had one run beside the outputs; it is read as well.

A folder may come from anybody. Nothing of it is used before it fits its schema, and an output is a file of its own in
``outputs``: a name that leads elsewhere, or a link, is refused before it is opened. The digests find what was changed
by mistake; whoever wants to deceive can make them anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crossflow.errors import CrossFlowError, first_few
from crossflow.files.hashes import file_sha256
from crossflow.files.plain_json import read_json
from crossflow.files.processes import file_threads
from crossflow_eval.outputs import stem
from crossflow_eval.tables import REFERENCES, ROLES
from crossflow_eval.types import Ask, Proof, Result, Role, Row, Settings

SETTINGS, EXAMPLES, MANIFEST, ROWS, RESULT = (
    "settings.json",
    "examples.jsonl",
    "outputs.jsonl",
    "per_example.jsonl",
    "result.json",
)
OUTPUTS = "outputs"
PART = re.compile(r"n-([1-9][0-9]*)")
"""How a run's folder is called, by the number of its examples."""
LOG = "log.jsonl"
"""What a training's folder holds: its losses, a line each."""
Record = TypeVar("Record", bound=BaseModel)

FOLLOWS = ("n", "warning", "interval", "subsets", "bfloat16_shift", "bfloat16_shift_n")
"""What of a protocol may follow from the outputs and from how many they are."""
LARGEST = 2**63
"""What a number in a record stays below, so that it is one of any other language's too."""
LONGEST = 200
"""The longest name of an example or a model in bytes of UTF-8: file systems take 255, with what is put around it."""


def is_file_name(name: Any, longest: int = LONGEST) -> bool:
    """Whether ``name`` is text that can name one file, in the folder that it is looked for in."""
    if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set("/\\\0\n"):
        return False
    return len(name.encode(errors="surrogatepass")) <= longest


def _file_name(name: str) -> str:
    if not is_file_name(name, 255):
        raise ValueError("it names no file in the folder outputs")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Detection(_Record):
    label: str
    box: tuple[float, float, float, float]


class _Row(_Record):
    """A line of per_example.jsonl: the columns that are read by name; the others are any plain JSON."""

    id: str
    index: int = 0
    output: FileName = "-"
    outputs: dict[str, FileName] = {}
    prompt: str = ""
    task: str = ""
    size: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    detections: list[_Detection] = []


_ASK = TypeAdapter(Ask)


class _Example(_Record):
    """A line of examples.jsonl, of a suite whose examples are plain data."""

    model_config = ConfigDict(extra="forbid")
    id: str
    source: str
    target: Any = None
    tags: dict[str, str]


class _Asked(_Record):
    """A line of examples.jsonl, whatever its source is."""

    id: str
    source: Any = None
    target: Any = None
    tags: dict[str, str] = {}


class _Step(_Record):
    """A line of a training's log; the others of its entries are losses."""

    step: Annotated[int, Field(ge=0)]


class _Scored(_Record):
    """A line of outputs.jsonl."""

    model_config = ConfigDict(extra="forbid")
    id: str
    index: int
    output: FileName
    sha256: Sha256


def part(home: Path, examples: int) -> Path:
    """The folder of the run of so many examples of the model whose outputs lie in ``home``."""
    return home / f"n-{examples}"


def parts(home: Path) -> list[Path]:
    """The folders of a model's runs that are there, the one of the fewest examples first."""
    found = {path: match for path in home.glob("n-*") if (match := PART.fullmatch(path.name)) and path.is_dir()}
    return sorted(found, key=lambda path: int(found[path][1]))


def home_of(folder: Path) -> Path:
    """Where the outputs of the run in ``folder`` lie: one up, unless an earlier version put them into it."""
    whole = Path(os.path.abspath(folder))
    inside = PART.fullmatch(whole.name) and not (folder / OUTPUTS).exists()
    return (folder.parent if folder.name else whole.parent) if inside else folder


def run_in(folder: Path) -> Path:
    """The run that a folder stands for: itself, or of a model's runs the finished one of the most examples."""
    if (folder / RESULT).exists():
        return folder
    within = parts(folder)
    return [folder, *within, *(each for each in within if (each / RESULT).exists())][-1]


def read_settings(folder: Path) -> Settings:
    """Read settings.json. Raises CrossFlowError."""
    settings = read_record(Settings, folder / SETTINGS, "settings", "give another run")
    if settings is None:
        raise CrossFlowError(f"{folder} is not a run's folder: it holds no {SETTINGS}.")
    return settings


def read_result(folder: Path) -> Result | None:
    """Read result.json; None where the run is not finished. Raises CrossFlowError."""
    return read_record(Result, folder / RESULT, "a result", "score the run again")


def read_rows(folder: Path) -> list[Row]:
    """Read per_example.jsonl, where there is one. Raises CrossFlowError with the line of what is no row."""
    return list(_lines(folder / ROWS, _Row, "score the run again"))


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """Read the fields of examples that are plain data. Raises CrossFlowError with the line."""
    found = list(_lines(folder / EXAMPLES, _Example, "make the run anew"))
    if not found:
        raise CrossFlowError(f"{folder} is not a run's folder: it holds no {EXAMPLES}.")
    return found


def example_lines(folder: Path) -> dict[str, str]:
    """What was asked of a run, by the example's id, as canonical JSON. Raises CrossFlowError with the line."""
    lines = _lines(folder / EXAMPLES, _Asked, "make the run anew")
    return {line["id"]: canonical_json(line) for line in lines}


def read_ids(folder: Path) -> list[str]:
    """The ids of a run's examples, whatever their sources are. Raises CrossFlowError with the line."""
    return [line["id"] for line in _lines(folder / EXAMPLES, _Asked, "make the run anew")]


def read_target_texts(folder: Path) -> dict[str, list[str]]:
    """The texts that an example's output is compared with, by its id, where they are texts. Raises CrossFlowError."""
    targets = {line["id"]: line.get("target") for line in _lines(folder / EXAMPLES, _Asked, "make the run anew")}
    return {
        name: texts
        for name, texts in targets.items()
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    }


def read_outputs_so_far(folder: Path) -> tuple[list[Row], int]:
    """What a run has made so far, a row an output in the order of its examples; and of how many."""
    copies = read_settings(folder).outputs_per_example
    there = {stem(name): name for name in _outputs(folder)}
    rows: list[Row] = []
    asked = list(_lines(folder / EXAMPLES, _Asked, "make the run anew"))
    for line in asked:
        source = line.get("source")
        ask = _as_ask(source)
        prompt = str(ask) if ask else source.get("file") if isinstance(source, dict) else source
        address = {"id": line["id"], "prompt": prompt if isinstance(prompt, str) else ""}
        for index in range(copies):
            name = f"{line['id']}-{index}"
            if ask is not None:
                several = {each: there[f"{name}.{each}"] for each in ask.wanted if f"{name}.{each}" in there}
                task = {"task": line["tags"]["task"]} if "task" in line.get("tags", {}) else {}
                rows += [{**address, **task, "index": index, "outputs": several}] * (len(several) == len(ask.wanted))
            elif name in there:
                rows.append({**address, "index": index, "output": there[name]})
    return rows, len(asked) * copies


def _as_ask(source: Any) -> Ask | None:
    """The ``Ask`` that an example's source is; None where it is none."""
    try:
        return _ASK.validate_python(source)
    except ValidationError:
        return None


def _outputs(folder: Path) -> list[str]:
    """The names of the outputs that are there, be they of this run or of another one of its model."""
    try:
        with os.scandir(home_of(folder) / OUTPUTS) as entries:
            return [each.name for each in entries if each.is_file(follow_symlinks=False) and is_file_name(each.name)]
    except OSError:
        return []


def count_outputs(folder: Path) -> int:
    """How many outputs lie where a run's do, be they of this run or of another one of its model."""
    return len(_outputs(folder))


def read_losses(folder: Path) -> dict[str, dict[int, float]]:
    """The losses of the training in ``folder`` by their names and steps; none where it has no log.

    A last line that is being written is left for later. Raises CrossFlowError for what is no log.
    """
    content = _content(folder / LOG) or b""
    found: dict[str, dict[int, float]] = {}
    for line in _lines_of(content[: content.rfind(b"\n") + 1], folder / LOG, _Step, "give another folder"):
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                found.setdefault(name, {})[line["step"]] = float(value)
    return found


def find(root: Path) -> tuple[list[Path], list[Path]]:
    """The runs, and the trainings, in and below a folder; in a model's folder its runs alone are looked for.

    A model of which no run is there yet stands for one. Hidden folders and links are passed over. CrossFlowError where
    there is no folder.
    """
    if not root.is_dir():
        raise CrossFlowError(f"There is no folder {root}; give the folder of a run, of a training, or of many.")
    runs: list[Path] = []
    trainings: list[Path] = []
    for place, folders, names in os.walk(root):
        here = {SETTINGS, LOG} & set(names)
        runs += _runs_of(Path(place)) if SETTINGS in here else []
        trainings += [Path(place)] if LOG in here else []
        folders[:] = sorted(name for name in folders if SETTINGS not in here and not name.startswith("."))
    return runs, trainings


def _runs_of(home: Path) -> list[Path]:
    within = [each for each in parts(home) if not each.is_symlink() and (each / SETTINGS).is_file()]
    return within if within and not (home / RESULT).exists() else [home]


def read_manifest(folder: Path) -> dict[str, str]:
    """The sha256 of every output as it was scored, by name; empty for a run not scored, or by an earlier version."""
    return {line["output"]: line["sha256"] for line in _lines(folder / MANIFEST, _Scored, "score the run again")}


def output_path(folder: Path, name: str) -> Path:
    """The file of an output of the run in ``folder``, which need not be there.

    CrossFlowError for a name that leads out of its ``outputs``, and for a link or a device in the file's place.
    """
    home = home_of(folder)
    path = home / OUTPUTS / name
    if os.path.realpath(path) != os.path.join(os.path.realpath(home), OUTPUTS, name):
        raise CrossFlowError(
            f"{path} leads out of the run's outputs, and is not read: an output is a file in {home / OUTPUTS}."
        )
    if path.exists() and not path.is_file():
        raise CrossFlowError(f"{path} is no file, and is not read: remove it and run the same command again.")
    return path


def seal(result: Result, manifest: bytes, rows: bytes) -> Result:
    """The ``result`` with its proof: the digests of the content of outputs.jsonl and per_example.jsonl, and its own."""
    digests = {"outputs": _sha256(manifest), "rows": _sha256(rows)}
    unsealed = result.model_copy(update={"proof": Proof(**digests, result="")})
    return result.model_copy(update={"proof": Proof(**digests, result=_own_digest(unsealed))})


def lasting(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What of a metric's protocol does not follow from the outputs: what they were measured by."""
    return {name: value for name, value in protocol.items() if name not in FOLLOWS}


def canonical_json(record: Any) -> str:
    """One line of JSON with sorted keys; NaN and infinity are refused with a ValueError."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def references(folder: Path) -> dict[Role, Path]:
    """The runs of the references of the run in ``folder``, by their role, each of as many examples."""
    home = home_of(folder)
    within = "" if home == folder else Path(os.path.abspath(folder)).name
    places: dict[Role, Path] = {role: home / REFERENCES / role / within for role in ROLES}
    return {role: place for role, place in places.items() if place.is_dir()}


def check_whole(folder: Path) -> Result:
    """The result of the finished run in ``folder``, once it has proved itself.

    One of an earlier version has no digests, and is read as it is. Raises CrossFlowError with every fault, and for a
    run that is not finished.
    """
    result = read_result(folder)
    if result is None:
        raise CrossFlowError(
            f"{folder} holds no {RESULT}: the run is not finished, or it is no run; run its command again."
        )
    refuse(folder, faults(folder, result))
    return result


def refuse(folder: Path, found: Iterable[str]) -> None:
    """Raise CrossFlowError with the faults that were ``found``, if any."""
    if sentences := list(found):
        raise CrossFlowError(f"{folder} is not as it was scored: {' '.join(sentences)}")


def faults(folder: Path, result: Result, there: Container[str] | None = None) -> Iterator[str]:
    """What in a finished run's folder is not as its ``result`` says, a sentence each; see ``output_faults``."""
    if result.proof is None:
        return
    again = f"make it anew by `crossflow-eval score {folder}`."
    if _own_digest(result) != result.proof.result:
        yield f"{RESULT} was edited; {again}"
    else:
        yield from _settings_faults(folder, result)
    if _digest(folder / EXAMPLES) != result.data_sha256:
        yield f"{EXAMPLES} is not what was scored; put it back."
    if _digest(folder / ROWS) != result.proof.rows:
        yield f"{ROWS} was edited; {again}"
    if _digest(folder / MANIFEST) != result.proof.outputs:
        yield f"{MANIFEST} was edited; {again}"
    else:
        yield from output_faults(folder, there)


def lasting_faults(folder: Path, there: Container[str]) -> Iterator[str]:
    """Those of the ``faults`` that scoring again does not mend: of the settings and the outputs."""
    try:
        result = read_result(folder)
    except CrossFlowError:  # edited or damaged: it is about to be made anew
        return
    if result is None or result.proof is None:
        return
    if _own_digest(result) == result.proof.result:
        yield from _settings_faults(folder, result)
    if _digest(folder / MANIFEST) == result.proof.outputs:
        yield from output_faults(folder, there)


def _settings_faults(folder: Path, result: Result) -> Iterator[str]:
    if _content(folder / SETTINGS) is None:
        yield f"{SETTINGS}, which says what made the run, is gone; put it back."
    elif read_settings(folder) != result.settings:
        yield f"{SETTINGS} is of another run than {RESULT}; put back the one that it was made with."


def output_faults(folder: Path, there: Container[str] | None = None) -> Iterator[str]:
    """The outputs that are not what was scored, counted in a sentence; of those in ``there``, or of all."""
    recorded = read_manifest(folder)
    names = [name for name in recorded if there is None or name in there]
    with file_threads() as pool:
        found = list(pool.map(partial(_output_digest, folder), names))
    if bad := [name for name, digest in zip(names, found, strict=True) if digest != recorded[name]]:
        yield (
            f"{len(bad)} of {len(names)} outputs in {home_of(folder) / OUTPUTS} are not what was scored: "
            f"{first_few(bad)}; put them back, or remove them and run the run's command to make them anew."
        )


def _own_digest(result: Result) -> str:
    record = result.model_dump(mode="json")
    record["proof"]["result"] = ""
    return _sha256(canonical_json(record).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(path: Path) -> str | None:
    """The sha256 of a file; None where it is not there or cannot be read."""
    try:
        return file_sha256(path)
    except CrossFlowError:
        return None


def _output_digest(folder: Path, name: str) -> str | None:
    return _digest(output_path(folder, name))


def _content(path: Path) -> bytes | None:
    """A record's bytes; None where there is no file."""
    try:
        if not path.exists():
            return None
        if not path.is_file():
            raise CrossFlowError(f"{path} is no file; give a run's folder.")
        return path.read_bytes()
    except OSError as error:
        raise CrossFlowError(f"Cannot read {path}: {error.strerror}.") from error


def _lines(path: Path, kind: type[BaseModel], remedy: str) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file, each of the ``kind``; none where there is no file."""
    return _lines_of(_content(path) or b"", path, kind, remedy)


def _lines_of(content: bytes, path: Path, kind: type[BaseModel], remedy: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line:
            _, plain = _parsed(kind, line, f"{path}, line {number} cannot be read", remedy)
            yield plain


def read_record(kind: type[Record], path: Path, what: str, remedy: str) -> Record | None:
    """The record of a ``kind`` in a JSON file; None where there is no file.

    CrossFlowError for a file that cannot be read as ``what`` it is, with the ``remedy``.
    """
    if (content := _content(path)) is None:
        return None
    return _parsed(kind, content, f"{path} cannot be read as {what}", remedy)[0]


def _parsed(kind: type[Record], content: bytes, what: str, remedy: str) -> tuple[Record, Any]:
    """A record and its plain JSON. CrossFlowError says where it does not fit the ``kind``."""
    plain = read_json(content, what, remedy)
    try:
        record = kind.model_validate_json(content)
    except ValidationError as error:
        raise CrossFlowError(f"{what}: {_why(error)}; {remedy}.") from error
    if any(not abs(number) < LARGEST for number in _numbers(plain)):
        raise CrossFlowError(f"{what}: it holds a number that is not finite, or not below 2^63; {remedy}.")
    return record, plain


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers(each)


def _why(error: ValidationError) -> str:
    """The first thing that is wrong, without quoting what stands there: it may be anything."""
    first: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place[:80]}: {first['msg']}" if place else str(first["msg"])
