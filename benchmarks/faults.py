"""Kills, full disks and damaged files: ``python -m benchmarks.faults``.

Writes results/benchmarks/faults.md. Small runs of everything that writes a folder are killed at random moments, or find
the disk full at a random size of a file (RLIMIT_FSIZE), and are then called again without disturbance: what the folder
holds must be, byte for byte, what an undisturbed run leaves, and the full disk must end in one sentence. Then files of
every kind that is read are altered at random, and must be read or refused in one sentence.

Every trial is a process forked from this one, which has the programs loaded.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from crossflow.errors import CrossFlowError
from crossflow.files.arrays import plain_arrays, read_arrays
from crossflow.files.captions import read_captions
from crossflow.files.depth_maps import read_map
from crossflow.files.images import read_image
from crossflow.files.plain_json import read_json_file
from crossflow.modalities.tokens import TokensConfig
from crossflow.model import authors
from crossflow.model.authors_models import text_to_image
from crossflow.model.checkpoint import convert, describe, load_model, save_checkpoint
from crossflow.model.settings import Sampling
from crossflow.networks.dit import DiTConfig
from crossflow.recipes import CONFIGS
from crossflow.recipes.recipe import SceneData
from crossflow.sampling.samples import draw_into
from crossflow.sampling.text_to_image import TextToImage
from crossflow.sources.released import ReleasedEncoderConfig
from crossflow.training.data.cache import cache
from crossflow.training.data.shards import Shard, Shards
from crossflow.training.train import train
from crossflow_eval import records
from crossflow_eval.environment import environment, hardware
from crossflow_eval.judges.statistics_files import read_samples, read_statistics, write_statistics
from crossflow_eval.models.predictions import read_predictions
from crossflow_eval.request import Request
from crossflow_eval.runs.launch import evaluate
from crossflow_eval.suites.superres import prepare

TINY = replace(
    CONFIGS["scenes-tiny"],
    model=replace(CONFIGS["scenes-tiny"].model, sampling=Sampling(solver="euler", steps=1)),
    data=SceneData(count=64),
    batch_size=8,
    steps=12,
    log_every=1,
    save_every=2,
    sample_every=6,
)
OF_TIME = ("timing.jsonl",)
"""Files that hold wall time, which is not repeated."""
WHOLE, SENTENCE, BROKEN = 0, 2, 1
"""How a trial ends: to its end, in one sentence, or in a traceback."""

Job = Callable[[Path], object]


class Letters:
    """A text embedder of one number a letter, for ``cache``."""

    width = 4

    def embed(self, prompts: Sequence[str], count: int) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([[min(len(prompt), count)] for prompt in prompts])
        return torch.zeros(len(prompts), count, 4), torch.arange(count) < lengths

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt) for prompt in prompts]


class Blocks:
    """An autoencoder of means of blocks, for ``cache``."""

    def moments(self, images: Tensor) -> Tensor:
        means = images.float().movedim(-1, 1).unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2))
        return torch.cat([means, means])[: len(images)]


def released(path: Path) -> None:
    """Write a small checkpoint with the names of the authors' files."""
    model = text_to_image(DiTConfig(width=64, depth=1, heads=4, patch=2), 64, "clip-vit-l14")
    reads, source = (
        TokensConfig(model="clip-vit-l14", count=8, width=64),
        ReleasedEncoderConfig(width=64, depth=1, hidden=64),
    )
    state = replace(model, reads=reads, source=source).build(training=False).state_dict()
    torch.save({authors.released_name(name): part for name, part in state.items()}, path)


