"""What ``benchmarks.gpu`` measures: a function a part, which yields its rows as soon as they are known.

On a CPU every part is small: it shows that the part runs, and its numbers mean nothing.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch import distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.nn.parallel import DistributedDataParallel

from benchmarks import plain_fid, sampling, training
from benchmarks.inception import random_state, write_images
from benchmarks.plain import matmul_rate, measured, seconds_of
from crossflow.errors import Stopped
from crossflow.files.progress import At
from crossflow.files.tensors import read_tensors
from crossflow.modalities.text_embedders import EMBEDDERS
from crossflow.model.crossflow import CrossFlow, FlowConfig
from crossflow.model.settings import Sampling
from crossflow.networks.dimr import DiMRConfig, Stage
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import TrainConfig
from crossflow.sampling.from_image import FromImage
from crossflow.sampling.sampler import Sampler
from crossflow.scenes.render import render
from crossflow.scenes.splits import example
from crossflow.training.data.pairs import seed_of
from crossflow.training.train import STEPS, train
from crossflow_eval.judges.features import CHUNK, extract
from crossflow_eval.judges.inception import InceptionFeatures, Weights
from crossflow_eval.metrics.pictures import open_pictures

Cell = str | float | bool | None
Row = dict[str, Cell]
GIB = 2**30
HALF = torch.bfloat16
LARGE, SMALL = "t2i-256px-clip-dimr-image-features", "paper-70m-image-features"
DEPTH_MODEL = Path(__file__).parents[1] / "crossflow/weights/scenes-depth.safetensors"


TRIAL = DiMRConfig(
    stages=(
        Stage(block="transformer", width=64, hidden=128, depth=3, heads=2, patch=2),
        Stage(block="convnext", width=32, hidden=64, depth=1, patch=1),
    )
)
"""The network of a trial on a CPU."""


@cache
def peak(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP a second, measured once."""
    return matmul_rate(dtype, device, None if device.type == "cuda" else 512)


def check(device: torch.device) -> Iterator[Row]:
    """A product of matrices against the CPU's in float64; then the peaks."""
    a, b = torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ b.double()
    found = (a.to(device) @ b.to(device)).cpu().double()
    yield {"what": "product of matrices, relative difference", "value": relative(found, exact)}
    for dtype in (HALF, torch.float32):
        yield {"what": f"peak in {str(dtype)[6:]}, TFLOP/s", "value": peak(dtype, device) / 1e12}
    if device.type == "cuda":
        yield {"what": "memory, GiB", "value": torch.cuda.get_device_properties(device).total_memory / GIB}
    yield {"what": "CPU cores", "value": float(os.cpu_count() or 1)}


def sample(device: torch.device, compiled: bool = False) -> Iterator[Row]:
    """DiMR-256 with guidance, ours against the official sampler; differences are of two latents, to plain float32."""
    batch, steps, rounds = (20, 50, 2) if device.type == "cuda" else (1, 1, 1)
    torch.manual_seed(0)
    config = sampling.architecture(device) if device.type == "cuda" else TRIAL
    network = sampling.network_of(config, device)
    x0 = torch.randn(batch, *sampling.SHAPE, device=device)
    ways = sampling.ways(network, steps, HALF if compiled else None)
    exact = ways[sampling.EXACT].make()(x0[:2])
    ours = "ours, bfloat16, blocks compiled" if compiled else "ours, bfloat16"
    compared = {name: ways[name] for name in (sampling.OFFICIAL, ours)}
    official = 0.0
    for name, each in measured(partial(sampling.carried, x0=x0, rounds=rounds), compared, device):
        official = official or each.seconds
        rate = 2 * steps * sampling.counted(config)[1] * batch / each.seconds
        yield {
            "path": name,
            "images/s": batch / each.seconds,
            "times faster": official / each.seconds,
            "share of the peak": rate / peak(HALF, device),
            "PSNR, dB": sampling.difference(each.latents[:2], exact)[1],
            "peak memory, GiB": gib(each.memory),
        }


