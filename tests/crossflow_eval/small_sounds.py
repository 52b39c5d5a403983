"""Sounds of integers, in files of every form, and narrow networks with the random weights of the golden file."""

import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from golden_files import golden_file
from numpy._core import multiarray
from safetensors.torch import load_file
from scipy.io import wavfile
from scipy.signal import get_window
from torchaudio.functional import melscale_fbanks

COUNT = 12
FORMS = ((16_000, 1, "i2"), (44_100, 2, "i2"), (32_000, 1, "f4"), (48_000, 2, "i4"), (16_000, 2, "u1"))
"""Rates, channels and samples, in turn."""


def sound(number: int, generated: bool) -> tuple[int, np.ndarray]:
    """Square waves under noise: its rate, and samples [n channels]."""
    random = np.random.RandomState(1000 * generated + number)
    rate, channels, form = FORMS[number % 5]
    time = np.arange(rate * (20, 24, 13, 31)[number % 4] // 10)
    columns = []
    for _ in range(channels):
        wave = random.randint(-1, 2, len(time)) * random.randint(1, 60)
        for _ in range(3):
            wave = wave + random.randint(0, 20) * (2 * (time * random.randint(80, 5000) * 2 // rate % 2) - 1)
        columns.append(wave + random.randint(0, 5))
    small = np.stack(columns, axis=1)
    if form == "u1":
        return rate, (small.clip(-128, 127) + 128).astype(np.uint8)
    if form == "f4":
        return rate, (small / 128).astype(np.float32)
    limits = np.iinfo(form)
    return rate, (small * (limits.max // 128)).clip(limits.min, limits.max).astype(form)


def write_sounds(folder: Path, *, generated: bool, name: str = "clip{:02d}.wav") -> list[Path]:
    """The twelve sounds of one kind."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name.format(number) for number in range(COUNT)]
    for number, path in enumerate(paths):
        wavfile.write(path, *sound(number, generated))
    return paths


def weights(part: str) -> dict[str, torch.Tensor]:
    """The tensors of the golden file under ``part``."""
    found = load_file(golden_file("audioldm_small.safetensors"))
    return {name.removeprefix(f"{part}."): each for name, each in found.items() if name.startswith(f"{part}.")}


def write_panns(path: Path) -> Path:
    """A narrow CNN14 in the published form, which holds arrays of an older numpy beside its tensors."""
    window = get_window("hann", 512)
    angles = 2 * np.pi * np.outer(np.arange(257), np.arange(512)) / 512
    state = weights("panns")
    for name, wave in {"conv_real": np.cos(angles), "conv_imag": -np.sin(angles)}.items():
        kernel = torch.from_numpy((wave * window).astype(np.float32))
        state[f"spectrogram_extractor.stft.{name}.weight"] = kernel[:, None]
    state["logmel_extractor.melW"] = melscale_fbanks(257, 50.0, 8000.0, 64, 16_000, norm="slaney", mel_scale="slaney")
    with (
        warnings.catch_warnings(),
        patch.object(vars(multiarray)["_reconstruct"], "__module__", "numpy.core.multiarray"),
    ):
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.save({"model": state, "iteration": 3, "sampler": {"indexes": np.arange(4)}}, path)
    return path


def write_vggish(path: Path) -> Path:
    """A narrow VGGish in torchvggish's form."""
    torch.save(weights("vggish"), path)
    return path
