"""BLEU and CIDEr-D of tokenised captions, from one sort of the n-grams of each order.

The numbers are those of coco-caption (pycocoevalcap 1.2), in float64: BLEU of K. Papineni et al., 2002, with the
closest reference length; CIDEr-D of R. Vedantam, C. Zitnick and D. Parikh, 2015, with document frequencies from the
references that are scored. A caption's words are what ``str.split`` makes of its tokens joined by blanks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np

ORDERS = 4
"""Both scores look at n-grams of 1 to 4 words."""
SIGMA = 6.0
"""Width of CIDEr-D's penalty of length differences, in bigrams."""
_TINY, _SMALL = 1e-15, 1e-9
"""What coco-caption adds to numerators and denominators of BLEU, so that nothing is divided by zero."""


@dataclass(frozen=True)
class Corpus:
    """The captions of n images, flat; an image's captions lie together, its candidate first, then its references.

    ``words`` int64 [tokens] are word numbers; ``lengths`` [captions] is in words; ``image`` [captions] is the image of
    each caption; ``candidates`` [n] are the places of the candidates among the captions.
    """

    words: np.ndarray
    lengths: np.ndarray
    image: np.ndarray
    candidates: np.ndarray

    @staticmethod
    def of(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> Corpus:
        """Number the words of one candidate and of one or more references an image. Raises ValueError for none."""
        if not candidates or not all(references):
            raise ValueError("BLEU and CIDEr-D need at least one image, and a reference for each")
        captions = [
            caption.split()
            for candidate, several in zip(candidates, references, strict=True)
            for caption in (candidate, *several)
        ]
        number: defaultdict[str, int] = defaultdict(count().__next__)
        words = np.fromiter(map(number.__getitem__, chain.from_iterable(captions)), np.int64)
        sizes = np.fromiter(map(len, references), np.int64) + 1
        return Corpus(
            words=words,
            lengths=np.fromiter(map(len, captions), np.int64),
            image=np.repeat(np.arange(len(sizes)), sizes),
            candidates=np.cumsum(sizes) - sizes,
        )


@dataclass(frozen=True)
class Counts:
    """How often each n-gram of one order occurs in each caption: entries [e], sorted by n-gram, then caption.

    An entry stands ``times`` in its ``caption``. Entries of one n-gram and one image are a group: ``group`` [e] is its
    number, ``starts`` [groups] its first entry, ``gram`` [groups] the number of its n-gram.
    """

    caption: np.ndarray
    times: np.ndarray
    group: np.ndarray
    starts: np.ndarray
    gram: np.ndarray


def count_ngrams(corpus: Corpus) -> list[Counts]:
    """Count the n-grams of 1 to ``ORDERS`` words. Raises ValueError for a corpus of several million captions.

    An n-gram is known by the number of its first n - 1 words and by its last word. Both are packed into one integer
    with its place in the corpus, so that one sort gathers equal n-grams and keeps the captions in order within them.
    """
    size, vocabulary = len(corpus.words), int(corpus.words.max(initial=0)) + 1
    bits = size.bit_length()
    if 2 * bits + vocabulary.bit_length() > 63:
        raise ValueError(f"{size} words, {vocabulary} of them different, are too many to be counted in 64 bits")
    return list(_orders(corpus, size, vocabulary, bits))


def _orders(corpus: Corpus, size: int, vocabulary: int, bits: int) -> Iterator[Counts]:
    caption_at = np.repeat(np.arange(len(corpus.lengths)), corpus.lengths)
    end_at = np.repeat(np.cumsum(corpus.lengths), corpus.lengths)
    places = np.arange(size)
    known = np.zeros(size, np.int64)
    for order in range(1, ORDERS + 1):
        places = places[places + order <= end_at[places]]
        key = known[places] * vocabulary + corpus.words[places + order - 1] << bits | places
        key.sort()
        place, value = key & (1 << bits) - 1, key >> bits
        caption = caption_at[place]
        image = corpus.image[caption]
        new_gram = np.diff(value, prepend=-1) != 0
        new_group = new_gram | (np.diff(image, prepend=-1) != 0)
        first = np.flatnonzero(new_group | (np.diff(caption, prepend=-1) != 0))
        number = np.cumsum(new_gram) - 1
        known[place] = number
        starts = np.flatnonzero(new_group[first])
        yield Counts(
            caption=caption[first],
            times=np.diff(first, append=len(key)),
            group=np.cumsum(new_group[first]) - 1,
            starts=starts,
            gram=number[first][starts],
        )


def bleu_statistics(corpus: Corpus, counts: Sequence[Counts]) -> np.ndarray:
    """What BLEU is computed from, int64 [n 9]: matches of orders 1 to 4, n-grams of 1 to 4, closest reference length.

    Sums of rows are the statistics of sets of images. Of two reference lengths equally close the shorter one counts.
    """
    n = len(corpus.candidates)
    is_candidate = _is_candidate(corpus)
    lengths = corpus.lengths[corpus.candidates]
    columns = []
    for each in counts:
        own = is_candidate[each.caption]
        most = np.maximum.reduceat(np.where(own, 0, each.times), each.starts) if len(each.starts) else each.starts
        matched = np.minimum(each.times[own], most[each.group[own]])
        columns.append(np.bincount(corpus.image[each.caption[own]], matched, n))
    columns += [np.maximum(lengths - order, 0) for order in range(ORDERS)]
    base = int(corpus.lengths.max()) + 1
    distance = abs(corpus.lengths - lengths[corpus.image]) * base + corpus.lengths
    distance[corpus.candidates] = base**2
    closest = np.minimum.reduceat(distance, corpus.candidates) % base
    return np.stack([*columns, closest], axis=1).astype(np.int64)


def bleu(statistics: np.ndarray) -> np.ndarray:
    """BLEU-1 to BLEU-4, float64 [... 4] in [0, 1], from statistics or sums of them [... 9].

    BLEU-k is the geometric mean of the precisions of orders 1 to k, times exp(1 - r / c) where the candidates' length c
    is below the references' r. For a set of images it is computed from the sums: it is no mean over images.
    """
    matched, total = statistics[..., :ORDERS], statistics[..., ORDERS : 2 * ORDERS]
    product = np.cumprod((matched + _TINY) / (total + _SMALL), axis=-1)
    ratio = (total[..., :1] + _TINY) / (statistics[..., -1:] + _SMALL)
    return product ** (1 / np.arange(1, ORDERS + 1)) * np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)