def jobs(place: Path) -> dict[str, Job]:
    """What writes folders, each a function of its folder; inputs are made in ``place``."""
    torch.manual_seed(0)
    released(place / "released.pth")
    save_checkpoint(place / "tiny.safetensors", TINY.model.build())
    pipeline = TextToImage.from_checkpoint(place / "tiny.safetensors", batch_size=4)
    prompts = [f"a photo of {number} balls" for number in range(40)]
    random_pixels = np.random.default_rng(0)
    for folder, count, side in (("photos", 24, 40), ("originals", 6, 300)):
        (place / folder).mkdir()
        for number in range(count):
            image = Image.fromarray(random_pixels.integers(0, 256, (side, side, 3), dtype=np.uint8))
            image.save(place / folder / f"{number:02d}.png")
            (place / folder / f"{number:02d}.txt").write_text(f"photo {number % 3}\n")
    shards: dict[str, Any] = {"recipe": {}, "size": 32, "token_count": 8, "per_shard": 3}
    return {
        "train": lambda out: train(TINY, out, resume=True, precision="fp32", device="cpu"),
        "sample": lambda out: draw_into(out, pipeline, iter(prompts), pipeline.defaults),
        "evaluate": lambda out: evaluate(Request(task="depth", limit=4, device="cpu", out=out)),
        "cache": lambda out: cache(place / "photos", None, out, Letters(), Blocks(), **shards),
        "prepare": lambda out: prepare(place / "originals", out),
        "convert": lambda out: convert(place / "released.pth", out / "model.safetensors", 4),
    }


def trial(job: Callable[[], object], before: Callable[[], object] = lambda: None) -> int:
    """Fork a process that runs ``job`` after ``before``; returns its id. It exits with WHOLE, SENTENCE or BROKEN."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    code = BROKEN
    try:
        with redirect_stderr(io.StringIO()):
            before()
            job()
        code = WHOLE
    except CrossFlowError as error:
        code = BROKEN if "\n" in str(error) else SENTENCE
    except BaseException:  # whatever else ends a program is what is looked for here
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(process: int) -> int | None:
    """How a trial ended; None where it was killed."""
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None


def content(folder: Path) -> dict[str, bytes]:
    """What a folder holds, but for hidden files and wall time."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in OF_TIME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name[0] != "."}


def compared(job: Job, out: Path, whole: Mapping[str, bytes], found: Counter[str]) -> None:
    """Call ``job`` again in ``out`` and count what is lost, what differs, and a call that does not end well."""
    if ended(trial(partial(job, out))) != WHOLE:
        found["refused"] += 1
    now = content(out)
    found["lost"] += len(whole.keys() - now.keys())
    found["differed"] += sum(now[name] != whole[name] for name in whole.keys() & now.keys())
    found["left over"] += len(now.keys() - whole.keys())
    shutil.rmtree(out)


def kill(job: Job, out: Path, whole: Mapping[str, bytes], after: float, found: Counter[str]) -> None:
    """Kill ``job`` ``after`` seconds."""
    process = trial(partial(job, out))
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    found["stopped" if (code := ended(process)) is None else "ended before"] += 1
    found["tracebacks"] += code == BROKEN
    out.mkdir(exist_ok=True)
    compared(job, out, whole, found)


