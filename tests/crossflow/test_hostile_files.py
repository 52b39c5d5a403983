"""Files of users and strangers end in one sentence, whatever they hold, before memory is taken."""

import io
import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crossflow.errors import CrossFlowError, Notice
from crossflow.files.arrays import plain_array, plain_arrays
from crossflow.files.folders import cache_folder
from crossflow.files.hashes import content_sha256
from crossflow.files.plain_json import read_json, read_json_file, read_json_lines, read_toml
from crossflow.files.program import OneLine
from crossflow.files.seeds import check_seed
from crossflow.recipes import CONFIGS
from crossflow.sampling.text_to_image import prompt_seed
from crossflow.training.train import train
from crossflow_eval.request import Request
from crossflow_eval.runs.launch import evaluate


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b"9" * 5_000, "an integer of 5000 digits"),
        (b"-" + b"9" * 41, "an integer of 42 digits"),
        (b"[NaN]", "holds NaN"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"1e999", "holds the number 1e999"),
        (b'{"a": ["\\uD83D"]}', "half a character"),
        (b'{"\\udc00": 1}', "half a character"),
        (b"\xff", "not UTF-8"),
        (b"", "not JSON"),
        (b"{'a': 1}", "not JSON"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_is_no_plain_data_is_one_sentence(content, said, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    for read in (lambda: read_json(content, "here"), lambda: read_json_file(tmp_path / "a.json")):
        with pytest.raises(CrossFlowError, match=said) as error:
            read()
        assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_json_is_what_pythons_reader_gives():
    record = {"a": [1, -2.5, 10**39, None, True, "é😀", {"b": ""}]}
    for text in (json.dumps(record), json.dumps(record, ensure_ascii=False)):
        assert read_json(text, "here") == read_json(b"\xef\xbb\xbf" + text.encode(), "here") == record
    assert list(read_json_lines("1\n\n[2]\n", "here")) == [("line 1", 1), ("line 3", [2])]
    with pytest.raises(CrossFlowError, match="here, line 3: it is not JSON"):
        list(read_json_lines("1\n\n[2\n", "here"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = " + "9" * 9_000, "a number that is too large, or none"),
        ("a = nan", "a number that is too large, or none"),
        ("a = 1e999", "a number that is too large, or none"),
        ("a = [", "not TOML"),
        ("a = 1\na = 2", "not TOML"),
    ],
    ids=lambda value: value[:20],
)
def test_toml_that_is_no_plain_data_is_one_sentence(text, said):
    with pytest.raises(CrossFlowError, match=f"^here: .*{said}.*; write it again.$"):
        read_toml(text, "here")
    assert read_toml("a = [1, 2.5]", "here") == {"a": [1, 2.5]}


def test_a_seed_that_no_generator_takes_and_no_record_keeps_is_one_sentence(tmp_path):
    assert check_seed(2**63 - 1) == 2**63 - 1
    for said in (
        lambda: check_seed(2**63),
        lambda: prompt_seed(10**40, "a"),
        lambda: train(CONFIGS["scenes-tiny"], tmp_path / "run", seed=-(10**5_000)),
        lambda: evaluate(Request(task="depth", seed=10**40, out=tmp_path / "run")),
    ):
        with pytest.raises(
            CrossFlowError, match=r"^The seed has \d+ hexadecimal digits: give one of at most 63 bits\.$"
        ):
            said()
    assert not (tmp_path / "run").exists()


STEERING = "\x1b]0;mine\x07\u202e\u2028\ud800"


def test_what_is_not_there_has_no_hash(tmp_path):
    """Else two autoencoders by their names in the hub would be one."""
    with pytest.raises(CrossFlowError, match="cannot be read"):
        content_sha256(tmp_path / "stabilityai" / "sd-vae-ft-mse")


def test_a_machine_without_a_home_is_told_of_the_cache(monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("CROSSFLOW_CACHE", "elsewhere")
    assert cache_folder() == Path("elsewhere")
    monkeypatch.setenv("CROSSFLOW_CACHE", "")
    with pytest.raises(CrossFlowError, match="set CROSSFLOW_CACHE"):
        cache_folder()


def test_what_is_said_of_hostile_names_steers_no_terminal():
    said = str(CrossFlowError(f"{STEERING}: a name\nof two lines, a café and 字."))
    assert said == r"\x1b]0;mine\x07\u202e\u2028\ud800: a name of two lines, a café and 字."
    assert str(Notice("a\x9bb")) == r"a\x9bb"
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s\n", (STEERING,), None)
    assert OneLine().format(record) == r"\x1b]0;mine\x07\u202e\u2028\ud800 "


def saved(array: object, **options: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def claiming(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + b"1234"


def packed(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.npy", content)
    return stream.getvalue()


HOSTILE = {
    "of objects": (saved(np.array([{}]), allow_pickle=True), "array of object"),
    "of records": (saved(np.zeros(2, [("a", "<f4")])), "array of"),
    "of dates": (saved(np.zeros(2, "datetime64[s]")), "array of datetime64"),
    "of a claimed terabyte": (claiming((1 << 20, 1 << 18)), r"1,099,511,627,776 bytes, and at most"),
    "of a negative size": (claiming((-1,)), "claims|no whole"),
    "cut short": (saved(np.ones(100))[:-9], "not the bytes"),
    "of text": (b"no array", "no whole"),
    "empty": (b"", "no whole"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_array_that_is_none_is_one_sentence(kind, tmp_path):
    content, said = HOSTILE[kind]
    for name, held in (("a.npy", content), ("a.npz", packed(content))):
        (tmp_path / name).write_bytes(held)
        with pytest.raises(CrossFlowError, match=rf"^Cannot read the depth map .*{name}: .*({said})"):
            plain_arrays(tmp_path / name, "depth map")
    with pytest.raises(ValueError, match=r"\w"):
        plain_array(content)


def test_an_array_that_is_one_is_read(tmp_path):
    array = np.arange(6, dtype=">f4").reshape(2, 3, order="F")
    np.savez_compressed(tmp_path / "a.npz", a=array, b=np.array(["x"]))
    np.save(tmp_path / "a.npy", array)
    assert np.array_equal(plain_arrays(tmp_path / "a.npy", "array")[""], array)
    assert np.array_equal(plain_array(saved(array)), array)
    assert plain_arrays(tmp_path / "a.npz", "array").keys() == {"a", "b"}
    assert np.array_equal(plain_arrays(tmp_path / "a.npz", "array", ["a"])["a"], array)
    with pytest.raises(CrossFlowError, match="Is a directory"):
        plain_arrays(tmp_path, "array")