def step(device: torch.device, name: str, pairs: int, pixels: bool = False, compiled: bool = False) -> Iterator[Row]:
    """A training step of a recipe, ours against the official one, which with ``pixels`` trains an image tower along."""
    recipe = CONFIGS[name] if device.type == "cuda" else training.reduced(CONFIGS[name], TRIAL, side=8)
    count, rounds = (pairs, 5) if device.type == "cuda" else (2, 1)
    official = training.Side(partial(training.plain_step, autocast=True, pixels=pixels), HALF)
    ours = training.Side(partial(training.our_step, autocast=True, compiled=compiled), HALF)
    compared = {
        training.OFFICIAL + (", with its image tower" if pixels else ""): official,
        "ours, autocast to bfloat16" + (", blocks compiled" if compiled else ""): ours,
    }
    first = 0.0
    work = 3 * training.forward_flops(cast(FlowConfig, recipe.model)) * count
    compare = partial(training.stepped, recipe=recipe, count=count, rounds=rounds, seed=0, device=device)
    for side, each in measured(compare, compared, device):
        first = first or each.seconds
        same_work = not (pixels and side.startswith(training.OFFICIAL))
        yield {
            "step": side,
            "pairs/s": count / each.seconds,
            "times faster": first / each.seconds,
            "share of the peak": work / each.seconds / peak(HALF, device) if same_work else None,
            "loss": each.loss,
            "peak memory, GiB": gib(each.memory),
        }


def fid(device: torch.device) -> Iterator[Row]:
    """From PNG files to Inception features on random weights; files are read as ``crossflow-eval fid`` does."""
    count, workers = (2000, min(plain_fid.WORKERS, os.cpu_count() or 1)) if device.type == "cuda" else (1, 0)
    state = random_state(0)
    weights = Weights(state, "random", "0" * 64)
    by_clean_fid = plain_fid.features(state, device, workers)
    judges = {
        f"ours, {name}": InceptionFeatures(weights, "clean", precision=name, device=str(device))
        for name in ("float32", "bfloat16")
    }
    with tempfile.TemporaryDirectory() as scratch:
        few, all_ = Path(scratch, "few"), Path(scratch, "all")
        paths = png_files(few, min(count, 50)), png_files(all_, count)
        works = {
            "clean-fid's way": [partial(by_clean_fid, each) for each in paths],
            **{name: [partial(of_folder, judge, each) for each in (few, all_)] for name, judge in judges.items()},
        }
        first: tuple[float, np.ndarray] | None = None
        for name, (warm_up, work) in works.items():
            warm_up()
            found: list[np.ndarray] = []
            spent = seconds_of(lambda work=work, found=found: found.append(work()), device)
            first = first or (spent, found[0])
            yield {
                "way": name,
                "images/s": count / spent,
                "times faster": first[0] / spent,
                "relative difference": relative(torch.from_numpy(found[0]), torch.from_numpy(first[1])),
            }


def png_files(folder: Path, count: int) -> list[Path]:
    """PNG files of 256 x 256; from the fiftieth on they repeat, since only their decoding takes time."""
    folder.mkdir()
    paths = write_images(folder, min(count, 50), 256, np.random.default_rng(0))
    for number in range(len(paths), count):
        paths.append(folder / f"{number:04}.png")
        shutil.copyfile(paths[number % 50], paths[-1])
    return paths


def of_folder(judge: InceptionFeatures, folder: Path) -> np.ndarray:
    """The features of a folder of images, float32 [n 2048]."""
    images = open_pictures(folder).each()
    return np.concatenate([extract(judge, each) for each in iter(lambda: list(islice(images, CHUNK)), [])])