def cider_d(corpus: Corpus, counts: Sequence[Counts]) -> np.ndarray:
    """CIDEr-D of each image, float64 [n] in [0, 10].

    With tf-idf vectors g of the n-grams of one order, idf = log n - log (images with the n-gram in a reference), it is
    10 times the mean over orders and references s of  min(g(c), g(s)) . g(s) / (|g(c)| |g(s)|) exp(-d^2 / (2 sigma^2)),
    d the difference of the two captions' lengths in bigrams.
    """
    n, captions = len(corpus.candidates), len(corpus.lengths)
    is_candidate = _is_candidate(corpus)
    candidate_of = corpus.candidates[corpus.image]
    similarity = np.zeros(captions)
    for each in counts:
        own, groups = is_candidate[each.caption], len(each.starts)
        referenced = np.zeros(groups, bool)
        referenced[each.group[~own]] = True
        images_with = np.bincount(each.gram, referenced)
        weight = each.times * (np.log(n) - np.log(np.maximum(images_with, 1)))[each.gram[each.group]]
        norm = np.sqrt(np.bincount(each.caption, weight**2, captions))
        of_candidate = np.zeros(groups)
        of_candidate[each.group[own]] = weight[own]
        product = np.bincount(each.caption, np.minimum(weight, of_candidate[each.group]) * weight, captions)
        scale = norm * norm[candidate_of]
        similarity += np.divide(product, scale, out=np.zeros(captions), where=scale > 0)
    bigrams = np.maximum(corpus.lengths - 1, 0)
    similarity *= np.exp(-((bigrams - bigrams[candidate_of]) ** 2) / (2 * SIGMA**2))
    references = ~is_candidate
    total = np.bincount(corpus.image[references], similarity[references], n)
    return 10 * total / ORDERS / np.bincount(corpus.image[references], minlength=n)


def _is_candidate(corpus: Corpus) -> np.ndarray:
    """Which captions are candidates: bool [captions]."""
    found = np.zeros(len(corpus.lengths), bool)
    found[corpus.candidates] = True
    return found
