"""METEOR's table of paraphrases keeps every pair that can match, and those alone."""

import gzip
import re
import shutil
import subprocess
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossflow_eval.judges import paraphrases
from crossflow_eval.judges.java import find_jar
from crossflow_eval.judges.paraphrases import Paraphrases

WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=7).map(" ".join)
PAIRS = [("a dog", "the dog"), ("a dog", "hound"), ("dog", "hound"), ("\u2026 who", "who")]


def table(path: Path, pairs: list[tuple[str, str]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"0.5\n{first}\n{second}\n" for first, second in pairs)
    return path


def pairs_of(path: Path) -> list[tuple[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    return list(zip(lines[1::3], lines[2::3], strict=True))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@given(st.lists(WORDS, max_size=4), st.lists(st.tuples(WORDS, WORDS), max_size=8), st.integers(1, 60))
def test_a_pair_stays_if_both_phrases_are_said_whatever_the_size_of_the_blocks(tmp_path_factory, said, pairs, block):
    place = tmp_path_factory.mktemp("table")
    before, paraphrases._BLOCK = paraphrases._BLOCK, block
    try:
        Paraphrases.read(table(place / "table.gz", pairs)).write(said, place / "kept.gz")
    finally:
        paraphrases._BLOCK = before
    assert pairs_of(place / "kept.gz") == [
        pair for pair in pairs if all(any(f" {phrase} " in f" {caption} " for caption in said) for phrase in pair)
    ]


def test_phrases_of_one_number_are_both_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(paraphrases, "_FACTOR", np.uint64(0))
    pairs = [("a dog", "hound"), ("hound", "the dog"), ("hound", "cat")]
    Paraphrases.read(table(tmp_path / "table.gz", pairs)).write(["a dog", "hound"], tmp_path / "kept.gz")
    assert pairs_of(tmp_path / "kept.gz") == pairs[:2]


def test_a_table_is_read_once(tmp_path, cache, monkeypatch):
    path = table(tmp_path / "table.gz", PAIRS)
    Paraphrases.of(path)
    monkeypatch.setattr(Paraphrases, "read", None)
    Paraphrases.of(path).write(["A dog, who?", "a dog … who", "hound"], tmp_path / "kept.gz")
    assert pairs_of(tmp_path / "kept.gz") == PAIRS[1:]
    assert [each.suffix for each in cache.iterdir()] == [".npz"]


def test_an_index_that_is_damaged_is_made_again_and_another_table_has_another(tmp_path, cache):
    path = table(tmp_path / "table.gz", PAIRS)
    good = Paraphrases.of(path)
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    place = content.index(good.text.tobytes())
    for damaged in (content[:-9], b"", content[:place] + b"x" + content[place + 1 :]):
        kept.write_bytes(damaged)
        assert Paraphrases.of(path).text.tobytes() == good.text.tobytes()
        assert len(kept.read_bytes()) == len(content)
    assert len(Paraphrases.of(table(path, PAIRS[:1])).pairs) == 1
    assert len(list(cache.iterdir())) == 2


def test_an_index_that_cannot_be_kept_is_used_all_the_same(tmp_path, cache):
    cache.write_text("a file where the folder should be")
    assert len(Paraphrases.of(table(tmp_path / "table.gz", PAIRS)).pairs) == len(PAIRS)


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no java on the PATH")
def test_of_what_the_filter_of_meteors_jar_keeps_those_pairs_are_kept_that_are_said_whole(tmp_path):
    """It keeps pairs of which one phrase is said: of 30,000 of METEOR's own, by captions that say some of them."""
    with gzip.open(find_jar("meteor/data/paraphrase-en.gz"), "rt", encoding="utf-8") as file:
        lines = list(islice(file, 90_000))
    with gzip.open(tmp_path / "table.gz", "wt", 1, encoding="utf-8") as part:
        part.writelines(lines)
    plain = re.compile("[a-z]+( [a-z]+)*")
    said = [each.strip() for each in lines[1::3] + lines[2::3] if plain.fullmatch(each.strip())]
    captions = [" ".join(pair) for pair in pairwise(said[::99])]
    Paraphrases.read(tmp_path / "table.gz").write(captions, tmp_path / "ours.gz")
    (tmp_path / "captions").write_text("".join(f"{caption}\n" for caption in captions))
    command = ["java", "-cp", str(find_jar("meteor/meteor-1.5.jar")), "FilterParaphrase"]
    subprocess.run([*command, "table.gz", "theirs.gz", "captions"], cwd=tmp_path, check=True, capture_output=True)
    ours, theirs = pairs_of(tmp_path / "ours.gz"), pairs_of(tmp_path / "theirs.gz")
    spoken = "".join(f" {caption} \n" for caption in captions)
    assert 100 < len(ours) < len(theirs)
    assert ours == [pair for pair in theirs if all(f" {phrase} " in spoken for phrase in pair)]
