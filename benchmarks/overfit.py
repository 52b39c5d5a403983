"""Every task from images learns the few real files there are by heart: ``python -m benchmarks.overfit REAL``.

REAL is a folder with COCO photographs and their captions (``coco_mini``), and pairs of KITTI's and of NYUv2's
(``depth/kitti_demo``, ``depth/nyu_demo``). Links to them are laid out as their data sets are, and the paper's recipes,
at sizes that a CPU core trains in minutes, go all the way: layout, training, checkpoint, sampling. What is made of
each image then stands beside the truth: in numbers in results/benchmarks/overfit.md, and as pictures and captions in
``RUNS/TASK/samples``. These stay there: the files may be looked at, and not given on. The page has the tasks that were
measured in ``--runs``, whichever call did so; a training that is there is not done again.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch

from crossflow.files.depth_maps import measured
from crossflow.files.images import read_depth_png, read_image
from crossflow.modalities.clip_text import CLIPTextConfig, clip_tokens
from crossflow.modalities.depth import DepthConfig
from crossflow.model.crossflow import FlowConfig
from crossflow.networks.transformer import TransformerConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SetData, TrainConfig
from crossflow.sampling.from_image import FromImage
from crossflow.sources.image import ImageEncoderConfig
from crossflow.training.data.set_pairs import first_ends
from crossflow.training.data.sets import LAYOUTS, open_sets
from crossflow.training.data.sets.items import Items, Raw, items_of
from crossflow.training.train import train
from crossflow_eval.environment import hardware

PHOTOGRAPHS, PAIRS = "coco_mini", ("kitti_demo", "nyu_demo")
ROW = "row.md"
NETWORK = TransformerConfig(width=128, depth=4, heads=4)
ENCODER = ImageEncoderConfig(width=128, depth=2, heads=4, patch=8)


@dataclass(frozen=True)
class Task:
    """A recipe, and the ``lay_out`` of the real files for it in an empty folder.

    ``measure`` is of the outputs, of sources and of targets; ``said`` what it is, and ``trivial`` the same of an answer
    that learnt nothing.
    """

    recipe: Callable[[Path], TrainConfig]
    lay_out: Callable[[Path, Path], None]
    said: str
    measure: Callable[[Sequence[Any], Sequence[Any]], float]
    trivial: Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


def _captions(root: Path) -> TrainConfig:
    recipe = CONFIGS["paper-caption-small"]
    texts = [each["sentences"][0]["raw"] for each in json.loads((root / "dataset_coco.json").read_text())["images"]]
    known = tuple(sorted({token for text in texts for token in clip_tokens(text)}))
    target = replace(cast(CLIPTextConfig, recipe.model.target), width=64, depth=1, heads=4, known=known, varied=0.0)
    model = replace(_sized(recipe, (3, 64, 64), (4, 8, 8), 1, ENCODER), target=target)
    return _short(replace(recipe, model=model, data=_cut(recipe, (64, 64))), batch_size=24, steps=250)


def _depth(root: Path) -> TrainConfig:
    """In metres, of both data sets at once: what is measured of KITTI's is up to 80, of NYUv2's up to 10."""
    recipe = CONFIGS["paper-depth-kitti-small"]
    terms = tuple(replace(term, patch=8) if hasattr(term, "patch") else term for term in recipe.model.terms)
    model = _sized(recipe, (3, 48, 64), (1, 48, 64), 8, ENCODER)
    model = replace(model, losses=terms, target=DepthConfig(nearest=0.5, farthest=80.0))
    data = replace(_cut(recipe, (48, 64)), layouts=("pairs",))
    return _short(replace(recipe, model=model, data=data), batch_size=6, steps=600)


def _larger(root: Path) -> TrainConfig:
    recipe = CONFIGS["paper-sr-small"]
    model = _sized(recipe, (3, 16, 16), (3, 64, 64), 8, None)
    return _short(replace(recipe, model=model, data=_cut(recipe, (64, 64))), batch_size=12, steps=200)


def _sized(
    recipe: TrainConfig,
    reads: tuple[int, int, int],
    shape: tuple[int, int, int],
    cells: int,
    source: ImageEncoderConfig | None,
) -> FlowConfig:
    """The model of a recipe with other ends, and a network of the size that scenes have."""
    model = cast(FlowConfig, recipe.model)
    ends: dict[str, Any] = {"reads": replace(model.reads, shape=reads), "shape": shape}
    ends |= {} if source is None else {"source": source}
    return replace(model, backbone=replace(NETWORK, patch=cells), **ends)


def _cut(recipe: TrainConfig, size: tuple[int, int]) -> SetData:
    return replace(cast(SetData, recipe.data), size=size)


def _short(recipe: TrainConfig, batch_size: int, steps: int) -> TrainConfig:
    """The recipe in a few steps at the rate and with the optimiser of scenes."""
    return replace(
        recipe.in_steps(steps),
        batch_size=batch_size,
        optimizer="muon",
        learning_rate=2e-3,
        final_learning_rate=0.02,
        decay="linear",
        warmup=20,
        betas=(0.9, 0.95),
        clip=1.0,
        ema=0.98,
        log_every=10,
        save_every=steps,
        sample_every=steps,
    )


def _as_coco(real: Path, root: Path) -> None:
    """The photographs with their first caption each, for what an image has several of cannot be told by heart."""
    record = json.loads((real / PHOTOGRAPHS / "captions_val2017.json").read_text(encoding="utf-8"))
    first = {each["image_id"]: each["caption"] for each in reversed(record["annotations"])}
    (root / "train2014").symlink_to((real / PHOTOGRAPHS / "val2017").resolve())
    rows = [
        {
            "cocoid": each["id"],
            "filepath": "train2014",
            "filename": each["file_name"],
            "split": "train",
            "sentences": [{"raw": first[each["id"]].strip()}],
        }
        for each in record["images"]
        if (root / "train2014" / each["file_name"]).is_file()
    ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": rows}), encoding="utf-8")


def _as_imagenet(real: Path, root: Path) -> None:
    (root / "n00000000").mkdir()
    for path in sorted((real / PHOTOGRAPHS / "val2017").iterdir()):
        (root / "n00000000" / path.name).symlink_to(path.resolve())


def _as_pairs(real: Path, root: Path) -> None:
    for name in PAIRS:
        (root / name).symlink_to((real / "depth" / name).resolve())


def open_pairs(root: Path) -> Items:
    """Images and depth of ``<name>/rgb`` and ``<name>/depth``, by the scale in ``<name>/test_annotations.json``.

    BTS's lists, which KITTI's and NYUv2's own layouts are read by, have none of these.
    """
    found: list[tuple[Path, Path, float]] = []
    for name in PAIRS:
        for each in json.loads((root / name / "test_annotations.json").read_text())["files"]:
            image, depth = (root / Path(each[kind]).relative_to("data") for kind in ("rgb", "depth"))
            found.append((image, depth, each["depth_scale"]))

    def read(index: int) -> Raw:
        image, depth, scale = found[index]
        return Raw(np.array(read_image(image)), measured(read_depth_png(depth, scale)))

    return items_of("pairs", [str(image.relative_to(root)) for image, *_ in found], read)


LAYOUTS["pairs"] = open_pairs


def _exact(outputs: Sequence[str], targets: Sequence[str]) -> float:
    """CLIP's tokens have no capitals."""
    return 100 * float(np.mean([a.lower() == b.lower() for a, b in zip(outputs, targets, strict=True)]))


