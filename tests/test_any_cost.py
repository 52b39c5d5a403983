"""What a system costs: objectives, parameters, minutes, and evaluations that are counted while a sample is made."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.any_cost import SORTS, WAYS, counting, minutes, objectives, parameters, report
from crossflow.anytoany.system import Trained
from crossflow.errors import CrossFlowError
from crossflow.sampling.any_to_any import AnyToAnySampler
from tests.crossflow.tiny_systems import RAW, tiny_system


def test_five_modalities_take_thirteen_objectives_and_flows_of_all_pairs_twenty():
    assert list(objectives(5).values()) == [13, 20, 10, 4, 5, 961]
    grown = [objectives(n) for n in (4, 5, 6)]
    linear, square = list(grown[0])[:2]
    assert grown[2][linear] - grown[1][linear] == grown[1][linear] - grown[0][linear]
    assert grown[2][square] - grown[1][square] > grown[1][square] - grown[0][square]


def test_a_system_is_the_sum_of_its_parts():
    system = tiny_system()
    found = parameters(system)
    assert "diffusers" not in found["video"] and "environments" not in found["text"]
    learned = sum(weight.numel() for weight in system.parameters())
    assert learned <= sum(n for of in found.values() for n in of.values()) < 1.5 * learned


def test_a_midpoint_step_with_guidance_takes_four_evaluations_of_each_output_and_one_v_a_half():
    sampler = AnyToAnySampler(tiny_system(), precision="float32")
    item = {"image": [np.zeros(RAW["image"], np.uint8)]}
    found = {}
    for context in ("none", "others"):
        with counting(sampler.system) as found[context]:
            sampler.generate([item], ("image", "audio"), [0], steps=3, context=context)
    euler, guided = 3, 2
    assert found["none"] == {"networks": 2 * euler * guided}
    assert found["others"] == {"networks": 2 * euler * guided, "environments": 2 * euler * guided}
    with counting(sampler.system) as after:
        pass
    sampler.generate([item], ("image",), [0])
    assert not after, "nothing is counted outside"


def test_minutes_are_those_of_every_training_in_the_folders(tmp_path):
    for name, seconds in (("00-codecs", (30, 60)), ("01-prompts", (90,))):
        lines = [
            {"from": 5 * i, "to": 5 * i + 5, "seconds": 1.0, "cpu_seconds": each} for i, each in enumerate(seconds)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {name.removeprefix(f"{tmp_path.name}/"): each for name, each in minutes([tmp_path]).items()}
    assert found == {"00-codecs": (10, 1.5), "01-prompts": (5, 1.5)}
    assert minutes([]) == {}
    with pytest.raises(CrossFlowError, match=r"no timing\.jsonl"):
        minutes([tmp_path / "none"])


def test_the_page_names_every_objective_that_was_trained():
    trained = tuple(Trained(stage=stage, pairs=(("text", "image"),)) for stage in SORTS)
    config = replace(tiny_system().config, trained=trained)
    asked = {"text → image": dict.fromkeys(WAYS)}
    asked["text → image"]["others"] = Counter(networks=40, environments=20)
    page = report(config, {"text": {"codecs": 1500}}, {"00-codecs": (10, 1.5)}, asked, ["made so"])
    assert all(f"| {says} | 1 | text-image |" in page for says in SORTS.values())
    assert "| text | 1.5 | 1.5 |" in page and "| 00-codecs | 10 | 1.5 |" in page and "| 40 + 20 |" in page
    assert "1 of the 6 pairs of 4 modalities" in page and "—" in page