def equality(device: torch.device) -> Iterator[Row]:
    """This device against the CPU, on reduced networks: relative differences in float32, PSNR in bfloat16."""
    with exact_float32():
        yield from _sampled_alike(device)
        yield from _trained_alike(device)
        pictures = [np.array(render(example("val", index).scene, 256)) for index in range(2)]
        judge = Weights(random_state(0), "random", "0" * 64)
        seen = [InceptionFeatures(judge, "clean", device=each)(pictures) for each in (str(device), "cpu")]
        yield close("Inception features", *map(torch.from_numpy, seen))
        images = [render(example("val", index).scene) for index in range(4)]
        maps = [
            FromImage.from_checkpoint(DEPTH_MODEL, each).generate(images, range(4)) for each in (str(device), "cpu")
        ]
        yield close("depth of the shipped model", *(torch.from_numpy(np.stack(each)) for each in maps))


def small(device: torch.device) -> DiMRConfig:
    """The network that both compute."""
    return sampling.REDUCED if device.type == "cuda" else TRIAL


def _sampled_alike(device: torch.device) -> Iterator[Row]:
    torch.manual_seed(0)
    network = sampling.network_of(small(device), torch.device("cpu"))
    settings = Sampling(
        solver="euler_official", steps=10 if device.type == "cuda" else 1, guidance_scale=sampling.SCALE
    )
    x0 = torch.randn(2, *sampling.SHAPE)
    there = copy.deepcopy(network).to(device)
    exact = Sampler(network, settings)(x0)
    half = Sampler(there, settings, dtype=HALF)(x0.to(device)).cpu()
    yield close("sampled latents", Sampler(there, settings)(x0.to(device)).cpu(), exact)
    decibels = sampling.difference(half, exact)[1]
    yield {"what": "sampled latents in bfloat16, dB", "found": decibels, "asked": "at least 40", "met": decibels >= 40}


def _trained_alike(device: torch.device) -> Iterator[Row]:
    """Loss and gradients of one step, without dropout, whose random numbers are the device's own."""
    side = 32 if device.type == "cuda" else 8
    config = cast(FlowConfig, training.reduced(CONFIGS[LARGE], small(device), side).model)
    torch.manual_seed(0)
    model = CrossFlow(config).eval()
    there = copy.deepcopy(model).to(device)
    totals = [total_of(each, config, place) for each, place in ((there, device), (model, torch.device("cpu")))]
    yield close("loss of a training step", *(total.cpu() for total in totals))
    yield close("gradients of a training step", gradients(there), gradients(model))