def _relative_error(outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> float:
    """AbsRel on the measured pixels, a mean over images."""
    return float(np.mean([np.nanmean(np.abs(a - b) / b) for a, b in zip(outputs, targets, strict=True)]))


def _psnr(outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> float:
    pairs = zip(outputs, targets, strict=True)
    return float(np.mean([10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)) for a, b in pairs]))


def _bicubic(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [
        cv2.resize(source, target.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        for source, target in zip(sources, targets, strict=True)
    ]


TASKS = {
    "caption": Task(_captions, _as_coco, "captions exact, %", _exact, lambda _, targets: [targets[0]] * len(targets)),
    "depth": Task(
        _depth,
        _as_pairs,
        "AbsRel",
        _relative_error,
        lambda _, targets: [np.full_like(each, np.nanmedian(each)) for each in targets],
    ),
    "sr": Task(_larger, _as_imagenet, "PSNR, dB", _psnr, _bicubic),
}


def measure(name: str, real: Path, run: Path) -> None:
    """Train one task into the folder ``run``, where it is not there, and write its row of the table there."""
    task = TASKS[name]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        task.lay_out(real, root)
        recipe = task.recipe(root)
        there = (run / "state.safetensors").exists()
        checkpoint = train(recipe, run, data=root, device="cpu", precision="fp32", resume=there)
        items = open_sets(cast(SetData, recipe.data).layouts, root)
        sources, targets = first_ends(items, recipe, len(items))
    outputs = FromImage.from_checkpoint(checkpoint).generate(sources, range(len(sources)))
    log = [json.loads(each) for each in (run / "log.jsonl").read_text().splitlines()]
    losses = " -> ".join(f"{np.mean([each['total'] for each in part]):.3f}" for part in (log[:1], log[-5:]))
    found, trivial = (task.measure(each, targets) for each in (outputs, task.trivial(sources, targets)))
    cells = (name, str(len(sources)), f"{recipe.steps} of {recipe.batch_size}", losses, task.said)
    (run / ROW).write_text(f"| {' | '.join(cells)} | {found:.3f} | {trivial:.3f} |", encoding="utf-8")


def page(lines: Sequence[str]) -> str:
    """The Markdown page."""
    return "\n".join(
        (
            "# The paper's tasks on a few real files, by heart",
            "",
            "`python -m benchmarks.overfit REAL`: each task of a few real files, from their layout through training",
            f"and checkpoint to samples of what was trained on. {hardware()}, one thread.",
            "",
            "| task | items | steps | loss | measure | by the model | trivial |",
            "|:---|---:|---:|---:|:---|---:|---:|",
            *lines,
            "",
            "The models are the small recipes of the paper's tasks with networks of the size of the scenes', on images",
            "of 64 pixels a side, or 48 x 64. The loss is that of the tenth step, and the mean of the last five that",
            "were logged. Trivial is the same caption for all, the median of each true depth map, and bicubic",
            "enlargement. Depth still has the grain of its source after so few steps. That a model knows what it was",
            "shown says that the parts fit, and nothing of how well it would learn.",
            "",
        )
    )


def main() -> None:
    """Train, measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--runs", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/overfit.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.tasks:
        measure(name, args.real, args.runs / name)
        sys.stderr.write(f"{name}: {time.process_time():.0f} CPU seconds so far\n")
        rows = (args.runs / each / ROW for each in TASKS)
        args.out.write_text(page([row.read_text() for row in rows if row.exists()]), encoding="utf-8")


if __name__ == "__main__":
    main()
