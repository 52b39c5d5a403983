"""Recipes of ``crossflow`` on a little data: ``shrink`` them here, or run this file in place of ``crossflow``."""

import sys
from dataclasses import replace

from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData


def shrink(name: str) -> None:
    """Let the recipe ``name`` be trained on 64 scenes, four a step, in this process."""
    config = CONFIGS[name]
    assert isinstance(config.data, SceneData)
    CONFIGS[name] = replace(config, data=replace(config.data, count=64), batch_size=4)


if __name__ == "__main__":
    from crossflow.cli import app

    shrink(sys.argv[2])
    app()
