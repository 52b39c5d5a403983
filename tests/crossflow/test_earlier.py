"""Files of earlier releases: their configs are today's recipes, and what is damaged is named."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_files import golden_file
from pydantic import TypeAdapter

from crossflow.errors import CrossFlowError
from crossflow.files.folders import shipped
from crossflow.files.tensors import read_header, read_tensors, write_tensors
from crossflow.model.checkpoint import load_model, model_config, save_checkpoint
from crossflow.model.checkpoint import shipped as shipped_weights
from crossflow.model.config import ModelConfig
from crossflow.model.earlier import migrated
from crossflow.recipes import CONFIGS

FIRST: dict[str, dict[str, Any]] = json.loads(golden_file("configs_version_1.json").read_bytes())
"""The model of every recipe there was, as the release before the ends of a flow were objects wrote it."""


@pytest.mark.parametrize("name", FIRST)
def test_every_recipe_of_the_first_version_is_read_and_all_but_one_are_still_the_recipe(name):
    found = TypeAdapter(ModelConfig).validate_python(migrated(FIRST[name], "1"))
    assert (found == CONFIGS[name].model) == (name != "scenes-t2i")


def test_a_file_of_the_first_version_is_read(tmp_path):
    recipe = CONFIGS["scenes-tiny"].model
    save_checkpoint(tmp_path / "today.safetensors", recipe.build())
    header, tensors = read_tensors(tmp_path / "today.safetensors")
    write_tensors(tmp_path / "first.safetensors", tensors, {**header, "version": "1", "config": FIRST["scenes-tiny"]})
    found = load_model(tmp_path / "first.safetensors")
    assert found.config == recipe
    assert all(torch.equal(part, tensors[name]) for name, part in shipped_weights(found).items())


@pytest.mark.parametrize("task", ["t2i", "caption", "depth", "sr"])
def test_what_is_shipped_is_its_recipe_in_half_precision_but_for_the_sampling_chosen_on_validation(task):
    header, recipe = read_header(shipped(task)), CONFIGS[f"scenes-{task}"]
    assert header["stored"] == "float16"
    found = model_config(header, shipped(task))
    assert found == replace(recipe.model, sampling=found.sampling)
    assert task == "t2i" or found.sampling == recipe.model.sampling
    assert header["step"] == recipe.steps


def test_todays_configs_stay_as_they_are():
    assert migrated({"shape": [1, 2, 3]}, "2") == {"shape": [1, 2, 3]}


@pytest.mark.parametrize("change", [{"encoder": ...}, {"backbone": 3}, {"autoencoder": None}, {"image": 5}, {"odd": 1}])
def test_what_is_no_config_of_the_first_version_is_refused(change):
    config = {**FIRST["scenes-t2i"], **change}
    if config["encoder"] is ...:
        del config["encoder"]
    header = {"format": "crossflow", "version": "1", "config": config}
    with pytest.raises(CrossFlowError, match=r"The config in the header of model\.safetensors"):
        model_config(header, "model.safetensors")
