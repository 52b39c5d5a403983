"""What environment vectors tell: nothing at the start, and then who reads whom; files without pairs are refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.any_environments import TIMES, main, measure, report
from crossflow.anytoany.system import AnyToAny, Trained
from crossflow.errors import CrossFlowError
from crossflow.model.checkpoint import save_checkpoint
from crossflow.recipes.anytoany import SMALLEST
from crossflow.scenes.events import event
from crossflow.scenes.sense import value

EVENTS = [event("val", i) for i in range(6)]
NAMES = ("text", "image", "audio")


def smallest(aligned: tuple[str, ...] = NAMES) -> AnyToAny:
    """A system of random networks, whose codecs are fitted."""
    torch.manual_seed(0)
    names = SMALLEST.names
    trained = (Trained(stage="pair", pairs=(("text", "image"),)),)
    config = replace(SMALLEST, coded=names, prompted=names, diffused=names, aligned=aligned, trained=trained)
    system = config.build().eval()
    for weight in system.diffusers.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    for name in NAMES:
        if system.codec(name).fits:
            system.codec(name).fit(torch.from_numpy(np.stack([value(event("train", i), name) for i in range(40)])))
    return system


def test_connections_that_are_not_trained_tell_nothing():
    found = measure(smallest(), EVENTS)
    assert list(found) == [("text", "image"), ("text", "audio"), ("image", "audio")]
    for times in found.values():
        assert tuple(times) == TIMES
        for at in times.values():
            assert all(told.less.mean == told.misled.mean == 0 and told.alone > 0 for told in at.told.values())
            assert 0 <= at.found.mean <= 1


def test_a_connection_that_reads_its_partner_is_told_by_it_alone():
    """Only the image's connections are moved: what it predicts changes with its partner, and nobody else's does."""
    system = smallest()
    for weight in system.connections["image"].parameters():
        torch.nn.init.normal_(weight, std=0.3)
    at = measure(system, EVENTS)["text", "image"][0.3]
    assert at.told["image"].less.mean != 0 and at.told["image"].less.mean != -at.told["image"].misled.mean
    assert at.told["text"].less.mean == at.told["text"].misled.mean == 0


def test_the_page_says_which_pairs_were_trained(tmp_path):
    file, out = tmp_path / "system.safetensors", tmp_path / "page.md"
    save_checkpoint(file, smallest())
    main(file, 4, out)
    text = out.read_text(encoding="utf-8")
    assert "## text and image\n" in text and "## image and audio, never trained together\n" in text
    assert "--n 4`" in text and "25.0 is chance" in text and text.count("| 0.15 |") == 3
    assert report({}, (), 4) == ""


def test_a_system_without_aligned_outputs_is_refused(tmp_path):
    with pytest.raises(CrossFlowError, match="no two modalities that are aligned as outputs: train its pairs"):
        measure(smallest(("image",)), EVENTS)