def fill(job: Job, out: Path, whole: Mapping[str, bytes], most: int, found: Counter[str]) -> None:
    """Let no file of ``job`` grow beyond ``most`` bytes, as on a disk that is full."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    code = ended(trial(partial(job, out), limit))
    found["stopped" if code == SENTENCE else "ended before"] += 1
    found["tracebacks"] += code not in (WHOLE, SENTENCE)
    out.mkdir(exist_ok=True)
    compared(job, out, whole, found)


def disturbed(place: Path, kills: int, disks: int, chance: random.Random) -> list[str]:
    """The lines of the first table."""
    known = jobs(place)
    found: dict[str, Counter[str]] = {name: Counter() for name in known}
    wholes: dict[str, tuple[float, dict[str, bytes]]] = {}
    for name, job in known.items():
        start = time.monotonic()
        if ended(trial(partial(job, place / name))) != WHOLE:
            raise CrossFlowError(f"{name} does not end well undisturbed.")
        wholes[name] = time.monotonic() - start, content(place / name)
    resumed = [name for name in known if name != "convert"]  # which replaces nothing that is there
    for number in range(kills):
        name = resumed[number % len(resumed)]
        seconds, whole = wholes[name]
        kill(known[name], place / "trial", whole, chance.uniform(0, seconds), found[name])
    for number in range(disks):
        name = list(known)[number % len(known)]
        _, whole = wholes[name]
        fill(known[name], place / "trial", whole, chance.randrange(max(map(len, whole.values()))), found[name])
    columns = ("stopped", "ended before", "lost", "differed", "left over", "refused", "tracebacks")
    return [f"| {name} | " + " | ".join(str(found[name][column]) for column in columns) + " |" for name in known]


def kinds(place: Path) -> dict[str, tuple[bytes, str, Callable[[Path], object]]]:
    """Every kind of file that is read: a good one, the name it has, and its reader."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    made: dict[str, tuple[bytes, str, Callable[[Path], object]]] = {}
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "PPM"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format=kind)
        made[f"{kind} image"] = stream.getvalue(), "a.png", read_image
    pairs = [{"image": "a.png", "caption": "a café"}, {"image": "b.png", "caption": "two, or more"}]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    answers = [{"image_id": 7, "caption": "a cat"}, {"image_id": 8, "caption": "a dog"}]

    def read_all(path: Path) -> None:
        list(read_captions(path))

    made["captions, CSV"] = b'image,caption\na.png,"a, b"\nb.png,x\n', "c.csv", read_all
    made["captions, JSON lines"] = lines.encode(), "c.jsonl", read_all
    made["captions, COCO"] = json.dumps(coco).encode(), "c.json", read_all
    made["predictions, JSON"] = json.dumps(answers).encode(), "p.json", read_predictions
    made["any JSON"] = json.dumps(coco, indent=1).encode(), "a.json", read_json_file
    depth = np.linspace(1, 9, 12, dtype=np.float32).reshape(3, 4)
    np.save(place / "d.npy", depth)
    np.savez_compressed(place / "d.npz", depth=depth)
    Image.fromarray((depth * 256).astype(np.uint16)).save(place / "d.png")
    for suffix in ("npy", "npz", "png"):
        read = partial(read_map, png_scale=256.0)
        made[f"depth, {suffix}"] = (place / f"d.{suffix}").read_bytes(), f"d.{suffix}", read
    np.save(place / "f.npy", {"mask": np.ones(4, bool), "tokens": depth}, allow_pickle=True)  # pyright: ignore[reportArgumentType]
    made["authors' features"] = (place / "f.npy").read_bytes(), "f.npy", read_arrays
    made["arrays"] = (place / "d.npz").read_bytes(), "a.npz", partial(plain_arrays, what="arrays")
    write_statistics(place / "s.npz", {"pool": (np.zeros(3), np.eye(3))}, {"n": 9, "protocol": {"protocol": "clean"}})
    made["statistics"] = (place / "s.npz").read_bytes(), "s.npz", lambda path: read_statistics(path, "clean")
    np.savez(place / "i.npz", arr_0=pixels[None].repeat(3, 0))

    def read_each(path: Path) -> None:
        for _ in read_samples(path)[1]:
            pass

    made["images of ADM"] = (place / "i.npz").read_bytes(), "i.npz", read_each
    checkpoint = place / "tiny.safetensors"
    made["checkpoint"] = checkpoint.read_bytes(), "m.safetensors", load_model
    small = {"stages.0.input_layer.1.weight": torch.zeros(8, 4, 2, 2), "open_clip.a": torch.ones(3)}
    torch.save(small, place / "r.pth")
    save_file(small, place / "r.safetensors")
    made["released, pickle"] = (place / "r.pth").read_bytes(), "r.pth", describe
    made["released, safetensors"] = (place / "r.safetensors").read_bytes(), "r.safetensors", describe
    shards = place / "cache"

    def read_items(path: Path) -> None:
        shard = Shard(path)
        for row in range(min(shard.count, 9)):
            shard.item(row)

    made["shard"] = (shards / "shard-00000.safetensors").read_bytes(), "shard-00000.safetensors", read_items
    for name, read_record in (
        (records.SETTINGS, records.read_settings),
        (records.EXAMPLES, records.read_examples),
        (records.MANIFEST, records.read_manifest),
        (records.ROWS, records.read_rows),
        (records.RESULT, records.read_result),
    ):
        made[f"a run's {name}"] = (
            (records.run_in(place / "evaluate") / name).read_bytes(),
            name,
            partial(_read_beside, read_record),
        )
    made["index of shards"] = (shards / "index.json").read_bytes(), "index.json", lambda path: Shards(path.parent)
    return made


