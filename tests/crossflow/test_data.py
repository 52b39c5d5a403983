"""Shares are read ahead and change nothing by it; numbers for generators differ with every part."""

import itertools
import threading
from dataclasses import replace

import pytest
import torch

from crossflow.errors import CrossFlowError
from crossflow.flow.losses import draw
from crossflow.recipes import CONFIGS
from crossflow.training.data.pairs import read_ahead, seed_of, shares
from crossflow.training.data.scenes import TextPairs

TINY = replace(CONFIGS["scenes-tiny"], steps=3, batch_size=6, accumulate=2)


@pytest.fixture
def pairs() -> TextPairs:
    torch.manual_seed(0)
    mask = torch.ones(4, 16, dtype=torch.bool)
    targets, captions, tokens = torch.randn(9, 48, 4, 4), torch.randint(4, (9, 2)), torch.randn(4, 16, 384).half()
    return TextPairs("text", "image", targets, captions, tokens, mask, columns=lambda step: torch.arange(2))


def test_the_next_value_is_made_while_one_is_used():
    made = [threading.Event() for _ in range(3)]

    def values():
        for number, event in enumerate(made):
            event.set()
            yield number

    ahead = read_ahead(values())
    assert next(ahead) == 0
    assert made[1].wait(10), "nobody asked for the second yet"
    assert not made[2].is_set()
    assert list(ahead) == [1, 2]


def test_an_error_comes_where_its_value_would():
    def values():
        yield 1
        raise CrossFlowError("The second is damaged.")

    ahead = read_ahead(values())
    assert next(ahead) == 1
    with pytest.raises(CrossFlowError, match="second"):
        next(ahead)


def test_a_step_is_drawn_from_its_number(pairs):
    """By hand: items, then draws, from one generator for each step; a run may begin with any of them."""
    found = list(shares(pairs, TINY, seed=5))
    for step in range(3):
        generator = torch.Generator().manual_seed(seed_of(5, step))
        picks = pairs.pick(step, 6, generator)
        draws = draw(6, (48, 4, 4), TINY.model.guidance.null_rate, generator)
        for part in range(2):
            start, batch, mine = found[2 * step + part]
            assert start == 3 * part
            assert torch.equal(batch["image"].values, pairs.targets[picks[start : start + 3, 0]])
            assert torch.equal(mine.noise, draws.noise[start : start + 3])
    later = list(shares(pairs, TINY, seed=5, first=2))
    assert len(later) == 2
    assert torch.equal(later[0].draws.noise, found[4].draws.noise)


def test_seeds_differ_with_every_part():
    parts = [*itertools.product(range(4), range(4)), (1,), (1, "epoch", 1), (1, "dropout", 1), (11,), (1, 1, 1)]
    assert len({seed_of(*each) for each in parts}) == len(parts)
    assert all(0 <= seed_of(*each) < 2**63 for each in parts)
