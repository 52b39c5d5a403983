"""METEOR's table of paraphrases keeps every pair that can match, and those alone."""

import gzip

from hypothesis import given
from hypothesis import strategies as st

from crossflow_eval.judges import paraphrases
from crossflow_eval.judges.java import find_jar
from crossflow_eval.judges.paraphrases import LONGEST, keep_pairs, phrases_in

WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=LONGEST).map(" ".join)


@given(st.lists(WORDS, max_size=4), st.lists(st.tuples(WORDS, WORDS), max_size=8), st.integers(1, 60))
def test_a_pair_stays_if_both_phrases_are_said_whatever_the_size_of_the_blocks(tmp_path_factory, said, pairs, block):
    place = tmp_path_factory.mktemp("table")
    lines = [f"0.5\n{first}\n{second}\n" for first, second in pairs]
    with gzip.open(place / "table.gz", "wt") as table:
        table.writelines(lines)
    before, paraphrases._BLOCK = paraphrases._BLOCK, block
    try:
        keep_pairs(place / "table.gz", phrases_in(said), place / "kept.gz")
    finally:
        paraphrases._BLOCK = before
    expected = [
        line
        for line, pair in zip(lines, pairs, strict=True)
        if all(any(f" {phrase} " in f" {caption} " for caption in said) for phrase in pair)
    ]
    with gzip.open(place / "kept.gz", "rt") as kept:
        assert kept.read() == "".join(expected)


def test_no_phrase_of_the_table_is_longer_than_is_looked_for():
    """The first million lines of it."""
    with gzip.open(find_jar("meteor/data/paraphrase-en.gz")) as table:
        words = [len(next(table).split()) for _ in range(1_000_000)]
    assert max(words) <= LONGEST
