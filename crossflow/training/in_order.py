"""Recipes that go on from one another, trained one after the other: the stages of an any-to-any system."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossflow.anytoany.system import system_config
from crossflow.errors import CrossFlowError
from crossflow.files.hashes import file_sha256
from crossflow.files.processes import rank_and_world
from crossflow.files.tensors import read_header
from crossflow.files.writing import replacing
from crossflow.recipes.recipe import TrainConfig
from crossflow.training.train import train


def train_in_order(
    recipes: Mapping[str, TrainConfig],
    out: Path,
    *,
    seed: int = 0,
    init: Path | None = None,
    resume: bool = False,
    **options: Any,
) -> Path:
    """Train ``recipes``, each from the file of the one before, into the folders ``out``/NN-name; returns the last file.

    That is also ``out``/model.safetensors. Stopped anywhere and run again with ``resume``, it ends at the same bits.
    ``init`` is the file of a system that has the parts of the first recipes already, which are left out then: further
    seeds share the codecs and the prompt encoders of the first, variants all that comes before their change.
    ``options`` are those of ``train``. What data are made into lies in ``out``/cache, for all.

    CrossFlowError if ``out`` holds a training and ``resume`` is False, if ``init`` has those parts by another recipe,
    and for what ``train`` refuses.
    """
    folders = {name: stage_folder(recipes, name, out) for name in recipes}
    if not resume and (held := next((folder for folder in folders.values() if folder.exists()), None)):
        raise CrossFlowError(f"{held} is there already: add --resume to go on, or choose another --out.")
    for name, recipe in recipes.items():
        if _is_left_out(name, recipe, init):
            continue
        path = folders[name] / "model.safetensors"
        if not _is_done(recipe, seed, init, folders[name]):
            path = train(recipe, folders[name], seed=seed, init=init, resume=resume, cache=out / "cache", **options)
        init = path
    if init is None or init.parent not in folders.values():
        raise CrossFlowError(f"{init} has all parts of these recipes already: there is nothing left to train.")
    last = out / "model.safetensors"
    if rank_and_world()[0] == 0:
        with replacing(last) as temporary:
            temporary.write_bytes(init.read_bytes())
    return last


def stage_folder(recipes: Mapping[str, TrainConfig], name: str, out: Path) -> Path:
    """Where in ``out`` the stage ``name`` of ``recipes`` is trained."""
    return out / f"{list(recipes).index(name):02d}-{name}"


def is_trained_in_order(recipes: Mapping[str, TrainConfig], out: Path, seed: int, init: Path | None) -> bool:
    """Whether ``train_in_order`` with the same arguments would find nothing left to do in ``out``."""
    for name, recipe in recipes.items():
        if not _is_left_out(name, recipe, init):
            folder = stage_folder(recipes, name, out)
            if not _is_done(recipe, seed, init, folder):
                return False
            init = folder / "model.safetensors"
    return (out / "model.safetensors").exists()


def _is_done(recipe: TrainConfig, seed: int, init: Path | None, folder: Path) -> bool:
    """Whether ``folder`` holds the end of this training and of no other one."""
    state = folder / "state.safetensors"
    if not state.exists():
        return False
    whole = replace(recipe, model=recipe.model.after(init))
    header = read_header(state)
    wanted = (recipe.steps, whole.digest(seed, None if init is None else file_sha256(init)))
    return (header.get("step"), header.get("digest")) == wanted


def _is_left_out(name: str, recipe: TrainConfig, init: Path | None) -> bool:
    """Whether the file ``init`` has the parts of a stage already; CrossFlowError if it has them by another recipe."""
    stage: Any = recipe.model
    if init is None or not stage.is_in(found := system_config(init)):
        return False
    if not stage.is_alike(found):
        raise CrossFlowError(
            f"{init} has the parts of the stage {name} already, of other sizes or settings than this recipe's: give "
            "the file of an earlier stage."
        )
    return True
