"""What a change of structure must leave alone, to the bit: ``python -m benchmarks.same_bits``.

Written to results/same_bits.json, one line a thing, each a sha256 or a number: 50 outputs of each shipped model but
that of any to any, the values that ``make demo`` prints of them, weights and losses after one training step of every
small recipe, names and shapes of all weights of the larger ones, and what the released files in tests/golden give. The
rows of the ablations, each one thing away from these recipes, are left out. The hashes of outputs and of training steps
are those of one kind of machine, which the file names. ``--check`` measures again, writes nothing, names what differs
and ends with 1 where anything does.
"""

import argparse
import hashlib
import json
import lzma
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from crossflow.files.tensors import read_tensors
from crossflow.model.checkpoint import load_checkpoint
from crossflow.recipes import CONFIGS
from crossflow.recipes.ablations import ABLATIONS
from crossflow.recipes.recipe import SceneData, TrainConfig
from crossflow.sampling.from_image import FromImage
from crossflow.sampling.text_to_image import TextToImage, prompt_seed
from crossflow.scenes.depth import low_res
from crossflow.scenes.render import render
from crossflow.scenes.splits import example
from crossflow.training.data.shards import KeptPair, shard_name, write_index, write_shard
from crossflow.training.train import train
from crossflow_eval.environment import hardware
from crossflow_eval.runs.launch import Request, evaluate

PAGE = Path("results/same_bits.json")
GOLDEN = Path("tests/golden")
WEIGHTS = Path("crossflow/weights")
COUNT = 50
"""Outputs of each shipped model."""
RECIPES = {name: recipe for name, recipe in CONFIGS.items() if name not in ABLATIONS}
"""The recipes that are checked."""
LIMIT = 250
"""Examples of each task that ``make demo`` measures."""
SCENES = 256
"""Training scenes of a recipe that is taken for one step."""


def digest(parts: Iterable[bytes]) -> str:
    """The sha256 of the parts one after the other, 16 hexadecimal digits of it."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()[:16]


def of_tensors(tensors: Iterable[Tensor]) -> str:
    """The hash of types, shapes and numbers, whatever their names and order."""
    flat = ((f"{part.dtype} {list(part.shape)} ".encode(), part.detach().reshape(-1).contiguous()) for part in tensors)
    return digest(sorted(digest([head, part.view(torch.uint8).numpy().tobytes()]).encode() for head, part in flat))


def of_outputs(outputs: Iterable[np.ndarray | str]) -> str:
    """The hash of images, depth maps or captions."""
    return digest(each.encode() if isinstance(each, str) else each.tobytes() for each in outputs)


def shipped() -> Iterator[tuple[str, Any]]:
    """The outputs of the four shipped models on the first examples of the validation split."""
    examples = [example("val", index) for index in range(COUNT)]
    prompts = [each.captions[0] for each in examples]
    pipeline = TextToImage.from_checkpoint(WEIGHTS / "scenes-t2i.safetensors")
    yield "shipped t2i", of_outputs(pipeline.generate(prompts, [prompt_seed(0, prompt) for prompt in prompts]))
    for task in ("caption", "depth", "sr"):
        sources = [low_res(each.scene, 64)[0] if task == "sr" else render(each.scene) for each in examples]
        model = FromImage.from_checkpoint(WEIGHTS / f"scenes-{task}.safetensors")
        yield f"shipped {task}", of_outputs(model.generate(sources, range(COUNT)))


def demo(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every value that ``make demo`` prints of these models."""
    for task in ("t2i", "caption", "depth", "sr"):
        result, _ = evaluate(Request(task=task, limit=LIMIT, out=folder / task))
        for name, value in (result.values if result is not None else {}).items():
            yield f"demo {task} {name}", value.mean


def steps(folder: Path) -> Iterator[tuple[str, Any]]:
    """The state and the losses after one step of every recipe of the scenes, and of ``t2i-tiny``."""
    pairs = drawn_pairs(folder / "pairs")
    for name, recipe in RECIPES.items():
        small = isinstance(recipe.data, SceneData)
        if not small and name != "t2i-tiny":
            continue
        one = replace(recipe, steps=1, stages=(), keep_at=(), log_every=1, save_every=1, sample_every=2)
        if small:
            one = replace(one, data=replace(recipe.data, count=SCENES))
        yield f"step {name}", after_one_step(one, folder / name, None if small else pairs)


