"""The search for the recipe that binds: ``python -m benchmarks.search TRIAL... --runs FOLDER``.

A trial is a base recipe with one change. Each is trained into its own folder under ``--runs``, taken up where it was
stopped, and measured on the validation split alone; results/scenes/search.md and search.json are written anew from
every trial that has been measured there. Without names nothing is trained and the pages are written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossflow.files.tensors import read_header
from crossflow.flow.guidance import Indicator
from crossflow.losses import KL, Contrast
from crossflow.modalities.patch_pca import PatchPCAConfig
from crossflow.modalities.tokens import TokensConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.model.settings import Sampling
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.sampling.text_to_image import TextToImage
from crossflow.sources.variational import VariationalConfig
from crossflow.training.train import train
from crossflow_eval.environment import hardware

SCALES = (1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Trial:
    """``change`` says in words how ``recipe`` differs from that of the trial ``of``."""

    of: str
    change: str
    recipe: TrainConfig


def _start() -> TrainConfig:
    """Where the search starts: targets predicted, position embeddings of the scale of the content, prompts that bind."""
    model = FlowConfig(
        shape=(48, 4, 4),
        reads=TokensConfig(),
        source=VariationalConfig(width=128, depth=1, heads=4, ordered=True),
        target=PatchPCAConfig(patch=8, components=48, sd=0.35),
        backbone=TransformerConfig(width=128, depth=4, heads=4, summaries=4, positions="unit"),
        losses=(KL(weight=1e-2), Contrast(weight=0.1, hard_negatives=True, positions="unit")),
        guidance=Indicator(null_rate=0.1),
        parameterisation="target",
        sampling=Sampling(solver="midpoint", steps=16, guidance_scale=2.0),
    )
    data = SceneData(count=60_000, negatives=1, retold=True)
    return TrainConfig(model=model, data=data, steps=3_000, optimizer="muon", precision="bf16")


START = _start()
TRIALS: Mapping[str, Trial] = {
    "start": Trial("", "targets predicted, unit positions, order of words, retold prompts, one hard negative", START),
}
