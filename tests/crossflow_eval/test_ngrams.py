"""BLEU, CIDEr-D and ROUGE-L against pycocoevalcap's code on the same tokens, and the laws that hold without it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from crossflow_eval.metrics.ngrams import Corpus, bleu, bleu_statistics, cider_d, count_ngrams
from crossflow_eval.metrics.rouge import rouge_l

CAPTION = st.lists(st.sampled_from(["a", "b", "c", "dog", "2\xa01/2", "é", "-lrb-"]), max_size=9).map(" ".join)
IMAGES = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=4)), min_size=1, max_size=8)


def score(captions, references):
    corpus = Corpus.of(captions, references)
    counts = count_ngrams(corpus)
    return bleu_statistics(corpus, counts), cider_d(corpus, counts)


def theirs(scorer, captions, references, **options):
    targets, results = dict(enumerate(references)), {number: [caption] for number, caption in enumerate(captions)}
    return scorer.compute_score(targets, results, **options)


@settings(max_examples=150)
@given(IMAGES)
def test_they_are_pycocoevalcaps_numbers_for_any_tokens(images):
    """Oracle, to 1e-12. With no reference word at all pycocoevalcap's CIDEr-D stops; ours is 0."""
    captions, references = [caption for caption, _ in images], [several for _, several in images]
    statistics, cider = score(captions, references)
    corpus, of_images = theirs(Bleu(4), captions, references, verbose=0)
    assert bleu(statistics.sum(axis=0)) == pytest.approx(corpus, rel=1e-12, abs=1e-15)
    np.testing.assert_allclose(bleu(statistics).T, of_images, rtol=1e-12, atol=1e-15)
    assert rouge_l(captions, references) == pytest.approx(theirs(Rouge(), captions, references)[1], abs=1e-12)
    if any(reference.split() for several in references for reference in several):
        assert cider == pytest.approx(theirs(Cider(), captions, references)[1], abs=1e-12)
    else:
        assert not cider.any()


@given(IMAGES, st.randoms())
def test_the_order_of_images_and_of_references_says_nothing(images, random):
    captions, references = [caption for caption, _ in images], [several for _, several in images]
    order = random.sample(range(len(images)), len(images))
    shuffled = [random.sample(references[k], len(references[k])) for k in order]
    statistics, cider = score(captions, references)
    moved, moved_cider = score([captions[k] for k in order], shuffled)
    assert (moved == statistics[order]).all()
    assert moved_cider == pytest.approx(cider[order], abs=1e-12)
    assert rouge_l([captions[k] for k in order], shuffled) == pytest.approx(rouge_l(captions, references)[order])


def test_a_caption_that_is_its_reference_has_every_score_full():
    captions = ["a red dog runs home", "two cats sleep on it"]
    statistics, cider = score(captions, [[caption] for caption in captions])
    assert bleu(statistics) == pytest.approx(np.ones((2, 4)), abs=1e-8)
    assert cider == pytest.approx([10, 10], abs=1e-12)
    assert rouge_l(captions, [[caption] for caption in captions]) == pytest.approx([1, 1], abs=1e-12)


def test_a_corpus_of_bleu_is_no_mean_of_images():
    """Closed form: 9 of 9 words and 0 of 1 are 9 of 10 together, and one half on average."""
    statistics, _ = score(["a a a a a a a a a", "b"], [["a a a a a a a a a"], ["c"]])
    assert bleu(statistics.sum(axis=0))[0] == pytest.approx(0.9, abs=1e-8)
    assert bleu(statistics)[:, 0].mean() == pytest.approx(0.5, abs=1e-8)


@pytest.mark.parametrize("words", [63, 64, 65, 10_000])
def test_the_longest_common_subsequence_has_no_longest_caption(words):
    """Closed form: two runs of numbers that share all but one at each end; and captions that share none."""
    numbers = list(map(str, range(words + 1)))
    shared = (words - 1) / words
    assert rouge_l([" ".join(numbers[1:])], [[" ".join(numbers[:-1])]]) == pytest.approx([shared], rel=1e-12)
    assert rouge_l([" ".join(numbers)], [["x " * words]]) == [0]


def test_captions_of_10000_words_are_counted():
    long = " ".join(map(str, range(10_000)))
    statistics, cider = score([long, "b"], [[long, "b"], ["b", "c"]])
    assert statistics[0].tolist() == [10_000, 9_999, 9_998, 9_997] * 2 + [10_000]
    assert cider[0] == pytest.approx(5, abs=1e-9)


def test_what_has_no_score_is_refused():
    for captions, references in (([], []), (["a"], [[]])):
        with pytest.raises(ValueError, match="at least one image, and a reference for each"):
            Corpus.of(captions, references)
    with pytest.raises(ValueError):
        Corpus.of(["a", "b"], [["a"]])
    words = np.broadcast_to(np.int64(1 << 62), 10)
    with pytest.raises(ValueError, match="too many to be counted in 64 bits"):
        count_ngrams(Corpus(words, np.array([10]), np.array([0]), np.array([0])))