def nccl(device: torch.device) -> Iterator[Row]:
    """One process by itself: a sum, and a training step through DistributedDataParallel, against one without."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    config = cast(FlowConfig, CONFIGS["t2i-tiny"].model)
    torch.manual_seed(0)
    alone = CrossFlow(config).eval().to(device)
    together = copy.deepcopy(alone)
    total_of(alone, config, device)
    dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    try:
        numbers = torch.arange(1000.0, device=device)
        dist.all_reduce(numbers)
        yield close(f"a sum by {backend}", numbers.cpu(), torch.arange(1000.0))
        total_of(DistributedDataParallel(together), config, device)
        yield close(f"gradients through {backend}", gradients(together), gradients(alone))
    finally:
        dist.destroy_process_group()


def resume(device: torch.device) -> Iterator[Row]:
    """A training repeated, and one that is stopped by Ctrl-C and resumed, against one that is not."""
    recipe = CONFIGS["scenes-depth"]
    quick = replace(recipe.model, sampling=Sampling(solver="euler", steps=1, guidance_scale=1.0))
    few = replace(recipe, model=quick, data=replace(recipe.data, count=64), batch_size=16, steps=6, save_every=6)
    with tempfile.TemporaryDirectory() as scratch:
        whole, again, stopped = (Path(scratch, name) for name in ("whole", "again", "stopped"))
        for folder in (whole, again):
            trained(few, folder, device)
        with suppress(Stopped):
            trained(few, stopped, device, stop_at_three)
        trained(few, stopped, device, resumed=True)
        for name, folder in (("repeated", again), ("stopped and resumed", stopped)):
            states = [read_tensors(each / "state.safetensors")[1] for each in (folder, whole)]
            same = all(torch.equal(part, states[1][key]) for key, part in states[0].items())
            flat = [torch.cat([part.double().flatten() for _, part in sorted(each.items())]) for each in states]
            yield {"training": name, "same bits": same, "relative difference": relative(*flat)}


def stop_at_three(number: int) -> None:
    """Ctrl-C after the third step; the training ends after the fourth."""
    if number == 3:
        signal.raise_signal(signal.SIGINT)


def scenes(device: torch.device) -> Iterator[Row]:
    """Steps a second of shipped recipes, trained as ``crossflow train`` does: on two cores, then on the device.

    The text encoder, whose tokens are computed once, before training, is replaced by a random vector a word.
    """
    EMBEDDERS["random-words"] = lambda source, device: RandomWords()
    text = CONFIGS["scenes-t2i"]
    text = replace(text, model=replace(text.model, reads=replace(text.model.reads, model="random-words")))
    for name, recipe in {"scenes-t2i": text, "scenes-depth": CONFIGS["scenes-depth"]}.items():
        two_cores = 0.0
        for place in dict.fromkeys((torch.device("cpu"), device)):
            rate, loss = steps_a_second(recipe, place)
            two_cores = two_cores or rate
            yield {
                "recipe": name,
                "on": "two cores" if place.type == "cpu" else "the GPU",
                "steps/s": rate,
                "times two cores": rate / two_cores,
                "loss": loss,
            }


class RandomWords:
    """A text embedder: to each word its vector, as good as any."""

    width = 384

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        tokens, mask = torch.zeros(len(prompts), count, self.width), torch.zeros(len(prompts), count, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            for place, word in enumerate(prompt.split()[:count]):
                tokens[row, place] = torch.randn(self.width, generator=torch.Generator().manual_seed(seed_of(word)))
                mask[row, place] = True
        return tokens, mask

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt.split()) for prompt in prompts]


def steps_a_second(recipe: TrainConfig, device: torch.device) -> tuple[float, float]:
    """Of a training, past its first steps and before its last one, which saves; and its last loss."""
    on_gpu = device.type == "cuda"
    first, steps = (20, 320) if on_gpu else (1, 5)
    quick = replace(recipe.model, sampling=replace(recipe.model.sampling, solver="euler", steps=1))
    data = replace(recipe.data, count=2000 if on_gpu else 64)
    short = replace(recipe, model=quick, data=data, steps=steps, save_every=steps, sample_every=steps)
    times: dict[int, float] = {}

    def at(number: int) -> None:
        if number in (first, steps - 1):
            if on_gpu:
                torch.cuda.synchronize(device)
            times[number] = perf_counter()

    threads = torch.get_num_threads()
    torch.set_num_threads(threads if on_gpu else 2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trained(short, Path(folder), device, at)
            last = json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])
    finally:
        torch.set_num_threads(threads)
    return (steps - 1 - first) / (times[steps - 1] - times[first]), float(last["total"])


def trained(
    recipe: TrainConfig,
    out: Path,
    device: torch.device,
    at: Callable[[int], None] = lambda number: None,
    resumed: bool = False,
) -> None:
    """A whole training; ``at`` is told every step. The device may be another one than that of the training before."""
    AcceleratorState._reset_state(reset_partial_state=True)

    @contextmanager
    def stage(name: str, unit: str) -> Iterator[At]:
        yield lambda done, total, there=0: at(done) if (name, unit) == STEPS else None

    train(recipe, out, resume=resumed, device=device.type, stage=stage)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def total_of(model: nn.Module, config: FlowConfig, device: torch.device) -> Tensor:
    """The loss of a batch, whose gradients the model's weights get."""
    total = model(*training.batch_of(config, 2, 0, device))["total"]
    total.backward()
    return total.detach()


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([part.grad.cpu().flatten() for part in model.parameters() if part.grad is not None])


def close(what: str, found: Tensor, exact: Tensor) -> Row:
    """A row of ``equality``."""
    error = relative(found, exact)
    return {"what": what, "found": error, "asked": "at most 1e-4", "met": error <= 1e-4}


def relative(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact|."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def gib(count: int | None) -> float | None:
    return None if count is None else count / GIB