def after_one_step(recipe: TrainConfig, out: Path, pairs: Path | None) -> str:
    """The hash of the losses and of all that a resumed run would read."""
    train(recipe, out, data=pairs, precision="fp32", device="cpu")
    log = json.loads((out / "log.jsonl").read_text())
    losses = {name: log[name] for name in ("total", "flow")}
    state = read_tensors(out / "state.safetensors")[1]
    return digest([json.dumps(losses).encode(), of_tensors(state.values()).encode()])


def drawn_pairs(folder: Path) -> Path:
    """Shards of sixteen pairs of random numbers, of the sizes of ``t2i-tiny``."""
    model, generator = CONFIGS["t2i-tiny"].model, torch.Generator().manual_seed(0)
    tokens = model.reads.shape
    mask = torch.arange(tokens[0]) < 9
    items = [
        KeptPair(
            torch.randn(2 * model.shape[0], *model.shape[1:], generator=generator),
            torch.randn(*tokens, generator=generator),
            mask,
            f"caption {index}",
            image=torch.randint(0, 256, (32, 32, 3), generator=generator).to(torch.uint8),
        )
        for index in range(16)
    ]
    write_shard(folder / shard_name(0), items, {"skipped": []})
    write_index(folder, 1, {}, "0")
    return folder


def weights() -> Iterator[tuple[str, Any]]:
    """Names and shapes of the weights that are shipped of every recipe, and how many numbers training adds."""
    for name, recipe in RECIPES.items():
        with torch.device("meta"):
            kept, whole = (recipe.model.build(training=each).state_dict() for each in (False, True))
        lines = [f"{weight} {part.dtype} {list(part.shape)}".encode() for weight, part in sorted(kept.items())]
        shipped, all_ = (sum(part.numel() for part in state.values()) for state in (kept, whole))
        yield f"weights {name}", f"{digest(lines)}, {shipped} numbers, {all_ - shipped} in training only"


def golden(scratch: Path) -> Iterator[tuple[str, Any]]:
    """What the released files give: source, velocities and ten guided steps."""
    for name in ("dimr_small", "dit_small"):
        unpacked = scratch / f"{name}.weights.safetensors"
        unpacked.write_bytes(lzma.decompress((GOLDEN / f"{unpacked.name}.xz").read_bytes()))
        model = load_checkpoint(unpacked)
        given = load(lzma.decompress((GOLDEN / f"{name}.tensors.safetensors.xz").read_bytes()))
        with torch.no_grad():
            source = model.encoder(given["ve.text"], given["ve.mask"].bool()).sample(
                given["ve.noise"].view(-1, 4, 32, 32)
            )
            seen = model.backbone.velocities(given["velocity.x"], given["velocity.t"], ~given["velocity.unconditional"])
            drawn = model.sample(given["sample.z0"], solver="euler_official", steps=10, guidance_scale=7.0)
        parts = {"source": source, "drawn": drawn, **{f"velocity {i}": each for i, each in enumerate(seen)}}
        yield f"golden {name}", of_tensors(parts.values())


def measure() -> dict[str, Any]:
    """Everything, in one thread, so that sums are taken in one order."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": f"{hardware()}, one thread, torch {torch.__version__}"}
    with tempfile.TemporaryDirectory() as scratch:
        parts: tuple[Callable[[], Iterator[tuple[str, Any]]], ...] = (
            weights,
            lambda: golden(Path(scratch)),
            shipped,
            lambda: steps(Path(scratch) / "steps"),
            lambda: demo(Path(scratch) / "demo"),
        )
        for part in parts:
            for name, value in part():
                print(f"{name}: {value}", file=sys.stderr)
                found[name] = value
    return found


def main() -> None:
    """Measure; write the page, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed page, and write nothing")
    given = parser.parse_args()
    found = measure()
    if not given.check:
        PAGE.write_text(json.dumps(found, indent=1) + "\n")
        return
    there = json.loads(PAGE.read_text())
    differing = [name for name in there | found if there.get(name) != found.get(name)]
    for name in differing:
        print(f"{name}: {there.get(name)} there, {found.get(name)} now")
    print(f"{len(found) - len(differing)} of {len(found)} are the same.")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