def _read_beside(read: Callable[[Path], object], path: Path) -> None:
    read(path.parent)


WORDS = (
    b"NaN",
    b"9" * 5_000,
    b"\\ud83d",
    b"[" * 2_000,
    b"null",
    b"{}",
    b"-1",
    b"\xff\xfe",
    b"\0",
    b"../../x",
    b"1e999",
)
"""What is put into text."""


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file altered at random: cut, with bits turned, a part doubled, lost or set to zero, or a word put in."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.randint(1, max(1, len(data) // 4)))
        match chance.randrange(6):
            case 0:
                del data[at:]
            case 1:
                for place in range(at, min(end, at + 8)):
                    data[place] ^= 1 << chance.randrange(8)
            case 2:
                data[at:at] = data[at:end]
            case 3:
                del data[at:end]
            case 4:
                data[at:end] = bytes(end - at)
            case _:
                data[at:at] = chance.choice(WORDS)
    return bytes(data)


def read_altered(place: Path, count: int, chance: random.Random) -> list[str]:
    """The lines of the second table."""
    lines = []
    for kind, (content, name, read) in kinds(place).items():
        found: Counter[int] = Counter()
        folder = place / "altered"
        for _ in range(count):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / name).write_bytes(mutated(content, chance))
            found[_read(read, folder / name)] += 1
        lines.append(f"| {kind} | {found[WHOLE]} | {found[SENTENCE]} | {found[BROKEN]} |")
    return lines


def _read(read: Callable[[Path], object], path: Path) -> int:
    try:
        read(path)
        return WHOLE
    except CrossFlowError as error:
        return BROKEN if "\n" in str(error) else SENTENCE
    except Exception:  # whatever else comes out of a reader is what is looked for here
        traceback.print_exc()
        return BROKEN


def report(disturbances: Sequence[str], readings: Sequence[str], command: str) -> str:
    """The Markdown page."""
    return "\n".join(
        (
            "# Kills, full disks and damaged files",
            "",
            f"`{command}`; {hardware()}.",
            "",
            "Runs that were stopped, by a kill at a random moment or by a file that could not grow beyond a random",
            "size, and then called again; the files lost, other than those of an undisturbed run, or left over after",
            "that; second calls that did not end well; and tracebacks, where one sentence is due.",
            "",
            "| run | stopped | ended before | lost | differed | left over | refused | tracebacks |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *disturbances,
            "",
            "Altered files that were read all the same, those refused in one sentence, and tracebacks.",
            "",
            "| file | read | refused | tracebacks |",
            "|---|---:|---:|---:|",
            *readings,
            "",
        )
    )


def main() -> None:
    """Disturb, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--disks", type=int, default=20)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/faults.md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(args.seed)
    machine = environment()  # once: the commit is part of a result, and may change while this runs
    with tempfile.TemporaryDirectory() as folder, patch("crossflow_eval.runs.run.environment", lambda: machine):
        disturbances = disturbed(Path(folder), args.kills, args.disks, chance)
        readings = read_altered(Path(folder), args.files, chance)
    options = f"--kills {args.kills} --disks {args.disks} --files {args.files} --seed {args.seed}"
    page = report(disturbances, readings, f"python -m benchmarks.faults {options}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
